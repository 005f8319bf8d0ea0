"""Where a volume is bright. Nearly all of a pattern, and of an object's array, is dark, and need not be smoothed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Floats = NDArray[np.float32]
Smoother = Callable[[Floats], Floats]


def smoothed(
    volume: Floats, smoother: Smoother, share: float, reach: Sequence[int]
) -> tuple[tuple[slice, slice, slice], Floats]:
    """A smoothed volume where it is above a share of its maximum: a box that holds all of that, and what is in it.

    volume: (z, y, x), >= 0; smoother: takes weighted means, over so many voxels to either side as `reach` says, and
        repeats what is at the border. Nearly all of a pattern is dark; smoothing it all would take ten times as long.
    """
    peak = np.unravel_index(int(np.argmax(volume)), volume.shape)
    near = tuple(slice(max(0, int(p) - r), int(p) + r + 1) for p, r in zip(peak, reach, strict=True))
    at = tuple(int(p) - edge.start for p, edge in zip(peak, near, strict=True))
    # a mean is above that only where one of its voxels is
    bright = volume > share * smoother(volume[near])[at]
    edges = []
    for axis, (n, r) in enumerate(zip(volume.shape, reach, strict=True)):
        lit = np.flatnonzero(bright.any(axis=tuple(a for a in range(3) if a != axis)))
        first, last = (int(lit[0]), int(lit[-1])) if lit.size else (0, n - 1)
        edges.append(slice(max(0, first - 2 * r), min(n, last + 2 * r + 1)))
    box = edges[0], edges[1], edges[2]
    return box, np.asarray(smoother(volume[box]), np.float32)


def gaussian(sigma: Sequence[float]) -> tuple[Smoother, tuple[int, ...]]:
    """A smoother by a Gaussian for `smoothed`, and its reach."""
    reach = tuple(int(4 * s + 0.5) for s in sigma)
    return lambda volume: np.asarray(ndimage.gaussian_filter(volume, sigma, mode="nearest"), np.float32), reach


def bright_piece(volume: Floats, sigma: Sequence[float], share: float) -> NDArray[np.bool_]:
    """The largest piece of where a volume, (z, y, x) and >= 0, is above a share of its maximum once it is smoothed.

    sigma: of the Gaussian, voxels per axis
    """
    smoother, reach = gaussian(sigma)
    box, smooth = smoothed(volume, smoother, share, reach)
    pieces, count = ndimage.label(smooth > share * smooth.max())
    bright = np.zeros(volume.shape, np.bool_)
    bright[box] = pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:])) if count > 1 else pieces > 0
    return bright
