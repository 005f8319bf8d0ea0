"""The network that fills gaps of every width with one set of weights, fully convolutionally along the gap's plane.

It chooses between the best linear guesses (`linear`), by log counts and by counts, and adds what is not linear. Its
first layer sees a line across the gap with its 5 x 5 neighbours in the gap's plane, the others act on that line alone;
the gap's width and the line's level open and close their channels. So a line is a sample of its own, and training draws
lines of a thousand gaps at once. Nothing depends on how a gap was cropped (no batch or instance statistics):
overlapping crops agree exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from braggd.inference.slabs import CHANNELS, CONTEXT, WIDEST
from braggd_models.gaps.linear import COUNT_LEVELS, FEATURES, LEVELS, WIDTHS, Guesses, widened

REACH = 2
"""Neighbours on either side that the first layer sees."""

_KERNEL = 2 * REACH + 1
_SPREAD = 1.5
_LEVEL = 3.0
# The guesses may differ by orders of magnitude where one of them makes no sense.
_APART = 3.0
# The guess by counts replaces the network's where both agree within this / the gap's width, in log counts, and where
# log counts are above some level; chosen on held-out crystals and the measured scan.
_NEARLY, _NEARLY_WITHIN = 2.4, (0.2, 0.8)
_BRIGHT, _BRIGHT_WITHIN = 3.5, 0.4


class SlabNet(nn.Module):
    """What is made of two guesses of log counts, and the logarithm of the standard deviation that is left.

    hidden: channels of all layers; blocks: residual pairs of layers after the first
    An untrained network leaves the guess by log counts nearly as it is.
    """

    def __init__(self, hidden: int = 256, blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, hidden, _KERNEL)
        self.guesses = nn.Conv2d(2 * WIDEST, hidden, 1, bias=False)
        self.inner = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(blocks))
        self.by_width = nn.Embedding(WIDEST + 1, 2 * hidden * (blocks + 1))
        self.by_level = nn.Conv2d(len(LEVELS), 2 * hidden * (blocks + 1), 1, bias=False)
        self.head = nn.Conv2d(hidden, 6 * WIDEST, 1)
        for layer in (*self.outer, self.head, self.by_level, self.guesses):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.by_width.weight)
        with torch.no_grad():
            bias = torch.zeros(6 * WIDEST)
            bias[4 * WIDEST :] = -3.0
            self.head.bias.copy_(bias)  # type: ignore[union-attr]

    def forward(self, lines: Tensor, width: Tensor, by_logs: Tensor, by_counts: Tensor) -> tuple[Tensor, Tensor]:
        """Two volumes (n, WIDEST, u - 2 REACH, v - 2 REACH); what lies beyond a gap's width means nothing.

        lines: (n, CHANNELS, u, v); width: (n,) int64
        by_logs, by_counts: guesses of log counts, of the same shape as what is returned
        """
        level = lines[:, -1:]
        seen = torch.cat([lines[:, : 2 * CONTEXT] / _SPREAD, lines[:, 2 * CONTEXT : -1], (level - _LEVEL) / _LEVEL], 1)
        middle = level[:, :, REACH : level.shape[2] - REACH, REACH : level.shape[3] - REACH]
        apart = (by_counts - by_logs).clamp(-_APART, _APART)
        both = torch.cat([apart, apart.gather(1, _mirror(width, apart))], dim=1)
        if seen.shape[2:] == (_KERNEL, _KERNEL):  # single lines: matrix products are faster
            state = functional.linear(seen.flatten(1), self.first.weight.flatten(1), self.first.bias)
            state = state + _mixed(self.guesses, both.flatten(1))
            outputs = self._beyond(state, self.by_width(width), level_shares(middle.flatten(1)))[:, :, None, None]
        else:
            state = self.first(seen) + self.guesses(both)
            outputs = self._beyond(state, self.by_width(width)[:, :, None, None], level_shares(middle))
        correction, log_sigma, choice = _blended(outputs, width)
        return by_logs + torch.sigmoid(choice) * apart + correction, log_sigma

    def _beyond(self, first: Tensor, by_width: Tensor, shares: Tensor) -> Tensor:
        """All layers but the first, on planes or on single lines."""
        opened = (by_width + _mixed(self.by_level, shares)).chunk(2 * (len(self.inner) + 1), dim=1)
        state = _bent(first * (1 + opened[0]) + opened[1])
        for number, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True), 1):
            gated = _mixed(inner, state) * (1 + opened[2 * number]) + opened[2 * number + 1]
            state = state + _mixed(outer, _bent(gated))
        return _mixed(self.head, _bent(state))


class GapFiller(nn.Module):
    """The linear guesses and the network, as the daemon runs them: one gap at a time.

    trusted: width up to which the network is asked; wider gaps get the linear guess by log counts
    """

    def __init__(self, net: SlabNet, guesses: Guesses, trusted: int = WIDEST) -> None:
        super().__init__()
        self.net = net
        widths = torch.arange(WIDEST + 1)
        self.register_buffer("trust", (widths <= trusted).float())
        self.register_buffer("near", (_NEARLY / widths.clamp(min=1)).clamp(*_NEARLY_WITHIN))
        for name, weights, levels in (("logs", guesses.logs, LEVELS), ("counts", guesses.counts, COUNT_LEVELS)):
            kernels, constants = _kernels(weights, len(levels))
            self.register_buffer(f"{name}_kernels", torch.from_numpy(kernels))
            self.register_buffer(f"{name}_constants", torch.from_numpy(constants))
        rows = [WIDTHS.index(widened(max(width, WIDTHS[0]))) for width in range(WIDEST + 1)]
        self.register_buffer("rows", torch.tensor(rows))

    def forward(self, lines: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Log counts in the gap and the logarithm of their standard deviation.

        lines: (1, CHANNELS, u + 2 REACH, v + 2 REACH); width: (1,) int64, one of WIDTHS
        Returns (1, WIDEST, u, v) both; only the first `width` planes mean something.
        """
        by_logs, by_counts = self.guess(lines, width)
        logs, log_sigma = self.net(lines, width, by_logs, by_counts)
        logs = by_logs + self.trust[width[0]] * (logs - by_logs)  # type: ignore[index]
        # Where both nearly agree and photons abound, counts are interpolated better than any network paints them.
        apart, near = by_counts - logs, self.near[width[0]]  # type: ignore[index]
        share = torch.exp(-0.5 * (apart / near) ** 2) * torch.sigmoid((logs - _BRIGHT) / _BRIGHT_WITHIN)
        return logs + share * apart, log_sigma

    def guess(self, lines: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """The linear guesses of log counts, by log counts and by counts, (1, WIDEST, u, v) each."""
        row = self.rows[width[0]]  # type: ignore[index]
        inside = lines[:, :, REACH : lines.shape[2] - REACH, REACH : lines.shape[3] - REACH]
        near = lines[:, :, REACH - 1 : lines.shape[2] - REACH + 1, REACH - 1 : lines.shape[3] - REACH + 1]
        context, level = near[:, : 2 * CONTEXT], inside[:, -1:]
        by_logs = functional.conv2d(context, self.logs_kernels[row], self.logs_constants[row])  # type: ignore[index]
        plane = torch.arange(1, WIDEST + 1, device=lines.device)
        part = (plane / (width[:, None] + 1)).clamp(max=1)[:, :, None, None].to(lines.dtype)
        straight = inside[:, :1] * (1 - part) + inside[:, CONTEXT : CONTEXT + 1] * part
        photons = torch.exp(context + near[:, -1:]) - 1
        by_counts = functional.conv2d(photons, self.counts_kernels[row])  # type: ignore[index]
        counts = _joined(by_counts, level_shares(level, COUNT_LEVELS))
        return level + straight + _joined(by_logs, level_shares(level)), torch.log1p(counts.clamp(min=0))


def _kernels(
    weights: Mapping[int, NDArray[np.float32]], levels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(width, level x plane, context, 3, 3) and the constants, zero where there are none."""
    kernels = np.zeros((len(WIDTHS), levels * WIDEST, 2 * CONTEXT, 3, 3), np.float32)
    constants = np.zeros((len(WIDTHS), levels * WIDEST), np.float32)
    for row, width in enumerate(WIDTHS):
        for number, matrix in enumerate(weights[width]):
            at = number * WIDEST
            kernels[row, at : at + width] = matrix[:FEATURES].T.reshape(width, 2 * CONTEXT, 3, 3)
            if len(matrix) > FEATURES:
                constants[row, at : at + width] = matrix[FEATURES]
    return kernels, constants


def _joined(by_level: Tensor, share: Tensor) -> Tensor:
    """Sum over levels, each with its share; by_level: (1, level x WIDEST, u, v)."""
    parts = by_level.split(WIDEST, dim=1)  # type: ignore[no-untyped-call]
    return torch.stack([part * share[:, number : number + 1] for number, part in enumerate(parts)]).sum(dim=0)


def level_shares(level: Tensor, levels: Sequence[float] = LEVELS) -> Tensor:
    """How much each of some levels counts, (n, len(levels), ...) for level (n, 1, ...); as `linear.shares`."""
    held = level.clamp(levels[0], levels[-1])
    found = []
    for number, knot in enumerate(levels):
        up = (held - levels[number - 1]) / (knot - levels[number - 1]) if number else torch.ones_like(held)
        last = number == len(levels) - 1
        down = torch.ones_like(held) if last else (levels[number + 1] - held) / (levels[number + 1] - knot)
        found.append(torch.minimum(up, down).clamp(0, 1))
    return torch.cat(found, dim=1)


def _blended(outputs: Tensor, width: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Join what is aligned with a gap's lower and with its upper edge, linearly across the gap.

    outputs: (n, 6 WIDEST, u, v): corrections from either edge on, then log standard deviations and choices likewise
    """
    parts = outputs.split(WIDEST, dim=1)  # type: ignore[no-untyped-call]
    plane = torch.arange(WIDEST, device=outputs.device)
    share = ((plane + 0.5) / width[:, None]).clamp(max=1)[:, :, None, None].to(outputs.dtype)
    mirror = _mirror(width, parts[0])
    correction, log_sigma, choice = (
        lower * (1 - share) + upper.gather(1, mirror) * share
        for lower, upper in zip(parts[::2], parts[1::2], strict=True)
    )
    return correction, log_sigma, choice


def _mirror(width: Tensor, like: Tensor) -> Tensor:
    """Indices that turn planes counted from one edge of a gap into those counted from the other."""
    plane = torch.arange(WIDEST, device=width.device)
    return (width[:, None] - 1 - plane).clamp(min=0)[:, :, None, None].expand_as(like)


def _bent(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.1)


def _mixed(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution of kernel 1, also of lines that are in no plane."""
    if x.ndim == 4:
        return torch.as_tensor(layer(x))
    return functional.linear(x, layer.weight.flatten(1), layer.bias)  # type: ignore[arg-type, operator]
