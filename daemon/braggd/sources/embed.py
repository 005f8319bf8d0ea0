"""A recorded scan put into the full frame of another detector, with that detector's gaps blanked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, label, median_filter

from braggd.errors import DetectorError
from braggd.scan.detector import Detector


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Placement:
    """Where recorded frames lie within the full frame.

    shape: (rows, columns) of the full frame
    blind: (row, column) bool of the full frame, True in gaps
    offset: (row, column) of the recorded frame's first pixel within the full frame, which may be outside of it
    """

    shape: tuple[int, int]
    blind: NDArray[np.bool_]
    offset: tuple[int, int]

    @classmethod
    def at_peak(cls, counts: NDArray[Any], detector: Detector, at: tuple[int, int] | None = None) -> Self:
        """Put the Bragg peak at a pixel of the detector.

        counts: (step, row, column)
        at: (row, column); default: in the middle of the largest module
        Raises DetectorError where `at` is outside the detector.
        """
        rows, columns = detector.shape
        row, column = module_centre(detector.mask) if at is None else at
        if not (0 <= row < rows and 0 <= column < columns):
            raise DetectorError(f"{detector.name}: pixel {row},{column} is outside its {rows} x {columns} pixels")
        peak = peak_position(counts)
        return cls(shape=detector.shape, blind=detector.mask, offset=(row - peak[0], column - peak[1]))

    @classmethod
    def unchanged(cls, counts: NDArray[Any]) -> Self:
        """Keep the recorded frames as they are."""
        shape = counts.shape[1], counts.shape[2]
        return cls(shape=shape, blind=np.zeros(shape, np.bool_), offset=(0, 0))

    def __call__(self, frame: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A full frame with the recorded one in it; gaps and negative counts hold the largest value, as an EIGER's."""
        full = np.zeros(self.shape, dtype)
        blank = np.iinfo(dtype).max
        (top, rows), (left, columns) = (
            _overlap(offset, recorded, whole)
            for offset, recorded, whole in zip(self.offset, frame.shape, self.shape, strict=True)
        )
        part = frame[rows, columns]
        full[top, left] = np.where(part < 0, blank, part)
        full[self.blind] = blank
        return full


def peak_position(counts: NDArray[Any]) -> tuple[int, int]:
    """(row, column) of the brightest spot of the summed frames, single hot pixels aside.

    counts: (step, row, column)
    """
    total = median_filter(counts.sum(axis=0, dtype=np.float64), size=3)
    row, column = np.unravel_index(int(np.argmax(total)), total.shape)
    return int(row), int(column)


def module_centre(blind: NDArray[np.bool_]) -> tuple[int, int]:
    """(row, column) in the middle of the largest seeing module, as far from gaps and edges as can be.

    blind: (row, column) bool, True in gaps
    """
    modules, found = label(~blind)
    if not found:
        raise DetectorError("no pixel of the detector sees; look at its mask")
    largest = int(np.argmax(np.bincount(modules.ravel())[1:])) + 1
    box = find_objects(modules)[largest - 1]
    distance = distance_transform_edt(np.pad(modules[box] == largest, 1))[1:-1, 1:-1]
    ridge = np.argwhere(distance >= distance.max() - 0.5)
    middle = ridge[np.argmin(((ridge - ridge.mean(axis=0)) ** 2).sum(axis=1))]
    return int(middle[0]) + box[0].start, int(middle[1]) + box[1].start


def _overlap(offset: int, recorded: int, whole: int) -> tuple[slice, slice]:
    """(where in the full frame, where in the recorded one) along one axis."""
    start, stop = max(0, offset), min(whole, offset + recorded)
    stop = max(start, stop)
    return slice(start, stop), slice(start - offset, stop - offset)
