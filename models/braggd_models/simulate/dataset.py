"""Whole simulated scans by seed, for benchmarks and training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from braggd_models.errors import SimulationError
from braggd_models.simulate import atoms, draw
from braggd_models.simulate.pattern import Simulated, expose, propagate
from braggd_models.simulate.recipe import PLAIN, REAL, Recipe, checked
from braggd_models.simulate.relax import relaxed
from braggd_models.simulate.shapes import Polyhedron, voxelise

__all__ = ["PLAIN", "REAL", "Recipe", "atomistic_crystal", "crystals", "numbered", "random_crystal"]

Relaxation = Literal["none", "surface", "energy"]


def random_crystal(seed: int | np.random.Generator, recipe: Recipe | None = None, **changes: Any) -> Simulated:
    """A scan of a crystal that nobody has seen before.

    seed: the same seed and recipe make the same scan
    recipe, changes: what may be drawn; changes are fields of `Recipe`, as `phase_range=(3, 3)`

    The density's middle is near n // 2. Raises SimulationError where the recipe asks for what cannot be.
    """
    chosen = checked(recipe, changes)
    rng, drawn = _begin(seed)
    placed = draw.pose(draw.body(chosen, rng, drawn), chosen, rng, drawn).crystal
    values, axes = _filled(placed, chosen, rng, drawn)
    offset = _off_peak(chosen, rng, drawn)
    return _recorded(propagate(values, axes, chosen.shape, offset), placed, chosen, rng, drawn)


def atomistic_crystal(
    seed: int | np.random.Generator,
    recipe: Recipe | None = None,
    *,
    element: str = "Au",
    hkl: tuple[int, int, int] = (1, 1, 1),
    size: int = 100_000,
    relaxation: Relaxation = "surface",
    **changes: Any,
) -> Simulated:
    """A scan of a crystal made of atoms; nothing of it is made of voxels but the support.

    element, hkl: whose Bragg peak is measured; size: about how many atoms
    relaxation: of the surface, by `atoms.surface_relaxation`, or by energy, which takes a minute
    other arguments as in `random_crystal`; `finer`, `edge` and `rough` mean nothing here. Strain moves atoms along the
        scattering vector; its phase range is that of atoms, without the relaxation.

    Raises SimulationError where the recipe asks for what cannot be.
    """
    chosen = checked(recipe, changes)
    rng, drawn = _begin(seed)
    lattice = atoms.lattice_parameter(element)
    peak = atoms.reflection(hkl, lattice)
    crystal = draw.body(chosen, rng, drawn)
    crystal = crystal.scaled(np.cbrt(size * lattice**3 / 4 / crystal.volume()))
    pose = draw.pose(crystal, chosen, rng, drawn)

    sites = atoms.fcc_sites(crystal, lattice)
    z, y, x = (sites @ pose.matrix.T + pose.shift).T
    phase = draw.phase_at((z, y, x), np.ones(len(sites), np.bool_), pose.crystal, chosen, rng, drawn)
    positions = atoms.displaced(sites, phase, peak) + _relaxation(relaxation, sites, crystal, element)
    positions += np.linalg.solve(pose.matrix, pose.shift)

    basis = 2 * np.pi * pose.matrix / np.asarray(chosen.shape)[:, None]
    offset = _off_peak(chosen, rng, drawn)
    # the shift of the lattice as a whole must not turn the phase
    origin = np.exp(1j * (np.linalg.solve(pose.matrix, pose.shift) @ peak))
    wave = atoms.scattered(positions, peak - offset @ basis, basis, chosen.shape, weights=origin)
    drawn |= {"element": element, "hkl": list(hkl), "atoms": len(sites), "relaxation": relaxation}
    return _recorded(wave, pose.crystal, chosen, rng, drawn)


def crystals(
    seed: int, count: int | None = None, recipe: Recipe | None = None, *, start: int = 0, step: int = 1, **changes: Any
) -> Iterator[Simulated]:
    """Scans number start, start + step, ... of a series; `count` of them, or without end.

    Scan number n is the same whoever makes it: worker w of W takes start=w, step=W. `numbered` makes one of them.
    """
    number = start
    while count is None or number < start + step * count:
        yield numbered(seed, number, recipe, **changes)
        number += step


def numbered(seed: int, number: int, recipe: Recipe | None = None, **changes: Any) -> Simulated:
    """Scan number `number` of the series `seed`."""
    made = random_crystal(np.random.default_rng([seed, number]), recipe, **changes)
    return replace(made, parameters={**made.parameters, "seed": seed, "number": number})


def _begin(seed: int | np.random.Generator) -> tuple[np.random.Generator, draw.Drawn]:
    if isinstance(seed, np.random.Generator):
        return seed, {"seed": None}
    return np.random.default_rng(seed), {"seed": seed}


def _off_peak(recipe: Recipe, rng: np.random.Generator, drawn: draw.Drawn) -> NDArray[np.float64]:
    offset = rng.uniform(-1, 1, 3) * recipe.off_peak
    drawn["off_peak"] = offset.tolist()
    return np.asarray(offset, np.float64)


def _recorded(
    wave: NDArray[np.complex64], crystal: Polyhedron, recipe: Recipe, rng: np.random.Generator, drawn: draw.Drawn
) -> Simulated:
    valid = draw.valid(recipe, wave, rng, drawn)
    exposure = draw.exposure(recipe, rng)
    drawn |= {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(exposure).items()}
    return expose(
        wave,
        exposure,
        rng,
        valid=valid,
        aliens=draw.aliens(recipe, rng, drawn),
        support=draw.support(crystal, recipe.shape),
        parameters=drawn,
    )


def _filled(
    crystal: Polyhedron, recipe: Recipe, rng: np.random.Generator, drawn: draw.Drawn
) -> tuple[NDArray[np.complex64], list[NDArray[np.float64]]]:
    """The density on a grid about the crystal, and the grid's axes in voxels."""
    # drawn apart, so that the crystal of atoms with the same seed has the same strain
    texture = rng.spawn(1)[0]
    finer = recipe.finer if isinstance(recipe.finer, int) else recipe.finer[texture.integers(len(recipe.finer))]
    binary = bool(texture.random() < recipe.binary)
    finer = 1 if binary else finer
    edge = float(texture.uniform(0, recipe.edge))
    rough = float(texture.uniform(0, recipe.rough))
    drawn |= {"finer": finer, "binary": binary, "edge": edge, "rough": rough}
    axes = draw.grid(crystal, finer, margin=1 + int(np.ceil(3 * edge)))
    modulus = voxelise(crystal, axes)
    inside = modulus > 0.5
    if not inside.any():
        raise SimulationError(f"the crystal is smaller than a voxel in a pattern of {recipe.shape}; oversample less")
    z, y, x = np.meshgrid(*[axis.astype(np.float32) for axis in axes], indexing="ij", sparse=True)
    phase = draw.phase_at((z, y, x), inside, crystal, recipe, rng, drawn).astype(np.float32)
    if binary:
        modulus = inside.astype(np.float32)
    if edge > 0:
        modulus = gaussian_filter(modulus, edge * finer, truncate=3.0, mode="constant")
    if rough > 0:
        modulus = modulus * (1 + np.float32(rough) * texture.standard_normal(modulus.shape, np.float32))
    values = np.empty(modulus.shape, np.complex64)
    values.real = modulus * np.cos(phase)
    values.imag = modulus * np.sin(phase)
    return values, axes


def _relaxation(kind: Relaxation, sites: NDArray[np.float64], crystal: Polyhedron, element: str) -> NDArray[np.float64]:
    """How far atoms move from their sites, Å."""
    spacing = atoms.lattice_parameter(element) / np.sqrt(3)
    if kind == "surface":
        return atoms.surface_relaxation(sites, crystal, 0.02 * spacing, spacing) - sites
    if kind == "energy":
        return relaxed(sites, element) - sites
    if kind == "none":
        return np.zeros_like(sites)
    raise SimulationError(f"relaxation {kind!r} is unknown; choose one of none, surface, energy")
