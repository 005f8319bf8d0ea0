"""Atomistic crystals: atoms cut from an fcc lattice by a polyhedron, displaced, and what they scatter.

Positions are (atom, 3) float64 Å, (z, y, x) along the cubic cell's [001], [010], [100]; so are scattering vectors, 1/Å.
How the crystal stands in the beam is a matter of the basis on which the pattern is sampled (`sampling`), not of the
atoms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from braggd_models.errors import SimulationError
from braggd_models.simulate.shapes import Polyhedron

try:
    import finufft
except ImportError:  # an extra; the plain sum does the same, slower
    finufft = None

Floats = NDArray[np.float64]

LATTICE = {"Ag": 4.0853, "Au": 4.0782, "Cu": 3.6149, "Ni": 3.5240, "Pd": 3.8907, "Pt": 3.9242}
"""Edge of the cubic cell at room temperature, Å."""


def lattice_parameter(element: str) -> float:
    """Edge of the cubic cell, Å. Raises SimulationError where the element is not known as fcc."""
    if element not in LATTICE:
        raise SimulationError(f"element {element!r} is not known; choose one of {', '.join(LATTICE)}")
    return LATTICE[element]


def fcc_sites(crystal: Polyhedron, lattice: float, origin: ArrayLike = (0.0, 0.0, 0.0)) -> Floats:
    """All sites of an fcc lattice within a crystal, (atom, 3) Å.

    crystal: in Å; lattice: edge of the cubic cell, Å; origin: of the lattice, Å
    Raises SimulationError where no site is inside.
    """
    low, high = crystal.extent()
    start = np.asarray(origin, np.float64)
    first, last = np.floor((low - start) / lattice).astype(int) - 1, np.ceil((high - start) / lattice).astype(int) + 1
    corners = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    cells = np.stack(np.meshgrid(*corners, indexing="ij"), axis=-1).reshape(-1, 3)
    basis = np.array([(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)])
    kept = []
    for site in basis:
        places = (cells + site) * lattice + start
        kept.append(places[crystal.inside(places)])
    sites = np.concatenate(kept)
    if not len(sites):
        raise SimulationError("the crystal holds no atom; make it larger than a cell of the lattice")
    return sites


def reflection(hkl: tuple[int, int, int], lattice: float) -> Floats:
    """Scattering vector of a Bragg peak, (z, y, x) = (l, k, h), 1/Å.

    Raises SimulationError where an fcc lattice forbids it.
    """
    if len({index % 2 for index in hkl}) != 1 or not any(hkl):
        raise SimulationError(f"reflection {hkl} is forbidden in fcc; take h, k, l all even or all odd")
    return 2 * np.pi / lattice * np.asarray(hkl[::-1], np.float64)


def sampling(crystal: Polyhedron, oversampling: float | Sequence[float], rotation: Rotation | None = None) -> Floats:
    """Scattering vector per voxel step along each axis of a pattern, (3, 3) 1/Å, rows by axis.

    crystal: in Å; oversampling: of the crystal's extent along each axis of the object, one number for equal axes of
        which the longest is sampled that well, or three
    rotation: turns the crystal before it is measured; scipy's acts on (x, y, z)
    """
    turn = np.eye(3) if rotation is None else rotation.as_matrix()[::-1, ::-1]
    low, high = crystal.transformed(turn).extent()
    size = high - low if isinstance(oversampling, Sequence) else np.full(3, (high - low).max())
    # rows e_i @ turn: an axis of the turned crystal, seen by the atoms
    steps = 2 * np.pi / (np.asarray(oversampling, np.float64) * size)
    return np.asarray(steps[:, None] * turn, np.float64)


def to_voxels(basis: Floats, shape: Sequence[int]) -> Floats:
    """The matrix that brings places in Å to voxels of the pattern's inverse FFT, (3, 3).

    `crystal.transformed(to_voxels(basis, shape))` is the crystal as `shapes.voxelise` and `pattern.propagate` take it.
    """
    return np.asarray(shape, np.float64)[:, None] * basis / (2 * np.pi)


def displaced(sites: Floats, phase: ArrayLike, peak: Floats) -> Floats:
    """Atoms displaced along a scattering vector, so that the object has that phase: -peak·u.

    sites: (atom, 3) Å; phase: (atom,) rad; peak: 1/Å. Returns the new positions.
    """
    return np.asarray(sites - np.asarray(phase, np.float64)[:, None] * peak / (peak @ peak), np.float64)


def surface_relaxation(sites: Floats, crystal: Polyhedron, amount: float, depth: float) -> Floats:
    """Atoms drawn in below every facet, as surfaces of metals contract; returns the new positions.

    u = - amount sum over facets of exp(-(distance - normal·r) / depth) normal: what is left of a full relaxation when
    facets do not know of each other. `relax.relaxed` minimises the energy instead.

    amount, depth: Å; 1..5 % of the spacing of planes, and about one spacing, are usual
    """
    moved = sites.copy()
    for normal, distance in zip(crystal.normals, crystal.distances, strict=True):
        moved -= amount * np.exp(-np.maximum(distance - sites @ normal, 0) / depth)[:, None] * normal
    return moved


def scattered(
    positions: Floats,
    peak: Floats,
    basis: Floats,
    shape: Sequence[int],
    *,
    weights: ArrayLike = 1.0,
    exact: bool = False,
) -> NDArray[np.complex64]:
    """Kinematic sum over atoms of w exp(-i q·r) around a Bragg peak, (z, y, x) complex64.

    positions: (atom, 3) Å, about the origin, which becomes voxel n // 2 of the object
    peak, basis: q at voxel m is peak + (m - n // 2) @ basis, 1/Å
    weights: one, or one per atom
    exact: the plain sum; else a non-uniform FFT (finufft, good to 1e-6 of the largest amplitude) where it is installed

    Its inverse FFT is the object: as many atoms per voxel as its modulus says, and a phase -peak·u where they are
    displaced by u. Barnett et al., SIAM J. Sci. Comput. 41, C479 (2019), doi:10.1137/18M120885X
    """
    amplitudes = np.asarray(weights) * np.exp(-1j * (positions @ peak))
    angles = positions @ basis.T
    if np.abs(angles).max() > np.pi:
        raise SimulationError(
            "the crystal is not within the field of view about the origin; centre it or oversample more"
        )
    if finufft is None or exact:
        return _summed(angles, amplitudes.astype(np.complex64), shape)
    # finufft's modes run from -(n // 2), as here
    wave = finufft.nufft3d1(
        *(np.ascontiguousarray(a) for a in angles.T), amplitudes.astype(np.complex128), tuple(shape), isign=-1, eps=1e-7
    )
    return np.asarray(wave, np.complex64)


def _summed(angles: Floats, amplitudes: NDArray[np.complex64], shape: Sequence[int]) -> NDArray[np.complex64]:
    """The sum as products of three exponentials, a part of the atoms at a time."""
    wave = np.zeros(tuple(shape), np.complex64)
    for start in range(0, len(angles), 4096):
        part = slice(start, start + 4096)
        z, y, x = (
            np.exp(-1j * np.outer(np.arange(n) - n // 2, line)).astype(np.complex64)
            for n, line in zip(shape, angles[part].T, strict=True)
        )
        x = x.T.copy()
        for plane, factors in zip(wave, z, strict=True):
            plane += (y * (factors * amplitudes[part])) @ x
    return wave
