"""Fourier transforms of volumes, in place and in single precision, and the shapes that make them fast.

Sign and scale are numpy's: `forward` is exp(-2 pi i k.x / n) without a factor, `inverse` carries 1/N. Both work with
the zero frequency at [0, 0, 0]; `corner` and `centre` move it there and back.

mkl_fft runs them where it is installed (x86-64), scipy.fft elsewhere. MKL and OpenMP threads spin while they wait, and
two libraries that both spin slow each other down: the process that phases should be started with
OMP_WAIT_POLICY=passive in its environment, since it is read once, when the libraries are loaded.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

try:
    import mkl_fft
except ImportError:  # not x86-64
    mkl_fft = None


def forward(source: NDArray[np.complex64], target: NDArray[np.complex64]) -> None:
    """Fourier transform `source` into `target`, which may be the same array.

    source, target: (z, y, x) complex64, C-contiguous, zero frequency at [0, 0, 0]
    """
    if mkl_fft is not None:
        mkl_fft.fftn(source, out=target)
    else:
        target[...] = scipy.fft.fftn(source, workers=_cores(), overwrite_x=source is target)


def inverse(source: NDArray[np.complex64], target: NDArray[np.complex64]) -> None:
    """Transform `source` back into `target`, which may be the same array.

    source, target: (z, y, x) complex64, C-contiguous, zero frequency at [0, 0, 0]
    """
    if mkl_fft is not None:
        mkl_fft.ifftn(source, out=target)
    else:
        target[...] = scipy.fft.ifftn(source, workers=_cores(), overwrite_x=source is target)


def corner(array: NDArray[Any]) -> NDArray[Any]:
    """Move the zero frequency (or the middle of an object) from the array's centre to [0, 0, 0]."""
    return np.ascontiguousarray(np.fft.ifftshift(array))


def centre(array: NDArray[Any]) -> NDArray[Any]:
    """Move the zero frequency (or the middle of an object) from [0, 0, 0] to the array's centre."""
    return np.ascontiguousarray(np.fft.fftshift(array))


def good_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """The largest even shape that fits into `shape` and has no prime factors but 2, 3 and 5.

    A volume of 118 x 180 x 230 takes four times as long per voxel as one of 128^3.
    """
    return tuple(_good_size(size) for size in shape)


def _good_size(size: int) -> int:
    candidates = (n for n in range(size, 1, -1) if n % 2 == 0 and _is_smooth(n))
    return next(candidates, 1)


def _is_smooth(size: int) -> bool:
    for prime in (2, 3, 5):
        while size % prime == 0:
            size //= prime
    return size == 1


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
