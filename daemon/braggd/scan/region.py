"""Where the Bragg peak is on the detector, and what is kept around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from scipy.ndimage import uniform_filter

from braggd.errors import RegionError
from braggd.scan.hot import trusted

_BRIGHTEST = 2000  # pixels looked at: more than a sensible number of hot pixels
_APART = 20  # two peaks closer than this, in pixels, are one
_BOX = 15  # half the edge of the box in which a peak's counts are summed


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A bright spot that is wider than one pixel.

    row, column: of its brightest pixel
    height: median of the 3 x 3 pixels about it, photons
    content: photons in the box about it, above the box's edge
    """

    row: int
    column: int
    height: float
    content: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selected:
    """The part of a scan that is phased.

    counts: (step, row, column) float32, photons; valid: bool, True where measured and trusted
    region: its (start, stop) in the scan along each axis; hot: pixels of the whole scan that count wrongly
    """

    counts: NDArray[np.float32]
    valid: NDArray[np.bool_]
    region: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    hot: int


def selected(counts: NDArray[np.float32], valid: NDArray[np.bool_], largest: tuple[int, int, int]) -> Selected:
    """Hot voxels masked, and the part about the peak cut out, as `phasing_region` has it.

    counts, valid: (step, row, column) of the whole scan. Raises RegionError where there is nothing to phase.
    """
    valid, hot = trusted(counts, valid)
    region = phasing_region(counts, valid, largest)
    box = tuple(slice(*edge) for edge in region)
    return Selected(
        counts=np.ascontiguousarray(counts[box]),
        valid=np.ascontiguousarray(valid[box]),
        region=region,
        hot=int(hot.sum()),
    )


def find_peaks(projection: NDArray[np.generic], blind: NDArray[np.bool_], most: int = 5) -> list[Peak]:
    """The brightest spots of a summed frame, the one with the most photons first.

    projection: (row, column) summed counts; blind: True where the detector does not measure.
    A single hot pixel is no spot: a pixel counts as its 3 x 3 median, and a Bragg peak of a crystal that is
    sampled well enough to be phased spans at least two pixels.
    """
    rows, columns = projection.shape
    seen = np.where(blind, 0, projection)
    every_second = seen[::2, ::2]  # a peak that spans two pixels is among them
    row, column = np.nonzero(every_second)
    if len(row) > _BRIGHTEST:
        brightest = np.argpartition(every_second[row, column], len(row) - _BRIGHTEST)[-_BRIGHTEST:]
        row, column = row[brightest], column[brightest]
    row, column = 2 * row, 2 * column
    offsets = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)])
    near_row = np.clip(row[:, None] + offsets[:, 0], 0, rows - 1)
    near_column = np.clip(column[:, None] + offsets[:, 1], 0, columns - 1)
    near = np.where(blind[near_row, near_column], np.nan, seen[near_row, near_column].astype(np.float64))
    own_valid = ~blind[row, column]
    height = np.zeros(len(row))
    height[own_valid] = np.nanmedian(near[own_valid], axis=1)

    peaks: list[Peak] = []
    for index in np.argsort(height)[::-1]:
        if height[index] <= 0 or len(peaks) == most:
            break
        r, c = int(row[index]), int(column[index])
        if all(max(abs(r - p.row), abs(c - p.column)) > _APART for p in peaks):
            peaks.append(Peak(row=r, column=c, height=float(height[index]), content=_content(seen, blind, r, c)))
    return sorted(peaks, key=lambda p: p.content, reverse=True)


def window_about(
    peak: tuple[int, int], size: tuple[int, int], shape: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """The rows and columns ((start, stop), (start, stop)) kept about a peak, moved to lie within the frame.

    Raises RegionError where the peak is outside the frame.
    """
    if not all(0 <= p < n for p, n in zip(peak, shape, strict=True)):
        raise RegionError(f"the peak at row {peak[0]}, column {peak[1]} is outside the frame of {shape[0]}x{shape[1]}")
    rows, columns = (_span(p, s, n) for p, s, n in zip(peak, size, shape, strict=True))
    return rows, columns


def phasing_region(
    counts: NDArray[np.float32], valid: NDArray[np.bool_], largest: tuple[int, int, int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The part of a scan that is phased: about the peak, not larger than asked, each edge a fast FFT length.

    counts, valid: (step, row, column). The peak is the brightest place after smoothing over 3 x 3 x 3 voxels.

    Raises RegionError where nothing was measured or the scan is empty.
    """
    smooth = uniform_filter(np.where(valid, counts, 0), 3, mode="constant")
    if not valid.any() or not smooth.max() > 0:
        raise RegionError("the scan holds no photon outside the masked pixels; look at the shutter and the mask")
    peak = np.unravel_index(int(np.argmax(smooth)), smooth.shape)
    edges = [_fast_length(min(most, n)) for most, n in zip(largest, counts.shape, strict=True)]
    z, y, x = (_span(int(p), e, n) for p, e, n in zip(peak, edges, counts.shape, strict=True))
    return z, y, x


def _content(seen: NDArray[np.generic], blind: NDArray[np.bool_], row: int, column: int) -> float:
    box = np.s_[max(0, row - _BOX) : row + _BOX + 1, max(0, column - _BOX) : column + _BOX + 1]
    values, measured = np.asarray(seen[box], np.float64), ~blind[box]
    edge = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    # A lone hot pixel in the box must not make it the richest: no pixel counts more than the box's 99th percentile.
    ceiling = np.percentile(values[measured], 99)
    return float(np.sum(np.minimum(values, ceiling)[measured] - np.median(edge)))


def _span(centre: int, size: int, available: int) -> tuple[int, int]:
    size = min(size, available)
    start = min(max(0, centre - size // 2), available - size)
    return start, start + size


def _fast_length(most: int) -> int:
    """Largest even length of small prime factors that is not above `most`; `most` itself where it is tiny."""
    for length in range(most - most % 2, 1, -2):
        if next_fast_len(length) == length:
            return length
    return most
