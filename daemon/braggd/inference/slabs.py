"""How a filling network sees a gap: as a slab, with the lines across it folded into channels.

A detector gap is long along the detector and along the rocking axis, and short across. So a network need not slide
along its normal: for every position (u, v) in the gap's plane the CONTEXT voxels on either side, ordered away from the
gap, are channels, and 2D convolutions over the plane do the rest. Gaps of every width look alike so.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braggd.inference.runs import runs_along

CONTEXT = 16
WIDEST = 40
CHANNELS = 4 * CONTEXT + 1
_OPEN = 10**6  # the length of what never ends

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Slab:
    """A gap between two planes.

    axis: its normal, 0, 1, 2
    start, stop: the planes that it spans along `axis`
    lines: (u, v) bool, the lines along `axis` on which it spans just these; u and v are the other axes in their order
    """

    axis: int
    start: int
    stop: int
    lines: Bools


def lines_across(logs: Floats, measured: Bools, start: int, stop: int) -> Floats:
    """What the network sees of a slab.

    logs: (normal, u, v) log(1 + counts), interpolated where not measured
    measured: (normal, u, v)
    start, stop: the gap's planes
    Returns (CHANNELS, u, v) float32: the CONTEXT voxels before the gap, nearest first, those after it, nearest first,
    both less the line's level; where each was measured, 1 or 0, in the same order; the level, which is the mean of the
    two nearest voxels on either side. Beyond the volume the last plane is repeated, as not measured.
    """
    planes = np.concatenate([np.arange(start - 1, start - 1 - CONTEXT, -1), np.arange(stop, stop + CONTEXT)])
    inside = (planes >= 0) & (planes < len(logs))
    nearest = planes.clip(0, len(logs) - 1)
    made = np.empty((CHANNELS, *logs.shape[1:]), np.float32)
    values = logs[nearest]
    level = (values[0] + values[1] + values[CONTEXT] + values[CONTEXT + 1]) / 4
    np.subtract(values, level, out=made[: 2 * CONTEXT])
    np.multiply(measured[nearest], inside[:, None, None], out=made[2 * CONTEXT : 4 * CONTEXT], casting="unsafe")
    made[-1] = level
    return made


def inverted(lines: Floats) -> Floats:
    """What `lines_across` would give of the volume inverted through its middle; (CHANNELS, u, v)."""
    before, after, seen_before, seen_after, level = np.split(lines[:, ::-1, ::-1], np.arange(1, 5) * CONTEXT)
    return np.concatenate([after, before, seen_after, seen_before, level])


def slabs_of(missing: Bools, least: int) -> tuple[list[Slab], Bools]:
    """The slabs of what is missing, every voxel along the axis on which its gap is thinnest, or along several alike.

    missing: (z, y, x)
    least: lines that a slab must have; smaller gaps are left out, and so are gaps that are open on one side

    Also returns the voxels that are WIDEST or more from what is there on every axis, as where gaps cross; filling the
    slabs brings them within reach.
    """
    places = np.flatnonzero(missing)
    starts, lengths = zip(*(_across(missing, axis, places) for axis in range(3)), strict=True)
    thinnest = np.minimum.reduce(lengths)
    found = []
    for axis, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        ours = (length == thinnest) & (length <= WIDEST)
        plane = tuple(size for number, size in enumerate(missing.shape) if number != axis)
        u, v = (at for number, at in enumerate(np.unravel_index(places[ours], missing.shape)) if number != axis)
        line = u * plane[1] + v
        spans = start[ours].astype(np.int64) * (WIDEST + 1) + length[ours]
        for span in np.unique(spans):
            lines = np.zeros(plane[0] * plane[1], np.bool_)
            lines[line[spans == span]] = True
            if lines.sum() >= least:
                first, width = divmod(int(span), WIDEST + 1)
                found.append(Slab(axis, first, first + width, lines.reshape(plane)))
    buried = np.zeros(missing.shape, np.bool_)
    buried.ravel()[places[thinnest > WIDEST]] = True
    return found, buried


def _across(missing: Bools, axis: int, places: NDArray[np.intp]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Start and length of the run of missing voxels along an axis in which each of some places (flat) lies.

    The length is far too long where a run is open on one side.
    """
    runs = runs_along(missing, axis)
    closed = (runs.start > 0) & (runs.stop < missing.shape[axis])
    by_voxel = np.empty((2, missing.size), np.int32)  # memory that is never touched costs nothing
    by_voxel[0, runs.index] = runs.start
    by_voxel[1, runs.index] = np.where(closed, runs.stop - runs.start, _OPEN)
    start, length = by_voxel[:, places]
    return start, length
