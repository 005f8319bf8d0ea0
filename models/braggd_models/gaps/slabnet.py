"""The network that fills gaps of every width with one set of weights, fully convolutionally along the gap's plane.

It chooses between the best linear guesses (`linear`), by log counts and by counts, and adds what is not linear. Its
first layer sees a line across the gap with its 5 x 5 neighbours in the gap's plane, most others act on that line alone;
the gap's width and the line's level open and close their channels. Before the last of them every line is told of its
wide surroundings (`lateral`). Nothing depends on how a gap was cropped (no batch or instance statistics): overlapping
crops that begin at multiples of STRIDE agree exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from braggd.inference.slabs import CHANNELS, CONTEXT, WIDEST
from braggd_models.gaps.lateral import Lateral
from braggd_models.gaps.linear import COUNT_LEVELS, FEATURES, LEVELS, WIDTHS, Guesses

REACH = 2
"""Neighbours on either side that the first layer sees."""

_KERNEL = 2 * REACH + 1
_CONDITIONS = 8
_SPREAD = 1.5
_LEVEL = 3.0
# The guesses may differ by orders of magnitude where one of them makes no sense.
_APART = 3.0
# The guess by counts replaces the network's where both agree within (this / the width)^2, in log counts, and where
# log counts are above some level; chosen on crystals that neither training nor scores see.
_NEARLY, _NEARLY_WITHIN = 3.8, (0.4, 1.6)
_BRIGHT, _BRIGHT_WITHIN = 6.5, 0.4


class SlabNet(nn.Module):
    """What is made of two guesses of log counts, and the logarithm of the standard deviation that is left.

    hidden: channels of the layers that act on lines; blocks: residual pairs of such layers after the first
    lateral: channels of the layers that see the plane, at a half, a quarter and an eighth of its resolution
    An untrained network leaves the guess by log counts nearly as it is.
    """

    def __init__(self, hidden: int = 256, blocks: int = 3, lateral: tuple[int, int, int] = (160, 224, 288)) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, hidden, _KERNEL)
        self.guesses = nn.Conv2d(2 * WIDEST, hidden, 1, bias=False)
        self.inner = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Conv2d(hidden, hidden, 1) for _ in range(blocks))
        self.by_width = nn.Embedding(WIDEST + 1, 2 * hidden * (blocks + 1))
        self.by_level = nn.Conv2d(len(LEVELS), 2 * hidden * (blocks + 1), 1, bias=False)
        self.lateral = Lateral(hidden, _CONDITIONS, lateral)
        self.head = nn.Conv2d(hidden, 6 * WIDEST, 1)
        for layer in (*self.outer, self.head, self.by_level, self.guesses):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.by_width.weight)
        with torch.no_grad():
            bias = torch.zeros(6 * WIDEST)
            bias[4 * WIDEST :] = -3.0
            self.head.bias.copy_(bias)  # type: ignore[union-attr]

    def forward(self, lines: Tensor, width: Tensor, by_logs: Tensor, by_counts: Tensor) -> tuple[Tensor, Tensor]:
        """Two volumes (n, WIDEST, u, v); what lies beyond a gap's width means nothing.

        lines: (n, CHANNELS, u + 2 REACH, v + 2 REACH), u and v multiples of STRIDE; width: (n,) int64
        by_logs, by_counts: guesses of log counts, of the same shape as what is returned
        """
        level = lines[:, -1:]
        seen = torch.cat([lines[:, : 2 * CONTEXT] / _SPREAD, lines[:, 2 * CONTEXT : -1], (level - _LEVEL) / _LEVEL], 1)
        middle = level[:, :, REACH : level.shape[2] - REACH, REACH : level.shape[3] - REACH]
        apart = (by_counts - by_logs).clamp(-_APART, _APART)
        both = torch.cat([apart, apart.gather(1, _mirror(width, apart))], dim=1)
        first = self.first(seen) + self.guesses(both)
        state = self._beyond(first, width, level_shares(middle).to(first.dtype))
        correction, log_sigma, choice = _blended(self.head(_bent(state)), width)
        return by_logs + torch.sigmoid(choice) * apart + correction, log_sigma

    def _beyond(self, first: Tensor, width: Tensor, shares: Tensor) -> Tensor:
        """All layers between the first and the head: those on lines, and before the last pair those in the plane."""
        by_width = self.by_width(width).to(first.dtype)[:, :, None, None].chunk(2 * (len(self.inner) + 1), dim=1)
        by_level = self.by_level.weight.chunk(2 * (len(self.inner) + 1))
        opened = [part + functional.conv2d(shares, weight) for part, weight in zip(by_width, by_level, strict=True)]
        state = _bent(torch.addcmul(first + opened[1], first, opened[0]))
        for number, (inner, outer) in enumerate(zip(self.inner, self.outer, strict=True), 1):
            if number == len(self.inner):
                state = state + self.lateral(state, _conditions(width, state))
            x = inner(state)
            x = torch.addcmul(x + opened[2 * number + 1], x, opened[2 * number])
            state = state + outer(_bent(x))
        return state


class GapFiller(nn.Module):
    """The linear guesses and the network, as the daemon runs them: one gap at a time."""

    def __init__(self, net: SlabNet, guesses: Guesses) -> None:
        super().__init__()
        self.net = net
        widths = torch.arange(WIDEST + 1)
        self.register_buffer("near", ((_NEARLY / widths.clamp(min=1)) ** 2).clamp(*_NEARLY_WITHIN))
        self.register_buffer("logs_matrices", torch.from_numpy(matrices(guesses.logs)))
        self.register_buffer("counts_matrices", torch.from_numpy(matrices(guesses.counts)))
        self.register_buffer("rows", torch.from_numpy(rows()))

    def forward(self, lines: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Log counts in the gap and the logarithm of their standard deviation.

        lines: (1, CHANNELS, u + 2 REACH, v + 2 REACH); width: (1,) int64, one of WIDTHS
        Returns (1, WIDEST, u, v) both; only the first `width` planes mean something.
        """
        by_logs, by_counts = self.guess(lines, width)
        logs, log_sigma = self.net(lines, width, by_logs, by_counts)
        # Where both nearly agree and photons abound, counts are interpolated better than any network paints them.
        apart, near = by_counts - logs, self.near[width[0]]  # type: ignore[index]
        share = torch.exp(-0.5 * (apart / near) ** 2) * torch.sigmoid((logs - _BRIGHT) / _BRIGHT_WITHIN)
        return logs + share * apart, log_sigma

    def guess(self, lines: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """The linear guesses of log counts, by log counts and by counts, (1, WIDEST, u, v) each."""
        row = self.rows[width[0]][: width[0]]  # type: ignore[index]
        inside = lines[:, :, REACH : lines.shape[2] - REACH, REACH : lines.shape[3] - REACH]
        near = lines[:, :, REACH - 1 : lines.shape[2] - REACH + 1, REACH - 1 : lines.shape[3] - REACH + 1]
        context, level = near[:, : 2 * CONTEXT], inside[:, -1:]
        features = _neighbourhoods(context)
        features = torch.cat([features, torch.ones_like(features[:1])])
        by_logs = _applied(self.logs_matrices[row], features, level_shares(level))  # type: ignore[index]
        photons = _neighbourhoods(torch.exp(context + near[:, -1:]) - 1)
        by_counts = _applied(self.counts_matrices[row], photons, level_shares(level, COUNT_LEVELS))  # type: ignore[index]
        plane = torch.arange(1, WIDEST + 1, device=lines.device)
        part = (plane / (width[:, None] + 1)).clamp(max=1)[:, :, None, None].to(lines.dtype)
        straight = inside[:, :1] * (1 - part) + inside[:, CONTEXT : CONTEXT + 1] * part
        return level + straight + by_logs, torch.log1p(by_counts.clamp(min=0))


def rows() -> NDArray[np.int64]:
    """Where `matrices` keeps the planes of a gap, (WIDEST + 1, WIDEST) by width and plane; 0 beyond the width."""
    found = np.zeros((WIDEST + 1, WIDEST), np.int64)
    first = 1
    for width in WIDTHS:
        found[width, :width] = np.arange(first, first + width)
        first += width
    return found


def matrices(weights: Mapping[int, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Linear weights, (row, level, feature), with rows as in `rows`.

    weights: of `Guesses`, (level, feature, width) by width
    """
    found = np.concatenate([weights[width] for width in WIDTHS], axis=2).transpose(2, 0, 1)
    return np.pad(found, ((1, 0), (0, 0), (0, 0)))


def _neighbourhoods(context: Tensor) -> Tensor:
    """(FEATURES, u v) as `linear.neighbourhoods` has them; context: (1, 2 CONTEXT, u + 2, v + 2)."""
    u, v = context.shape[2] - 2, context.shape[3] - 2
    shifted = [context[0, :, i : i + u, j : j + v] for i in range(3) for j in range(3)]
    return torch.stack(shifted, dim=1).reshape(FEATURES, -1)


def _applied(matrix: Tensor, features: Tensor, share: Tensor) -> Tensor:
    """What linear weights make of features, each level with its share; (1, WIDEST, u, v).

    matrix: (width, level, feature); features: (feature, u v); share: (1, level, u, v)
    """
    by_level = matrix.reshape(-1, matrix.shape[2]) @ features
    blended = (by_level.reshape(-1, *share.shape[1:]) * share).sum(dim=1)
    # what a gap has less than WIDEST planes
    return functional.pad(blended, (0, 0, 0, 0, 0, WIDEST - blended.shape[0]))[None]


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


def _conditions(width: Tensor, like: Tensor) -> Tensor:
    """How wide a gap is, as smooth bumps over the logarithm of the width, (n, _CONDITIONS)."""
    at = torch.log2(width.to(like.dtype))[:, None] - torch.linspace(1, 5.3, _CONDITIONS, device=like.device)
    return torch.exp(-((at / 0.7) ** 2)).to(like.dtype)
