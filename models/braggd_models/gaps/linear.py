"""The best linear guess of a gap, learnt in closed form from simulated crystals.

For a gap of given width, log counts in it are predicted linearly from the CONTEXT voxels on either side of the line
and of its eight neighbour lines in the gap's plane, less what linear interpolation along the line says. How much noise
the voxels hold depends on their level, so there is one set of weights for each of LEVELS, blended in between: a
regression with triangular weights around each level, ridge-regularised. It costs seconds where gradient descent takes
hours, and a network has only to learn what is not linear.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from braggd.inference.slabs import CONTEXT
from braggd_models.gaps.samples import Sample, crystal, sample

LEVELS = (0.0, 1.0, 2.0, 3.5, 5.0, 6.5, 8.0, 10.0, 12.0)
WIDTHS = (*range(2, 15), 16, 18, 20, 23, 26, 30, 34, 38, 40)
"""Widths with weights of their own; a gap of another width is widened to the next."""

FEATURES = 2 * CONTEXT * 9
_PER_SLAB = 1500
_RIDGE = 2e-4

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def widened(width: int) -> int:
    """The least of WIDTHS that is not below a width."""
    found: int = min(known for known in WIDTHS if known >= width)
    return found


def shares(level: Floats) -> Floats:
    """How much each of LEVELS counts at a level; (len(LEVELS), ...) for level (...), adds to 1."""
    knots = np.asarray(LEVELS, np.float32)
    return np.stack([np.interp(level, knots, np.eye(len(knots))[k]).astype(np.float32) for k in range(len(knots))])


def neighbourhoods(lines: Floats) -> Floats:
    """(FEATURES, u, v): each context voxel of the line itself and its neighbours, in the order of a 3 x 3 kernel."""
    values = np.pad(lines[: 2 * CONTEXT], ((0, 0), (1, 1), (1, 1)), mode="edge")
    windows = sliding_window_view(values, (3, 3), axis=(1, 2))
    return np.ascontiguousarray(windows.transpose(0, 3, 4, 1, 2)).reshape(FEATURES, *lines.shape[1:])


def straight(lines: Floats, width: int) -> Floats:
    """Linear interpolation along the lines across a gap, less the level; (width, u, v)."""
    share = (np.arange(1, width + 1, dtype=np.float32) / (width + 1))[:, None, None]
    return np.asarray(lines[0] * (1 - share) + lines[CONTEXT] * share, np.float32)


@dataclass(slots=True, eq=False)
class Moments:
    """Sums over samples, from which the regression of every width is solved."""

    within: dict[int, Doubles] = field(default_factory=dict)
    across: dict[int, Doubles] = field(default_factory=dict)

    def add(self, one: Sample, rng: np.random.Generator) -> None:
        """Take in some of the lines of a sample."""
        width, count = one.width, one.truth[0].size
        chosen = rng.choice(count, min(count, _PER_SLAB), replace=False)
        features = _with_one(neighbourhoods(one.lines).reshape(FEATURES, -1)[:, chosen])
        level = one.lines[-1].ravel()[chosen]
        wanted = (one.truth - one.lines[-1] - straight(one.lines, width)).reshape(width, -1)[:, chosen]
        size = FEATURES + 1
        within = self.within.setdefault(width, np.zeros((len(LEVELS), size, size)))
        across = self.across.setdefault(width, np.zeros((len(LEVELS), size, width)))
        for number, share in enumerate(shares(level)):
            heard = np.flatnonzero(share)
            if heard.size:
                weighted = features[:, heard] * share[heard]
                within[number] += weighted @ features[:, heard].T
                across[number] += weighted @ wanted[:, heard].T

    def solved(self) -> dict[int, Floats]:
        """Weights by width, (len(LEVELS), FEATURES + 1, width); the last feature is the constant 1."""
        found = {}
        for width, within in self.within.items():
            count = within[:, -1, -1][:, None, None]
            # levels that were hardly seen lean on all levels together
            within = within + within.sum(axis=0) / within[:, -1, -1].sum() * 200
            across = self.across[width] + self.across[width].sum(axis=0) / count.sum() * 200
            ridge = (_RIDGE * (count + 200) + 1e-6) * np.eye(FEATURES + 1)
            found[width] = np.linalg.solve(within + ridge, across).astype(np.float32)
        return found


def learn(seed: int, crystals: int, progress: object = None) -> dict[int, Floats]:
    """Weights by width from that many simulated crystals, two gaps of every width in each."""
    moments = Moments()
    for number in range(crystals):
        rng = np.random.default_rng([seed, number])
        made = crystal(rng)
        for width in WIDTHS:
            for _ in range(2):
                one = sample(made, width, rng, plain=True)
                if one is not None and one.width == width:
                    moments.add(one, rng)
        if callable(progress):
            progress(number + 1)
    return moments.solved()


def predict(weights: dict[int, Floats], lines: Floats, width: int) -> Floats:
    """Log counts in a gap, (width, u, v); width: one of WIDTHS."""
    features = _with_one(neighbourhoods(lines).reshape(FEATURES, -1))
    level = lines[-1].ravel()
    correction = np.zeros((width, level.size), np.float32)
    for share, matrix in zip(shares(level), weights[width], strict=True):
        heard = np.flatnonzero(share)
        if heard.size:
            correction[:, heard] += share[heard] * (matrix.T @ features[:, heard])
    return np.asarray(lines[-1] + straight(lines, width) + correction.reshape(width, *lines.shape[1:]), np.float32)


def _with_one(features: Floats) -> Floats:
    return np.concatenate([features, np.ones((1, features.shape[1]), np.float32)])
