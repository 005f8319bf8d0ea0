"""Fourier transforms of volumes, in place and in single precision, and the shapes that make them fast.

Sign and scale are numpy's: `forward` is exp(-2 pi i k.x / n) without a factor, `inverse` carries 1/N. Both work with
the zero frequency at [0, 0, 0]; `corner` and `centre` move it there and back.

Arrays on a GPU are transformed there, by cuFFT; others by mkl_fft or scipy.fft, whichever is faster for the shape on
this machine, and scipy.fft where there is no mkl_fft (it is for x86-64). An object that is nothing outside a box, or is
wanted only within one, is transformed axis by axis: along the first two, most lines need no transform.

MKL and OpenMP threads spin while they wait, and two libraries that both spin slow each other down: the process that
phases should be started with OMP_WAIT_POLICY=passive in its environment, since it is read once, when the libraries are
loaded.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from braggd.phasing.arrays import namespace

try:
    import mkl_fft
except ImportError:  # not x86-64
    mkl_fft = None

Transform = Callable[[NDArray[np.complex64], NDArray[np.complex64], bool], None]

Box = tuple[tuple[slice, ...], tuple[slice, ...], tuple[slice, ...]]
"""A part of a periodic volume: along each axis one slice, or two where it goes beyond the border."""

_WORTH_MEASURING = 1_000_000  # voxels
_REPEATS = 4
_BY_FAR = 0.85
_LINES = 0.75  # share of the lines to transform up to which a box saves time
_log = logging.getLogger(__name__)


def forward(source: NDArray[np.complex64], target: NDArray[np.complex64], box: Box | None = None) -> None:
    """Fourier transform `source` into `target`, which may be the same array.

    source, target: (z, y, x) complex64, C-contiguous, zero frequency at [0, 0, 0]
    box: outside it the source is 0; None: it may be anything anywhere
    """
    _transform(source, target, box, back=False)


def inverse(source: NDArray[np.complex64], target: NDArray[np.complex64], box: Box | None = None) -> None:
    """Transform `source` back into `target`, which may be the same array.

    source, target: (z, y, x) complex64, C-contiguous, zero frequency at [0, 0, 0]
    box: outside it the target is undefined afterwards; None: it is right everywhere
    """
    _transform(source, target, box, back=True)


def box_about(support: NDArray[np.bool_]) -> Box | None:
    """The smallest box of a periodic volume that holds a support; None where it would save nothing.

    support: (z, y, x), in main memory
    """
    found, shares = [], []
    for axis, size in enumerate(support.shape):
        filled = np.flatnonzero(support.any(axis=tuple(a for a in range(3) if a != axis)))
        if not filled.size:
            return None
        empty = np.diff(filled, append=filled[0] + size)
        last = int(np.argmax(empty))  # after which the longest stretch of nothing begins
        start, stop = int(filled[(last + 1) % filled.size]), int(filled[last]) + 1
        found.append((slice(start, stop),) if start < stop else (slice(0, stop), slice(start, size)))
        shares.append((size - int(empty[last]) + 1) / size)
    z, y, x = found
    return (z, y, x) if 1 + shares[2] * (1 + shares[1]) <= 3 * _LINES else None


@lru_cache(maxsize=64)
def library(shape: tuple[int, ...]) -> str:
    """The key of LIBRARIES that transforms this shape, measured once per shape and process.

    The first one is taken unless another is faster by far, so that the same machine takes the same one every time, and
    a seed gives the same object to the last bit; small volumes take it unmeasured.
    """
    names = list(LIBRARIES)
    if len(names) == 1 or np.prod(shape) < _WORTH_MEASURING:
        return names[0]
    volume = np.zeros(shape, np.complex64)
    best = dict.fromkeys(names, np.inf)
    for repeat in range(_REPEATS + 1):
        for name, transform in LIBRARIES.items():
            begun = time.perf_counter()
            transform(volume, volume, repeat % 2 == 1)
            if repeat:  # the first one plans
                best[name] = min(best[name], time.perf_counter() - begun)
    fastest = min(best, key=lambda name: best[name])
    chosen = fastest if best[fastest] < _BY_FAR * best[names[0]] else names[0]
    _log.debug("%s transforms %s; seconds: %s", chosen, shape, best)
    return chosen


def _transform(source: NDArray[np.complex64], target: NDArray[np.complex64], box: Box | None, *, back: bool) -> None:
    if not isinstance(source, np.ndarray):
        importlib.import_module("braggd.phasing.cuda").transform(source, target, back=back)
    elif box is not None:
        _by_axes(source, target, back, box)
    else:
        LIBRARIES[library(source.shape)](source, target, back)


def corner(array: NDArray[Any]) -> NDArray[Any]:
    """Move the zero frequency (or the middle of an object) from the array's centre to [0, 0, 0]."""
    xp = namespace(array)
    moved: NDArray[Any] = xp.ascontiguousarray(xp.fft.ifftshift(array))
    return moved


def centre(array: NDArray[Any]) -> NDArray[Any]:
    """Move the zero frequency (or the middle of an object) from [0, 0, 0] to the array's centre."""
    xp = namespace(array)
    moved: NDArray[Any] = xp.ascontiguousarray(xp.fft.fftshift(array))
    return moved


def good_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The largest even shape that fits into `shape` and has no prime factors but 2, 3 and 5.

    A volume of 118 x 180 x 230 takes four times as long per voxel as one of 128^3.
    """
    return tuple(_good_size(size) for size in shape)


def fast_size(size: int) -> int:
    """The smallest length from there on that is fast to transform."""
    return next(n for n in range(size, 2 * size + 2) if n % 2 == 0 and _is_smooth(n))


def _good_size(size: int) -> int:
    candidates = (n for n in range(size, 1, -1) if n % 2 == 0 and _is_smooth(n))
    return next(candidates, 1)


def _is_smooth(size: int) -> bool:
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    return size == 1


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _mkl(source: NDArray[np.complex64], target: NDArray[np.complex64], back: bool) -> None:
    (mkl_fft.ifftn if back else mkl_fft.fftn)(source, out=target)


def _scipy(source: NDArray[np.complex64], target: NDArray[np.complex64], back: bool) -> None:
    if source is not target:
        np.copyto(target, source)
    result = (scipy.fft.ifftn if back else scipy.fft.fftn)(target, workers=cores(), overwrite_x=True)
    if not np.shares_memory(result, target):
        np.copyto(target, result)


def _by_axes(source: NDArray[np.complex64], target: NDArray[np.complex64], back: bool, box: Box) -> None:
    """One axis after the other; the last one, whose lines lie together in memory, by MKL, which is fastest there."""
    if source is not target:
        np.copyto(target, source)
    _, rows, columns = box
    passes = [
        (0, [target[:, row, column] for row in rows for column in columns]),
        (1, [target[:, :, column] for column in columns]),
        (2, [target]),
    ]
    for axis, parts in reversed(passes) if back else passes:
        for part in parts:
            if axis == 2 and mkl_fft is not None:
                (mkl_fft.ifft if back else mkl_fft.fft)(part, axis=axis, out=part)
                continue
            made = (scipy.fft.ifft if back else scipy.fft.fft)(part, axis=axis, overwrite_x=True, workers=cores())
            if not np.may_share_memory(made, part):
                part[...] = made


LIBRARIES: dict[str, Transform] = {"scipy": _scipy}
"""What can transform (source, target, whether back), by name; the one to prefer first."""
if mkl_fft is not None:
    LIBRARIES = {"mkl_fft": _mkl, **LIBRARIES}
