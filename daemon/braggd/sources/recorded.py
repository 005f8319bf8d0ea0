"""A recorded scan while its file is open: what it holds, before any frame is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.data import Geometry
from braggd.errors import ScanFileError

Span = tuple[int, int]
Region = tuple[Span, Span, Span]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class OpenScan:
    """A scan in an open file.

    source: how messages name it
    shape: (steps, rows, columns)
    itemsize: bytes of a voxel
    read: reads the counts of a region, (step, row, column), of the file's own dtype
    bad: reads what the file's mask says of a region, broadcastable to it, True where bad; None where there is no mask
    saturation: counts from which a pixel is saturated, None where unknown
    geometry: with a rocking angle for each of the steps, or none
    """

    source: str
    shape: tuple[int, int, int]
    itemsize: int
    read: Callable[[Region], NDArray[Any]]
    bad: Callable[[Region], NDArray[np.bool_]] | None = None
    saturation: float | None = None
    geometry: Geometry = field(default_factory=Geometry)
    title: str = ""

    def within(self, region: Region | None) -> Region:
        """The region, or all of the scan.

        Raises ScanFileError for a region that is empty or outside the scan.
        """
        if region is None:
            return (0, self.shape[0]), (0, self.shape[1]), (0, self.shape[2])
        if not all(0 <= start < stop <= size for (start, stop), size in zip(region, self.shape, strict=True)):
            asked = " x ".join(f"{start}:{stop}" for start, stop in region)
            raise ScanFileError(
                f"{self.source}: region {asked} is not inside its {extent(self.shape)} voxels; shrink it"
            )
        return region


def extent(shape: tuple[int, ...]) -> str:
    """A shape as people write it."""
    return " x ".join(map(str, shape))


def slices(region: Region) -> tuple[slice, slice, slice]:
    """A region as indices."""
    steps, rows, columns = (slice(*span) for span in region)
    return steps, rows, columns


def checked_shape(source: str, shape: tuple[int, ...], kind: str) -> tuple[int, int, int]:
    """The shape of a scan.

    kind: numpy's character of the dtype. Raises ScanFileError where it is none: not 3-D, empty, or no numbers.
    """
    if len(shape) != 3:
        raise ScanFileError(f"{source}: is {len(shape)}-D; name a 3-D dataset (step, row, column)")
    if not all(shape):
        raise ScanFileError(f"{source}: is empty ({extent(shape)}); name a scan that holds frames")
    if kind not in "uif":
        raise ScanFileError(f"{source}: does not hold counts; name a dataset of whole or real numbers")
    return shape[0], shape[1], shape[2]
