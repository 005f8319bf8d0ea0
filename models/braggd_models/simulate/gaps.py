"""Where a detector does not count: gaps between modules, dead pixels, lost frames.

All masks are bool and True where measured. A pixel mask is (row, column) and holds for every frame; a gap never runs
along the rocking axis.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braggd.errors import DetectorError
from braggd.scan.detector import detector
from braggd_models.errors import SimulationError

Pixels = NDArray[np.bool_]
Shape = tuple[int, int]

GAPS = ("none", "stripe", "cross", "two-stripes", "detector")
DETECTORS = ("MAXIPIX 2x2", "ESRF ID01 EIGER 2M", "EIGER2 500K", "EIGER2 1M", "EIGER2 4M", "Merlin 515x515")


def stripe(shape: Shape, axis: int, start: int, width: int) -> Pixels:
    """A gap across the whole frame: rows (axis 0) or columns (axis 1) start .. start + width - 1.

    What lies beyond the frame is cut off. Raises SimulationError where the axis or width is impossible.
    """
    if axis not in (0, 1) or width < 1:
        raise SimulationError(f"a gap of {width} pixels along axis {axis}: give axis 0 or 1 and a width above 0")
    valid = np.ones(shape, np.bool_)
    blind = slice(max(0, start), max(0, start + width))
    valid[(blind, slice(None)) if axis == 0 else (slice(None), blind)] = False
    return valid


def cross(shape: Shape, starts: tuple[int, int], widths: tuple[int, int]) -> Pixels:
    """A gap over rows and one over columns; starts, widths: (row, column)."""
    return stripe(shape, 0, starts[0], widths[0]) & stripe(shape, 1, starts[1], widths[1])


def dead_pixels(shape: Shape, count: int, rng: np.random.Generator) -> Pixels:
    """Single pixels that never count; at most all of them."""
    valid = np.ones(shape[0] * shape[1], np.bool_)
    valid[rng.choice(valid.size, min(count, valid.size), replace=False)] = False
    return valid.reshape(shape)


def lost_frames(frames: int, count: int, rng: np.random.Generator) -> Pixels:
    """(frame, 1, 1): frames that never came; one at least stays."""
    valid = np.ones((frames, 1, 1), np.bool_)
    valid[rng.choice(frames, min(count, frames - 1), replace=False)] = False
    return valid


def detector_window(name: str, shape: Shape, at: tuple[int, int]) -> Pixels:
    """A window of a real detector, its middle (n // 2) at a pixel; beyond the detector nothing is measured.

    name: as `braggd.scan.detector` knows it; at: (row, column)
    Raises DetectorError where the detector is unknown, or the window lies beside it.
    """
    blind = detector(name).mask
    valid = np.zeros(shape, np.bool_)
    theirs, ours = [], []
    for size, full, middle in zip(shape, blind.shape, at, strict=True):
        start = middle - size // 2
        low, high = max(0, start), min(full, start + size)
        if low >= high:
            raise DetectorError(f'pixel {at} is too far outside of detector "{name}"; give one within {blind.shape}')
        theirs.append(slice(low, high))
        ours.append(slice(low - start, high - start))
    valid[tuple(ours)] = ~blind[tuple(theirs)]
    return valid


def random_gap(
    kind: str,
    shape: Shape,
    rng: np.random.Generator,
    *,
    width: tuple[int, int] = (3, 40),
    distance: tuple[int, int] = (0, 40),
    peak: tuple[int, int] | None = None,
    detectors: tuple[str, ...] = DETECTORS,
) -> Pixels:
    """A pixel mask of that kind (`GAPS`), placed by chance.

    width: least and largest width of a gap, pixels; small ones are as likely as large ones
    distance: least and largest distance of a gap's near edge from the peak, pixels; 0 lies across it. Distances beyond
        the frame are brought into it. The second gap of a cross or pair lies anywhere.
    peak: (row, column); else the frame's middle, n // 2

    Raises SimulationError where the kind is unknown.
    """
    if kind not in GAPS:
        raise SimulationError(f"gap {kind!r} is unknown; choose one of {', '.join(GAPS)}")
    if kind == "none":
        return np.ones(shape, np.bool_)
    middle = (shape[0] // 2, shape[1] // 2) if peak is None else peak
    if kind == "detector":
        return _random_window(shape, rng, distance, middle, detectors)
    axis = int(rng.integers(2))
    chosen = _random_width(rng, width)
    start = _random_start(shape[axis], middle[axis], chosen, rng, distance)
    valid = stripe(shape, axis, start, chosen)
    if kind == "cross":
        # the gaps of one detector are mostly of one width
        other = chosen if rng.random() < 0.6 else _random_width(rng, width)
        valid &= stripe(
            shape, 1 - axis, _random_start(shape[1 - axis], middle[1 - axis], other, rng, (0, shape[1 - axis])), other
        )
    elif kind == "two-stripes":
        step = chosen + int(rng.integers(8, max(9, shape[axis] // 2)))
        valid &= stripe(shape, axis, start + (step if start + chosen // 2 < middle[axis] else -step), chosen)
    return valid


def _random_width(rng: np.random.Generator, width: tuple[int, int]) -> int:
    low, high = np.log(width[0]), np.log(width[1] + 1)
    return min(width[1], int(np.exp(rng.uniform(low, high))))


def _random_start(size: int, middle: int, width: int, rng: np.random.Generator, distance: tuple[int, int]) -> int:
    above = rng.random() < 0.5
    reach = max(0, size - 2 - middle if above else middle - 1)
    away = int(rng.integers(min(distance[0], reach), min(distance[1], reach) + 1))
    if away == 0:
        return middle - int(rng.integers(width))
    return middle + away if above else middle - away - width + 1


def _random_window(
    shape: Shape, rng: np.random.Generator, distance: tuple[int, int], middle: Shape, detectors: tuple[str, ...]
) -> Pixels:
    """A window in which a gap comes that near to the middle."""
    name = detectors[rng.integers(len(detectors))]
    blind = detector(name).mask
    lines = [np.flatnonzero(blind.mean(axis=1 - axis) > 0.9) for axis in (0, 1)]
    axis = int(rng.integers(2))
    axis = axis if len(lines[axis]) else 1 - axis
    at = [
        int(rng.integers(min(n // 2, f // 2), max(f - n // 2, f // 2 + 1)))
        for n, f in zip(shape, blind.shape, strict=True)
    ]
    if len(lines[axis]):
        runs = np.split(lines[axis], np.flatnonzero(np.diff(lines[axis]) > 1) + 1)
        run = runs[rng.integers(len(runs))]
        start = _random_start(shape[axis], middle[axis], len(run), rng, distance)
        at[axis] = int(np.clip(run[0] - start + shape[axis] // 2, 0, blind.shape[axis] - 1))
    return detector_window(name, shape, (at[0], at[1]))
