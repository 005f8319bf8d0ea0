"""The parts of a simulated scan, drawn from a recipe. What was drawn is written into a dict beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from braggd_models.simulate.gaps import dead_pixels, lost_frames, random_gap
from braggd_models.simulate.pattern import Alien, Exposure, propagate
from braggd_models.simulate.recipe import Recipe
from braggd_models.simulate.shapes import Polyhedron, irregular, random_convex, random_shape, voxelise
from braggd_models.simulate.strain import DISLOCATIONS, Values, random_strain, scaled

Floats = NDArray[np.float64]
Drawn = dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Pose:
    """How a crystal stands in the array.

    matrix: (3, 3), from the crystal's own axes and unit to voxels of the pattern's inverse FFT; turns and distorts
    shift: (3,) of its middle of mass from the array's n // 2, voxels
    crystal: the polyhedron in voxels, so placed
    """

    matrix: Floats
    shift: Floats
    crystal: Polyhedron


def one_of(options: str | Sequence[str], rng: np.random.Generator) -> str:
    """The only option, or one of several."""
    return options if isinstance(options, str) else options[int(rng.integers(len(options)))]


def body(recipe: Recipe, rng: np.random.Generator, drawn: Drawn) -> Polyhedron:
    """A crystal along its own cubic axes, its middle of mass at the origin, in a unit of its own."""
    drawn["crystal"] = one_of(recipe.crystal, rng)
    return irregular(random_shape(drawn["crystal"], rng), rng, recipe.irregularity).reduced().centred()


def pose(crystal: Polyhedron, recipe: Recipe, rng: np.random.Generator, drawn: Drawn) -> Pose:
    """Turn, shear and stretch a crystal, and scale it to its oversampling."""
    turn = Rotation.from_quat(rng.normal(size=4)) if recipe.rotate else Rotation.identity()
    shears = np.eye(3)
    shears[np.triu_indices(3, 1)] = rng.uniform(-1, 1, 3) * recipe.shear
    if isinstance(recipe.stretch, tuple):
        stretch = np.asarray(recipe.stretch, np.float64)
    else:
        stretch = np.exp(rng.uniform(-0.5, 0.5, 3) * np.log(recipe.stretch))
    oversampling = rng.uniform(*recipe.oversampling)
    shape = np.asarray(recipe.shape)

    # numpy's (z, y, x) order of the matrix that scipy has for (x, y, z)
    matrix = stretch[:, None] * (shears @ turn.as_matrix()[::-1, ::-1])
    low, high = crystal.transformed(matrix).extent()
    matrix = shape[:, None] / (oversampling * (high - low).max()) * matrix
    placed = crystal.transformed(matrix)
    low, high = placed.extent()
    shift = rng.uniform(-1, 1, 3) * recipe.shift
    # where it nearly fills the array its box has to be in the middle, not its mass
    shift = np.where(high - low > shape / 2 - 2, shift - (low + high) / 2, shift)
    drawn |= {
        "rotation_xyzw": turn.as_quat().tolist(),
        "matrix": matrix.tolist(),
        "oversampling": (shape / (high - low)).tolist(),
        "shift": shift.tolist(),
    }
    return Pose(matrix, shift, placed.shifted(shift))


def phase_at(
    places: tuple[Values, Values, Values],
    inside: NDArray[np.bool_],
    crystal: Polyhedron,
    recipe: Recipe,
    rng: np.random.Generator,
    drawn: Drawn,
) -> Values:
    """The phase of a strained crystal, rad.

    places: (z, y, x) that broadcast, voxels; inside: which of them count for the range
    """
    low, high = crystal.extent()
    middle, half = (low + high) / 2, (high - low) / 2
    z, y, x = (np.asarray((a - m) / h, a.dtype) for a, m, h in zip(places, middle, half, strict=True))
    kind = one_of(recipe.strain, rng)
    phase_range = float(rng.uniform(*recipe.phase_range))
    field = random_strain(kind, rng, crystal.shifted(-middle).scaled(1 / half), phase_range)
    phase = field(z, y, x)
    if kind not in DISLOCATIONS:
        phase = scaled(phase, inside, phase_range, None if recipe.keep_slope else (z, y, x))
    within = phase[inside]
    drawn |= {"strain": kind, "phase_range": float(within.max() - within.min())}
    return phase


def grid(crystal: Polyhedron, finer: int, margin: int) -> list[Floats]:
    """Evenly spaced coordinates about a crystal along z, y, x, `finer` in each voxel and symmetric within it."""
    within = (np.arange(finer) - (finer - 1) / 2) / finer
    return [
        (np.arange(np.floor(a) - margin, np.ceil(b) + margin + 1)[:, None] + within).ravel()
        for a, b in zip(*crystal.extent(), strict=True)
    ]


def support(crystal: Polyhedron, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    """The voxels of an array that a crystal fills by more than half."""
    low, high = crystal.extent()
    starts = [max(-(n // 2), int(np.floor(a)) - 1) for n, a in zip(shape, low, strict=True)]
    stops = [min(n - n // 2, int(np.ceil(b)) + 2) for n, b in zip(shape, high, strict=True)]
    filled = np.zeros(shape, np.bool_)
    box = tuple(slice(a + n // 2, b + n // 2) for a, b, n in zip(starts, stops, shape, strict=True))
    filled[box] = voxelise(crystal, [np.arange(a, b) for a, b in zip(starts, stops, strict=True)]) > 0.5
    return filled


def valid(recipe: Recipe, wave: NDArray[np.complex64], rng: np.random.Generator, drawn: Drawn) -> NDArray[np.bool_]:
    """Where counts come from, (z, y, x); gaps lie by the wave's brightest pixel."""
    frames, rows, columns = recipe.shape
    drawn["gap"] = one_of(recipe.gap, rng)
    row, column = np.unravel_index(int(np.argmax(np.abs(wave))), wave.shape)[1:]
    pixels = random_gap(
        drawn["gap"],
        (rows, columns),
        rng,
        width=recipe.gap_width,
        distance=recipe.gap_distance,
        peak=(int(row), int(column)),
    )
    pixels &= dead_pixels((rows, columns), int(rng.integers(recipe.dead_pixels + 1)), rng)
    return pixels & lost_frames(frames, int(rng.integers(recipe.lost_frames + 1)), rng)


