"""A soft convex support: the product of one sigmoid per half-space, and its gradient.

    support(x) = prod_i sigmoid((d_i - n_i . x) / eps)

normals n_i: (plane, 3) float64, unit vectors (z, y, x); distances d_i: (plane,) float64, voxels from the middle
softness eps: voxels; grid: the coordinates of the voxels' middles along z, y and x, see `coordinates`

Masto, PhD thesis, Univ. Grenoble Alpes, eqs. 5.1, 5.2; the sigmoid in place of the sharp border is section 5.2.1's
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit

Floats = NDArray[np.float64]
Grid = tuple[Floats, Floats, Floats]

kernels: ModuleType | None
try:
    from braggd.phasing import compiled_halfspaces

    kernels = compiled_halfspaces
except ImportError:  # no numba
    kernels = None


def coordinates(shape: Sequence[int]) -> Grid:
    """The voxels' places along z, y and x, 0 at n // 2."""
    z, y, x = (np.arange(n, dtype=np.float64) - n // 2 for n in shape)
    return z, y, x


def soft_support(normals: Floats, distances: Floats, softness: float, grid: Grid, dtype: Any) -> NDArray[Any]:
    """How far inside all half-spaces each voxel is: (z, y, x), 1 deep inside, 0 far outside."""
    support = np.empty(tuple(len(line) for line in grid), dtype)
    if kernels is not None:
        kernels.soft_support(normals, distances, softness, *grid, support)
        return support
    logarithm = np.zeros(support.shape)
    for depth in _depths(normals, distances, softness, grid):
        logarithm += log_expit(depth)
    np.exp(logarithm, out=logarithm)
    support[...] = logarithm
    return support


def support_gradient(
    normals: Floats, distances: Floats, softness: float, grid: Grid, support: NDArray[Any], gradient: NDArray[Any]
) -> tuple[Floats, Floats]:
    """From d(loss)/d(support) to d(loss)/d(normals), (plane, 3), and d(loss)/d(distances), (plane,).

    support: as `soft_support` gave it; gradient: (z, y, x), of the loss by each voxel of it

    With s = prod_i sigmoid(t_i), ds/dt_i = s (1 - sigmoid(t_i)).
    """
    weights = gradient * support
    moments = np.empty((len(distances), 4))
    if kernels is not None:
        kernels.moments(normals, distances, softness, *grid, weights, moments)
    else:
        z, y, x = np.ix_(*grid)
        for row, depth in zip(moments, _depths(normals, distances, softness, grid), strict=True):
            share = weights * expit(-depth)
            row[:] = [np.sum(share * at, dtype=np.float64) for at in (1.0, z, y, x)]
    return -moments[:, 1:] / softness, moments[:, 0] / softness


def spread_normals(count: int, random: np.random.Generator) -> Floats:
    """Directions spread evenly over the sphere (a Fibonacci lattice), turned at random: (count, 3)."""
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    radius = np.sqrt(1 - height**2)
    lattice = np.stack([height, radius * np.sin(angle), radius * np.cos(angle)], axis=1)
    rotation, _ = np.linalg.qr(random.normal(size=(3, 3)))
    return unit(lattice @ rotation)


def unit(normals: Floats) -> Floats:
    """Vectors of length 1."""
    return np.asarray(normals / np.linalg.norm(normals, axis=1, keepdims=True), np.float64)


def tangential(gradient: Floats, normals: Floats) -> Floats:
    """The part of the normals' gradient that turns them, without the part that stretches them."""
    return np.asarray(gradient - np.sum(gradient * normals, axis=1, keepdims=True) * normals, np.float64)


def _depths(normals: Floats, distances: Floats, softness: float, grid: Grid) -> Any:
    z, y, x = np.ix_(*grid)
    for (nz, ny, nx), distance in zip(normals, distances, strict=True):
        yield (distance - nz * z - ny * y - nx * x) / softness
