"""Runs of missing voxels along an axis: what lies between two measured ones. Only missing voxels cost time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Runs:
    """The missing voxels of a volume, and for each of them the run along one axis in which it lies.

    index: flat, into the volume, in the order along the axis
    place: along the axis
    start, stop: of its run, the first place and that after the last one
    """

    index: NDArray[np.intp]
    place: NDArray[np.intp]
    start: NDArray[np.intp]
    stop: NDArray[np.intp]


def runs_along(missing: NDArray[np.bool_], axis: int) -> Runs:
    """The runs of what is missing, along an axis; missing: (z, y, x)."""
    order = [other for other in range(3) if other != axis] + [axis]
    turned = np.flatnonzero(np.ascontiguousarray(missing.transpose(order)))
    place = turned % missing.shape[axis]
    begins = np.ones(turned.size, np.bool_)
    begins[1:] = (np.diff(turned) != 1) | (place[1:] == 0)
    first = np.flatnonzero(begins)
    size = np.diff(np.append(first, turned.size))
    start = np.repeat(place[first], size)
    coordinates = np.unravel_index(turned, tuple(missing.shape[other] for other in order))
    index = np.ravel_multi_index(tuple(coordinates[order.index(other)] for other in range(3)), missing.shape)
    return Runs(index, place, start, start + np.repeat(size, size))