def exposure(recipe: Recipe, rng: np.random.Generator) -> Exposure:
    """How the pattern is recorded."""
    low, high = np.log(recipe.peak_counts)
    blur = rng.uniform(0, 1, 3) * recipe.coherence
    return Exposure(
        peak_counts=float(np.exp(rng.uniform(low, high))),
        coherence=(float(blur[0]), float(blur[1]), float(blur[2])),
        background=float(recipe.background * rng.random() ** 3),
        flux_jitter=float(recipe.flux_jitter * rng.random()),
        hot_pixels=int(rng.integers(recipe.hot_pixels + 1)),
        spikes=int(rng.integers(recipe.spikes + 1)),
        saturation=recipe.saturation,
        noise=recipe.noise,
    )


def aliens(recipe: Recipe, rng: np.random.Generator, drawn: Drawn) -> list[Alien]:
    """Other, unstrained crystals' peaks, somewhere beside the middle."""
    shape = np.asarray(recipe.shape)
    found = []
    for _ in range(int(rng.integers(recipe.aliens + 1))):
        other = random_convex(rng, 12).centred()
        low, high = other.extent()
        other = other.scaled(shape / (rng.uniform(3, 8) * (high - low).max()))
        axes = grid(other, 1, margin=1)
        direction = rng.normal(size=3)
        offset = rng.uniform(0.2, 0.5) * shape * direction / np.abs(direction).max()
        wave = propagate(voxelise(other, axes), axes, recipe.shape, offset)
        share = float(np.exp(rng.uniform(np.log(1e-4), np.log(0.3))))
        found.append(Alien(intensity=wave.real**2 + wave.imag**2, share=share))
    drawn["aliens"] = [alien.share for alien in found]
    return found
