"""Filling of masked voxels by interpolation: the classical filler, and what every network starts from.

Diffraction falls off over decades, so the logarithm of the counts is interpolated: linear on log counts is the
strongest of the classical fillers for Bragg peaks (Masto, PhD thesis, Univ. Grenoble Alpes, chapter 3, compares).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braggd.errors import ModelError
from braggd.inference.runs import runs_along

# Beside a gap that is open on one side, the measured value is trusted less with the square of the distance, and less
# than one between two measured values at the same distance.
_ONE_SIDED = 0.25
# Passes before voxels with a neighbour on one side only may be filled; a cross needs two.
_PATIENCE = 3


def interpolate(counts: NDArray[np.generic], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Fill the voxels that were not measured.

    counts: (step, row, column), photons; what it holds where not valid is not looked at
    valid: (step, row, column) bool, True where measured
    Returns (step, row, column) float32; measured voxels as they were, the others never negative.

    Along each axis a masked voxel is interpolated linearly, in log(1 + counts), between the nearest measured ones; the
    axes are averaged with the inverse products of both distances as weights, which is how the error of a linear
    interpolation grows. Voxels without a measured one on both sides along any axis (the centre of a cross, a masked
    region at the border) follow in further passes from what was filled before them. Only masked voxels cost time.

    Raises ModelError where nothing at all was measured.
    """
    if counts.shape != valid.shape or counts.ndim != 3:
        raise ModelError(
            f"counts {counts.shape} and their mask {valid.shape} differ in shape; give both as (step, row, column)"
        )
    # A copy even of float32: the caller's counts stay as they are.
    filled = np.array(counts, dtype=np.float32, order="C")
    unknown = np.ascontiguousarray(~valid)
    targets = np.flatnonzero(unknown)
    if targets.size == unknown.size:
        raise ModelError("no voxel of the scan was measured, so its gaps cannot be filled; check the detector's mask")
    passes = 0
    while targets.size:
        numerator, weight, two_sided = _neighbours(filled, unknown)
        ready = weight[targets] > 0
        if two_sided.any() and passes < _PATIENCE:
            ready &= two_sided[targets]
        done = targets[ready]
        filled.ravel()[done] = np.expm1(numerator[done] / weight[done])
        unknown.ravel()[done] = False
        targets = targets[~ready]
        passes += 1
    return filled


def _neighbours(
    filled: NDArray[np.float32], unknown: NDArray[np.bool_]
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
    """Weighted sum of the interpolated logs, the weights' sum, and where an axis has both neighbours; all flat."""
    # Zeroed memory costs nothing where it is never touched, which is everywhere but in the gaps.
    numerator = np.zeros(filled.size, np.float32)
    weight = np.zeros(filled.size, np.float32)
    two_sided = np.zeros(filled.size, np.bool_)
    flat = filled.ravel()
    for axis in range(3):
        runs = runs_along(unknown, axis)
        index, before, after = runs.index, runs.place - runs.start + 1, runs.stop - runs.place
        has_before, has_after = runs.start > 0, runs.stop < filled.shape[axis]
        stride = int(np.prod(filled.shape[axis + 1 :]))
        left = _log(flat, index - before * stride, has_before)
        right = _log(flat, index + after * stride, has_after)
        both = has_before & has_after
        near = np.where(has_before, before, after).astype(np.float32)
        share = np.where(both, 1 / (before * after), _ONE_SIDED / near**2).astype(np.float32)
        share[~(has_before | has_after)] = 0
        value = np.where(both, (left * after + right * before) / (before + after), left + right)
        # Each voxel occurs once per axis, so plain fancy indexing adds correctly.
        numerator[index] += share * value
        weight[index] += share
        two_sided[index[both]] = True
    return numerator, weight, two_sided


def _log(flat: NDArray[np.float32], index: NDArray[np.intp], there: NDArray[np.bool_]) -> NDArray[np.float32]:
    values = np.zeros(index.size, np.float32)
    # Counts below zero occur where a dark frame was subtracted.
    values[there] = np.log1p(np.maximum(flat[index[there]], 0))
    return values
