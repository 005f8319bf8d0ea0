"""The network that fills gaps of every width with one set of weights, fully convolutionally along the gap's plane.

It adds to the best linear guess (`linear`) what is not linear. Its first layer sees a line across the gap with its
5 x 5 neighbours in the gap's plane, the others act on that line alone; the gap's width and the line's level open and
close their channels. So a line is a sample of its own, and training draws lines of a thousand gaps at once. Nothing
depends on how a gap was cropped (no batch or instance statistics): overlapping crops agree exactly.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from braggd.inference.slabs import CHANNELS, CONTEXT, WIDEST
from braggd_models.gaps.linear import FEATURES, LEVELS, WIDTHS, widened

REACH = 2
"""Neighbours on either side that the first layer sees."""

_KERNEL = 2 * REACH + 1
_SPREAD = 1.5
_LEVEL = 3.0


class SlabNet(nn.Module):
    """Corrections to the linear guess of log counts, and the logarithm of the standard deviation that is left.

    hidden: channels of all layers; blocks: residual pairs of layers after the first
    The last layer begins at zero: an untrained network leaves the linear guess as it is.
    """

    def __init__(self, hidden: int = 256, blocks: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, hidden, _KERNEL)
        self.inner = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(blocks))
        self.by_width = nn.Embedding(WIDEST + 1, 2 * hidden * (blocks + 1))
        self.by_level = nn.Conv2d(len(LEVELS), 2 * hidden * (blocks + 1), 1, bias=False)
        self.head = nn.Conv2d(hidden, 4 * WIDEST, 1)
        for layer in (*self.outer, self.head, self.by_level):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.by_width.weight)

    def forward(self, lines: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Two volumes (n, WIDEST, u - 2 REACH, v - 2 REACH); what lies beyond a gap's width means nothing.

        lines: (n, CHANNELS, u, v); width: (n,) int64
        """
        level = lines[:, -1:]
        seen = torch.cat([lines[:, : 2 * CONTEXT] / _SPREAD, lines[:, 2 * CONTEXT : -1], (level - _LEVEL) / _LEVEL], 1)
        middle = level[:, :, REACH : level.shape[2] - REACH, REACH : level.shape[3] - REACH]
        if seen.shape[2:] == (_KERNEL, _KERNEL):  # single lines: matrix products are faster
            state = functional.linear(seen.flatten(1), self.first.weight.flatten(1), self.first.bias)
            outputs = self._beyond(state, self.by_width(width), level_shares(middle.flatten(1)))[:, :, None, None]
        else:
            outputs = self._beyond(self.first(seen), self.by_width(width)[:, :, None, None], level_shares(middle))
        return blended(outputs, width)

    def _beyond(self, first: Tensor, by_width: Tensor, shares: Tensor) -> Tensor:
        """All layers but the first, on planes or on single lines."""
        opened = (by_width + _mixed(self.by_level, shares)).chunk(2 * (len(self.inner) + 1), dim=1)
        state = _bent(first * (1 + opened[0]) + opened[1])
        for number, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True), 1):
            gated = _mixed(inner, state) * (1 + opened[2 * number]) + opened[2 * number + 1]
            state = state + _mixed(outer, _bent(gated))
        return _mixed(self.head, _bent(state))


