"""What `braggd.phasing.halfspaces` does for every voxel and plane, as numba kernels.

exp(n.x) is a product of one factor per axis: a row of voxels needs one exponential per plane, not one per voxel.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

import numba
import numpy as np
from numba import prange
from numpy.typing import NDArray

P = ParamSpec("P")
T = TypeVar("T")
Floats = NDArray[np.float64]

_FASTMATH = {"nsz", "arcp", "contract", "reassoc", "afn"}  # not `nnan`, `ninf`: a product may be infinite
_WORTH_THREADS = 2_000_000  # voxels times planes: below it, waking the threads costs more than they save
_LARGEST = 690.0  # exp of it is finite: a product of two factors may become 0 or infinite, but never NaN


def _compile(function: Callable[P, T]) -> tuple[Callable[P, T], Callable[P, T]]:
    """On one core, and on all; kept on disk where there is a place to write, else compiled once per process."""

    def compiled(parallel: bool) -> Callable[P, T]:
        try:
            kernel = numba.njit(parallel=parallel, nogil=True, fastmath=_FASTMATH, cache=True)(function)
        except RuntimeError:  # no folder to write to
            kernel = numba.njit(parallel=parallel, nogil=True, fastmath=_FASTMATH)(function)
        return cast("Callable[P, T]", kernel)

    return compiled(False), compiled(True)


def soft_support(
    normals: Floats, distances: Floats, softness: float, z: Floats, y: Floats, x: Floats, support: NDArray[Any]
) -> None:
    """Write the product over the planes of 1 / (1 + exp((n.x - d) / softness)) into support."""
    _soft_support[support.size * distances.size > _WORTH_THREADS](normals, distances, softness, z, y, x, support)


def moments(
    normals: Floats,
    distances: Floats,
    softness: float,
    z: Floats,
    y: Floats,
    x: Floats,
    weights: NDArray[Any],
    found: Floats,
) -> None:
    """Write the sum of weights * (1 - sigmoid), and its moments along z, y and x, of each plane into found."""
    _moments[weights.size * distances.size > _WORTH_THREADS](normals, distances, softness, z, y, x, weights, found)


@_compile
def _soft_support(
    normals: Floats, distances: Floats, softness: float, z: Floats, y: Floats, x: Floats, support: NDArray[Any]
) -> None:
    along = np.exp(np.minimum(np.maximum(normals[:, 2].copy().reshape(-1, 1) * x / softness, -_LARGEST), _LARGEST))
    for k in prange(z.size):
        product = np.empty(x.size)
        for j in range(y.size):
            product[:] = 1
            for plane in range(distances.size):
                outside = (normals[plane, 0] * z[k] + normals[plane, 1] * y[j] - distances[plane]) / softness
                factor = math.exp(min(max(outside, -_LARGEST), _LARGEST))
                for i in range(x.size):
                    product[i] *= 1 + factor * along[plane, i]
            for i in range(x.size):
                support[k, j, i] = 1 / product[i]


@_compile
def _moments(
    normals: Floats,
    distances: Floats,
    softness: float,
    z: Floats,
    y: Floats,
    x: Floats,
    weights: NDArray[Any],
    found: Floats,
) -> None:
    along = np.exp(np.minimum(np.maximum(normals[:, 2].copy().reshape(-1, 1) * x / softness, -_LARGEST), _LARGEST))
    layers = np.zeros((z.size, distances.size, 4))
    for k in prange(z.size):
        for j in range(y.size):
            if not np.any(weights[k, j]):
                continue
            for plane in range(distances.size):
                outside = (normals[plane, 0] * z[k] + normals[plane, 1] * y[j] - distances[plane]) / softness
                factor = math.exp(min(max(outside, -_LARGEST), _LARGEST))
                total, moment = 0.0, 0.0
                for i in range(x.size):
                    share = weights[k, j, i] * (1 - 1 / (1 + factor * along[plane, i]))
                    total += share
                    moment += share * x[i]
                layers[k, plane, 0] += total
                layers[k, plane, 1] += total * z[k]
                layers[k, plane, 2] += total * y[j]
                layers[k, plane, 3] += moment
    found[:] = 0
    for k in range(z.size):
        found += layers[k]
