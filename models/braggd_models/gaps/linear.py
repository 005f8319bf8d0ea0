"""The best linear guesses of a gap, learnt in closed form from simulated crystals.

For a gap of given width, what lies in it is predicted linearly from the CONTEXT voxels on either side of the line and
of its eight neighbour lines in the gap's plane: log counts, less what linear interpolation along the line says, and
counts themselves, which are band-limited and therefore the better ones to interpolate where there is little noise. How
much there is depends on the line's level, so there is one set of weights for each of several levels, blended in
between: a regression with triangular weights around each level, ridge-regularised. It costs minutes where gradient
descent takes hours, and a network has only to choose between both and to learn what is not linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from braggd.inference.slabs import CONTEXT
from braggd_models.errors import TrainingError
from braggd_models.gaps.samples import Sample, crystal, sample

LEVELS = (0.0, 1.0, 2.0, 3.5, 5.0, 6.5, 8.0, 10.0, 12.0)
COUNT_LEVELS = (1.5, 4.0, 6.5, 9.0, 11.0, 13.0)
WIDTHS = (*range(2, 15), 16, 18, 20, 23, 26, 30, 34, 38, 40)
"""Widths with weights of their own; a gap of another width is widened to the next."""

FEATURES = 2 * CONTEXT * 9
_PER_SLAB = 1500
_RIDGE = 2e-4
_COUNT_RIDGE = 1e-6
# Voxels on either side of a gap whose counts say how bright a line is.
_NEAR = 4

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Guesses:
    """Weights by width.

    logs: (len(LEVELS), FEATURES + 1, width), of log counts; the last feature is the constant 1
    counts: (len(COUNT_LEVELS), FEATURES, width), of counts
    """

    logs: dict[int, Floats]
    counts: dict[int, Floats]

    def save(self, path: Path) -> None:
        """Write FILE.npz."""
        both = {f"logs {w}": m for w, m in self.logs.items()} | {f"counts {w}": m for w, m in self.counts.items()}
        np.savez(path, allow_pickle=False, **both)

    @classmethod
    def load(cls, path: Path) -> Guesses:
        """Read FILE.npz. Raises TrainingError where it cannot be read or lacks a width."""
        try:
            with np.load(path) as file:
                logs, counts = ({w: file[f"{kind} {w}"] for w in WIDTHS} for kind in ("logs", "counts"))
        except (OSError, KeyError, ValueError) as error:
            raise TrainingError(
                f"{path}: holds no linear guesses ({error}); remove it, and they are learnt anew"
            ) from error
        return cls(logs, counts)


def widened(width: int) -> int:
    """The least of WIDTHS that is not below a width."""
    found: int = min(known for known in WIDTHS if known >= width)
    return found


def shares(level: Floats, levels: tuple[float, ...] = LEVELS) -> Floats:
    """How much each of some levels counts at a level; (len(levels), ...) for level (...), adds to 1."""
    knots = np.asarray(levels, np.float32)
    return np.stack([np.interp(level, knots, np.eye(len(knots))[k]).astype(np.float32) for k in range(len(knots))])


def neighbourhoods(lines: Floats) -> Floats:
    """(FEATURES, u, v): each context voxel of the line itself and its neighbours, in the order of a 3 x 3 kernel.

    lines: (2 CONTEXT or more, u, v)
    """
    values = np.pad(lines[: 2 * CONTEXT], ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = sliding_window_view(values, (3, 3), axis=(1, 2))
    return np.ascontiguousarray(windows.transpose(0, 3, 4, 1, 2)).reshape(FEATURES, *lines.shape[1:])


def straight(lines: Floats, width: int) -> Floats:
    """Linear interpolation along the lines across a gap, less the level; (width, u, v)."""
    share = (np.arange(1, width + 1, dtype=np.float32) / (width + 1))[:, None, None]
    return np.asarray(lines[0] * (1 - share) + lines[CONTEXT] * share, np.float32)


def photons(lines: Floats) -> Floats:
    """Counts of the context voxels, (2 CONTEXT, u, v)."""
    return np.asarray(np.expm1(lines[: 2 * CONTEXT] + lines[-1]), np.float32)


@dataclass(slots=True, eq=False)
class Moments:
    """Sums over samples, from which a regression is solved for every width.

    levels: that have weights of their own; ridge: relative to the features' mean square
    """

    levels: tuple[float, ...]
    ridge: float
    within: dict[int, Doubles] = field(default_factory=dict)
    across: dict[int, Doubles] = field(default_factory=dict)

    def add(self, width: int, features: Floats, wanted: Floats, level: Floats) -> None:
        """Take in lines: (features, line), (width, line), (line,)."""
        size, count = len(features), len(self.levels)
        within = self.within.setdefault(width, np.zeros((count, size, size)))
        across = self.across.setdefault(width, np.zeros((count, size, width)))
        for number, share in enumerate(shares(level, self.levels)):
            heard = np.flatnonzero(share)
            if heard.size:
                weighted = features[:, heard] * share[heard]
                within[number] += weighted @ features[:, heard].T
                across[number] += weighted @ wanted[:, heard].T

    def solved(self) -> dict[int, Floats]:
        """Weights by width, (len(levels), features, width)."""
        found = {}
        for width, within in self.within.items():
            # levels that were hardly seen lean a little on all levels together
            together = 1e-3 * within.mean(axis=0), 1e-3 * self.across[width].mean(axis=0)
            size = within.shape[-1]
            ridge = self.ridge * np.trace(within + together[0], axis1=1, axis2=2)[:, None, None] / size + 1e-9
            solved = np.linalg.solve(within + together[0] + ridge * np.eye(size), self.across[width] + together[1])
            found[width] = solved.astype(np.float32)
        return found


def learn(seed: int, crystals: int, progress: Callable[[int], None] | None = None) -> Guesses:
    """Learn both from that many simulated crystals, two gaps of every width in each."""
    logs, counts = Moments(LEVELS, _RIDGE), Moments(COUNT_LEVELS, _COUNT_RIDGE)
    for number in range(crystals):
        rng = np.random.default_rng([seed, number])
        made = crystal(rng, uneven=False)
        for width in WIDTHS:
            for _ in range(2):
                one = sample(made, width, rng, plain=True)
                if one is not None and one.width == width:
                    _take_in(one, logs, counts, rng)
        if progress:
            progress(number + 1)
    return Guesses(logs.solved(), counts.solved())


def _take_in(one: Sample, logs: Moments, counts: Moments, rng: np.random.Generator) -> None:
    width, count = one.width, one.truth[0].size
    chosen = rng.choice(count, min(count, _PER_SLAB), replace=False)
    level = one.lines[-1].ravel()[chosen]
    features = _with_one(neighbourhoods(one.lines).reshape(FEATURES, -1)[:, chosen])
    wanted = (one.truth - one.lines[-1] - straight(one.lines, width)).reshape(width, -1)[:, chosen]
    logs.add(width, features, wanted, level)
    # every line counts alike, however bright it is
    seen = photons(one.lines)
    near = np.concatenate([seen[:_NEAR], seen[CONTEXT : CONTEXT + _NEAR]])
    brightness = np.sqrt((near**2).mean(axis=0) + 1).ravel()[chosen]
    features = neighbourhoods(seen).reshape(FEATURES, -1)[:, chosen] / brightness
    counts.add(width, features, np.expm1(one.truth).reshape(width, -1)[:, chosen] / brightness, level)


def predict(weights: Guesses, lines: Floats, width: int) -> tuple[Floats, Floats]:
    """Log counts in a gap, (width, u, v), guessed from log counts and from counts; width: one of WIDTHS."""
    level, shape = lines[-1].ravel(), (width, *lines.shape[1:])
    features = _with_one(neighbourhoods(lines).reshape(FEATURES, -1))
    by_logs = lines[-1] + straight(lines, width) + _applied(weights.logs[width], features, level, LEVELS).reshape(shape)
    features = neighbourhoods(photons(lines)).reshape(FEATURES, -1)
    by_counts = _applied(weights.counts[width], features, level, COUNT_LEVELS).reshape(shape)
    return np.asarray(by_logs, np.float32), np.log1p(np.maximum(by_counts, 0))


def _applied(weights: Floats, features: Floats, level: Floats, levels: tuple[float, ...]) -> Floats:
    found = np.zeros((weights.shape[-1], level.size), np.float32)
    for share, matrix in zip(shares(level, levels), weights, strict=True):
        heard = np.flatnonzero(share)
        if heard.size:
            found[:, heard] += share[heard] * (matrix.T @ features[:, heard])
    return found


def _with_one(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((1, features.shape[1]), np.float32)])