class GapFiller(nn.Module):
    """The linear guess and the network, as the daemon runs them: one gap at a time."""

    def __init__(self, net: SlabNet, weights: Mapping[int, NDArray[np.float32]]) -> None:
        """weights: of `linear.learn`."""
        super().__init__()
        self.net = net
        size = len(LEVELS) * WIDEST
        kernels = np.zeros((len(WIDTHS), size, 2 * CONTEXT, 3, 3), np.float32)
        constants = np.zeros((len(WIDTHS), size), np.float32)
        for row, width in enumerate(WIDTHS):
            for number, matrix in enumerate(weights[width]):
                at = number * WIDEST
                kernels[row, at : at + width] = matrix[:FEATURES].T.reshape(width, 2 * CONTEXT, 3, 3)
                constants[row, at : at + width] = matrix[FEATURES]
        self.register_buffer("kernels", torch.from_numpy(kernels))
        self.register_buffer("constants", torch.from_numpy(constants))
        rows = [WIDTHS.index(widened(max(width, WIDTHS[0]))) for width in range(WIDEST + 1)]
        self.register_buffer("rows", torch.tensor(rows))

    def forward(self, lines: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Log counts in the gap and the logarithm of their standard deviation.

        lines: (1, CHANNELS, u + 2 REACH, v + 2 REACH); width: (1,) int64, one of WIDTHS
        Returns (1, WIDEST, u, v) both; only the first `width` planes mean something.
        """
        correction, log_sigma = self.net(lines, width)
        return self.guess(lines, width) + correction, log_sigma

    def guess(self, lines: Tensor, width: Tensor) -> Tensor:
        """The linear guess alone, (1, WIDEST, u, v)."""
        row = self.rows[width[0]]  # type: ignore[index]
        inside = lines[:, :, REACH : lines.shape[2] - REACH, REACH : lines.shape[3] - REACH]
        near = lines[:, : 2 * CONTEXT, REACH - 1 : lines.shape[2] - REACH + 1, REACH - 1 : lines.shape[3] - REACH + 1]
        by_level = functional.conv2d(near, self.kernels[row], self.constants[row])  # type: ignore[index]
        level = inside[:, -1:]
        share = level_shares(level)
        guess = level
        for number in range(len(LEVELS)):
            guess = guess + share[:, number : number + 1] * by_level[:, number * WIDEST : (number + 1) * WIDEST]
        plane = torch.arange(1, WIDEST + 1, device=lines.device)
        part = (plane / (width[:, None] + 1)).clamp(max=1)[:, :, None, None].to(lines.dtype)
        return guess + inside[:, :1] * (1 - part) + inside[:, CONTEXT : CONTEXT + 1] * part


def level_shares(level: Tensor) -> Tensor:
    """How much each of LEVELS counts, (n, len(LEVELS), ...) for level (n, 1, ...); as `linear.shares`."""
    knots = LEVELS
    held = level.clamp(knots[0], knots[-1])
    found = []
    for number, knot in enumerate(knots):
        up = (held - knots[number - 1]) / (knot - knots[number - 1]) if number else torch.ones_like(held)
        last = number == len(knots) - 1
        down = torch.ones_like(held) if last else (knots[number + 1] - held) / (knots[number + 1] - knot)
        found.append(torch.minimum(up, down).clamp(0, 1))
    return torch.cat(found, dim=1)


def blended(outputs: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Join what is aligned with a gap's lower and with its upper edge, linearly across the gap.

    outputs: (n, 4 WIDEST, u, v): corrections from either edge on, then the log standard deviations likewise
    """
    lower, upper, lower_sigma, upper_sigma = outputs.split(WIDEST, dim=1)  # type: ignore[no-untyped-call]
    plane = torch.arange(WIDEST, device=outputs.device)
    share = ((plane + 0.5) / width[:, None]).clamp(max=1)[:, :, None, None].to(outputs.dtype)
    mirror = (width[:, None] - 1 - plane).clamp(min=0)[:, :, None, None].expand_as(lower)
    return (
        lower * (1 - share) + upper.gather(1, mirror) * share,
        lower_sigma * (1 - share) + upper_sigma.gather(1, mirror) * share,
    )


def _bent(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.1)


def _mixed(layer: nn.Module, x: Tensor) -> Tensor:
    """A convolution of kernel 1, also of lines that are in no plane."""
    if x.ndim == 4:
        return torch.as_tensor(layer(x))
    return functional.linear(x, layer.weight.flatten(1), layer.bias)  # type: ignore[arg-type, operator]
