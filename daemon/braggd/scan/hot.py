"""Pixels and voxels that count what the crystal did not send.

Diffraction of a crystal that is oversampled at least twice is smooth: from the top of a speckle, intensity falls to
sinc^2(1/2) = 0.41 at the nearest pixel. Only in the extreme case, the fringes of a box along the detector's axes, does
every second pixel see nothing; two pixels away there is the next fringe. So a pixel is compared with several of those
up to two pixels away, and stands out where it is far above all but the brightest few of them. Letting the brightest
few aside is what finds clusters, whose members would otherwise hide each other.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RATIO = 6.0
# A single voxel has fewer neighbours to be told by than a pixel in the sum of all frames.
_VOXEL_RATIO = 10.0
# Counts above which Poisson noise on a dark neighbourhood is out of question, in a whole scan and in one voxel.
_SCAN_COUNTS = 10.0
_VOXEL_COUNTS = 8.0
# A pixel that counts in most frames, the dark ones too: per frame, and how many frames are looked at.
_STEADY_COUNTS = 2.0
_STEADY_FRAMES = 17
# A pixel without any count is dead where its neighbours have this many.
_DEAD_COUNTS = 100.0

_RING = [offset for offset in itertools.product((-1, 0, 1), repeat=2) if any(offset)]
_AROUND = [offset for offset in itertools.product((-2, -1, 0, 1, 2), repeat=2) if any(offset)]
_AXES = [tuple(step if axis == own else 0 for axis in range(3)) for own in range(3) for step in (-2, -1, 1, 2)]


def trusted(counts: NDArray[Any], valid: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The voxels of a scan that can be relied on, (step, row, column), and its hot pixels, (row, column); both bool.

    counts, valid: as `hot_pixels` and `outliers` take them; hot pixels are out before outliers are looked for
    """
    hot = hot_pixels(counts, valid)
    steady = valid & ~hot
    return steady & ~outliers(counts, steady), hot


def hot_pixels(counts: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels that count wrongly throughout a scan: hot, stuck, flickering or dead.

    counts: (step, row, column), photons; undefined where not valid
    valid: (step, row, column) bool, True where measured
    Returns (row, column) bool. Pixels that were never valid are not among them.

    A pixel is hot where its counts over the scan, or in a typical frame, exceed six times those of the fourth
    brightest of the 24 pixels around it and what Poisson noise explains: clusters of up to four are found. It is dead
    where it counts nothing amid eight neighbours, of which seven do.
    """
    steps = counts.shape[0]
    if not steps:
        return np.zeros(counts.shape[1:], np.bool_)
    measured = _measured(counts, valid)
    times = measured.sum(axis=0)
    # float64: a stuck pixel of 2^32 in hundreds of frames must not drown its neighbours' counts.
    total = np.sum(counts, axis=0, where=measured, dtype=np.float64)
    share = np.divide(total * steps, times, out=np.full(total.shape, np.nan), where=times > 0)
    with np.errstate(invalid="ignore"):
        hot: NDArray[np.bool_] = share > _RATIO * _brightest(share, _AROUND, 4) + _SCAN_COUNTS
        hot |= (share <= 0) & (-_brightest(-share, _RING, 2) >= _DEAD_COUNTS) & (_known(share, _RING) == 8)
        if steps >= _STEADY_FRAMES:
            typical = _typical(counts, measured)
            hot |= typical > _RATIO * _brightest(typical, _AROUND, 4) + _STEADY_COUNTS
    # Amid gaps there may be too few neighbours to tell.
    hot &= _known(share, _AROUND) >= 6
    return hot


def outliers(counts: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Single voxels hit by something else, a cosmic ray or a zinger.

    counts, valid: as for `hot_pixels`
    Returns (step, row, column) bool.

    A voxel is one where it exceeds ten times the third brightest of the twelve that are one or two steps away from it
    along the three axes, and what Poisson noise explains; hits shared by up to three voxels are found.
    """
    measured = _measured(counts, valid)
    found = np.zeros(counts.shape, np.bool_)
    # Bright voxels are few, so only they are looked at.
    place = np.nonzero(measured & (counts > _VOXEL_COUNTS))
    near = np.full((len(_AXES), place[0].size), -np.inf)
    for row, offset in zip(near, _AXES, strict=True):
        there = [index + step for index, step in zip(place, offset, strict=True)]
        inside = np.logical_and.reduce([(t >= 0) & (t < size) for t, size in zip(there, counts.shape, strict=True)])
        target = tuple(np.where(inside, t, 0) for t in there)
        np.copyto(row, counts[target], where=inside & measured[target])
    third = np.sort(near, axis=0)[-3]
    enough = np.isfinite(near).sum(axis=0) >= 6
    found[place] = enough & (counts[place] > _VOXEL_RATIO * np.maximum(third, 0) + _VOXEL_COUNTS)
    return found


def _measured(counts: NDArray[Any], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return valid & np.isfinite(counts) if counts.dtype.kind == "f" else valid


def _typical(counts: NDArray[Any], measured: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Median over the frames of each pixel, NaN where it never was valid; a sample of the frames is enough."""
    frames = np.unique(np.linspace(0, counts.shape[0] - 1, _STEADY_FRAMES).round().astype(int))
    sample = np.where(measured[frames], counts[frames], np.float32(np.nan)).astype(np.float32)
    # NaNs sort to the end; many times faster than numpy's nanmedian.
    sample.sort(axis=0)
    middle = np.maximum(np.isfinite(sample).sum(axis=0) - 1, 0) // 2
    typical: NDArray[np.float32] = np.take_along_axis(sample, middle[None], axis=0)[0]
    return typical


def _brightest(image: NDArray[Any], offsets: list[tuple[int, ...]], rank: int) -> NDArray[Any]:
    """The rank-th brightest known pixel at the offsets around each pixel, -inf where there are fewer."""
    top = [np.full(image.shape, -np.inf, image.dtype) for _ in range(rank)]
    for other in _shifted(image, offsets):
        below = np.where(np.isnan(other), -np.inf, other).astype(image.dtype)
        for place in range(rank):
            top[place], below = np.maximum(top[place], below), np.minimum(top[place], below)
    return top[-1]


def _known(image: NDArray[Any], offsets: list[tuple[int, ...]]) -> NDArray[np.int_]:
    known: NDArray[np.int_] = np.sum([~np.isnan(other) for other in _shifted(image, offsets)], axis=0)
    return known


def _shifted(image: NDArray[Any], offsets: list[tuple[int, ...]]) -> list[NDArray[Any]]:
    rows, columns = image.shape
    padded = np.pad(image, 2, constant_values=np.nan)
    return [padded[2 + row : 2 + row + rows, 2 + column : 2 + column + columns] for row, column in offsets]
