"""Whole simulated scans by seed, for benchmarks and training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from braggd_models.errors import SimulationError
from braggd_models.simulate.gaps import dead_pixels, lost_frames, random_gap
from braggd_models.simulate.pattern import Alien, Exposure, Simulated, expose, propagate
from braggd_models.simulate.shapes import SHAPES, Polyhedron, irregular, random_convex, random_shape, voxelise
from braggd_models.simulate.strain import DISLOCATIONS, STRAINS, random_strain, scaled

Range = tuple[float, float]
Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What may be drawn. A pair is a range, of which every scan draws its own value; equal ends fix it.

    shape: voxels of the pattern along z, y, x
    crystal, strain, gap: a kind of `SHAPES`, `STRAINS`, `GAPS`, or several, one of which is drawn
    phase_range: rad, peak to peak within the crystal; dislocations take it as a number of full turns
    oversampling: n / (extent of the crystal along an axis) along its longest axis
    stretch: axes are stretched apart by up to that factor, as voxels of a real scan are; three values in place of one
        number fix the factor of each axis (1, 1, 1 is undistorted)
    shear: largest shear, as the rocking axis is not at right angles to the detector
    rotate: turned at random
    irregularity: largest relative change of a facet's distance
    shift: largest distance of the crystal's middle from the array's, voxels
    off_peak: largest distance of the zero frequency from the array's middle, voxels of the pattern
    keep_slope: keep the mean gradient of the phase, which moves the peak
    finer: samples per voxel and axis; 1 is the plain FFT of voxels, and aliases; 2 has aliases of crystals' edges below
        the counts of most scans
    edge: largest smoothing of the crystal's surface (one sigma), voxels
    rough: largest relative rms noise of the modulus
    peak_counts: photons in the brightest voxel; drawn evenly in its logarithm
    coherence: largest blur per axis (one sigma), voxels
    background: largest photons per voxel; mostly less
    aliens: largest number of other crystals' peaks
    gap_width, gap_distance: pixels, as `gaps.random_gap` takes them
    dead_pixels, lost_frames, hot_pixels, spikes: largest numbers
    """

    shape: tuple[int, int, int] = (64, 64, 64)
    crystal: str | tuple[str, ...] = tuple(SHAPES)
    strain: str | tuple[str, ...] = tuple(kind for kind in STRAINS if kind not in DISLOCATIONS)
    phase_range: Range = (0.0, 5 * np.pi)
    oversampling: Range = (2.0, 5.0)
    stretch: float | Triple = 1.25
    shear: float = 0.2
    rotate: bool = True
    irregularity: float = 0.1
    shift: float = 0.5
    off_peak: float = 0.5
    keep_slope: bool = False
    finer: int | tuple[int, ...] = (1, 2)
    edge: float = 0.7
    rough: float = 0.03
    peak_counts: Range = (3e2, 3e6)
    coherence: float = 0.0
    background: float = 0.0
    flux_jitter: float = 0.0
    aliens: int = 0
    gap: str | tuple[str, ...] = "none"
    gap_width: tuple[int, int] = (3, 40)
    gap_distance: tuple[int, int] = (0, 40)
    dead_pixels: int = 0
    lost_frames: int = 0
    hot_pixels: int = 0
    spikes: int = 0
    saturation: float | None = None
    noise: bool = True


PLAIN = Recipe(
    stretch=1.0, shear=0.0, irregularity=0.0, shift=0.0, off_peak=0.0, finer=1, edge=0.0, rough=0.0, crystal="wulff"
)
"""Nothing but a crystal, its phase and Poisson noise."""

REAL = Recipe(
    stretch=1.6,
    shear=0.4,
    coherence=0.8,
    background=0.1,
    flux_jitter=0.01,
    aliens=1,
    gap=("none", "stripe", "cross", "two-stripes", "detector"),
    dead_pixels=8,
    lost_frames=1,
    hot_pixels=2,
    spikes=2,
    strain=tuple(STRAINS),
    keep_slope=True,
)
"""All that scans suffer from."""


def random_crystal(seed: int | np.random.Generator, recipe: Recipe | None = None, **changes: Any) -> Simulated:
    """A scan of a crystal that nobody has seen before.

    seed: the same seed and recipe make the same scan
    recipe, changes: what may be drawn; changes are fields of `Recipe`, as `phase_range=(3, 3)`

    The density's phase is that of the object, its middle near n // 2. Raises SimulationError where the recipe asks for
    what cannot be.
    """
    chosen = _checked(recipe or Recipe(), changes)
    rng = seed if isinstance(seed, np.random.Generator) else np.random.default_rng(seed)
    drawn: dict[str, Any] = {"seed": seed if isinstance(seed, int) else None}
    crystal = _place(_body(chosen, rng, drawn), chosen, rng, drawn)
    values, axes = _filled(crystal, chosen, rng, drawn)
    offset = rng.uniform(-1, 1, 3) * chosen.off_peak
    wave = propagate(values, axes, chosen.shape, offset)
    pixels, frames = _blind(chosen, rng, drawn)
    exposure = _exposure(chosen, rng)
    drawn |= {"off_peak": offset.tolist(), **asdict(exposure)}
    aliens = [_alien(chosen, rng) for _ in range(int(rng.integers(chosen.aliens + 1)))]
    drawn["aliens"] = [alien.share for alien in aliens]
    return expose(
        wave,
        exposure,
        rng,
        valid=pixels & frames,
        aliens=aliens,
        support=_support(crystal, chosen.shape),
        parameters=drawn,
    )


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


def _checked(recipe: Recipe, changes: dict[str, Any]) -> Recipe:
    unknown = sorted(set(changes) - set(Recipe.__slots__))
    if unknown:
        raise SimulationError(f"{', '.join(unknown)}: a recipe has no such field; it has {', '.join(Recipe.__slots__)}")
    chosen = replace(recipe, **changes)
    if len(chosen.shape) != 3 or min(chosen.shape) < 8:
        raise SimulationError(f"a pattern of shape {chosen.shape} is too small; give three axes of 8 or more")
    if chosen.oversampling[0] <= 1:
        raise SimulationError(f"oversampling {chosen.oversampling[0]} leaves no room for the crystal; give more than 1")
    if chosen.phase_range[0] < 0:
        raise SimulationError(f"phase_range {chosen.phase_range} is negative; give rad from 0 on")
    return chosen


def _one(options: str | tuple[str, ...], rng: np.random.Generator) -> str:
    return options if isinstance(options, str) else options[rng.integers(len(options))]


def _body(recipe: Recipe, rng: np.random.Generator, drawn: dict[str, Any]) -> Polyhedron:
    """The crystal, turned and sheared, in a unit of its own; its middle at the origin."""
    kind = _one(recipe.crystal, rng)
    drawn["crystal"] = kind
    body = irregular(random_shape(kind, rng), rng, recipe.irregularity).reduced().centred()
    turn = Rotation.from_quat(rng.normal(size=4))
    if recipe.rotate:
        body = body.rotated(turn)
        drawn["rotation_xyzw"] = turn.as_quat().tolist()
    shears = np.eye(3)
    shears[np.triu_indices(3, 1)] = rng.uniform(-1, 1, 3) * recipe.shear
    drawn["shear"] = shears[np.triu_indices(3, 1)].tolist()
    return body.transformed(shears)


def _place(body: Polyhedron, recipe: Recipe, rng: np.random.Generator, drawn: dict[str, Any]) -> Polyhedron:
    """The crystal in voxels of the pattern's inverse FFT."""
    oversampling = rng.uniform(*recipe.oversampling)
    if isinstance(recipe.stretch, tuple):
        factors = np.asarray(recipe.stretch, np.float64)
    else:
        factors = np.exp(rng.uniform(-0.5, 0.5, 3) * np.log(recipe.stretch))
    low, high = body.extent()
    size = (high - low) * factors
    scale = np.asarray(recipe.shape) * factors / (oversampling * size.max())
    body = body.scaled(scale)
    shift = rng.uniform(-1, 1, 3) * recipe.shift
    low, high = body.extent()
    # centred on its box, so that the largest crystals still fit; its middle of mass is nearly the same
    shift = np.where((high - low) > np.asarray(recipe.shape) / 2 - 2, shift - (low + high) / 2, shift)
    drawn |= {
        "oversampling": (np.asarray(recipe.shape) / (high - low)).tolist(),
        "shift": shift.tolist(),
    }
    return body.shifted(shift)


def _filled(
    crystal: Polyhedron, recipe: Recipe, rng: np.random.Generator, drawn: dict[str, Any]
) -> tuple[NDArray[np.complex64], list[NDArray[np.float64]]]:
    """The density on a grid about the crystal, and the grid's axes in voxels."""
    finer = recipe.finer if isinstance(recipe.finer, int) else recipe.finer[rng.integers(len(recipe.finer))]
    edge = float(rng.uniform(0, recipe.edge))
    rough = float(rng.uniform(0, recipe.rough))
    low, high = crystal.extent()
    axes = _grid(low, high, finer, margin=1 + int(np.ceil(3 * edge)))
    modulus = voxelise(crystal, axes)
    inside = modulus > 0.5
    if not inside.any():
        raise SimulationError(f"the crystal is smaller than a voxel in a pattern of {recipe.shape}; oversample less")
    middle, half = (low + high) / 2, (high - low) / 2
    z, y, x = np.meshgrid(
        *[((a - m) / h).astype(np.float32) for a, m, h in zip(axes, middle, half, strict=True)],
        indexing="ij",
        sparse=True,
    )
    kind = _one(recipe.strain, rng)
    phase_range = float(rng.uniform(*recipe.phase_range))
    strain = random_strain(kind, rng, crystal.shifted(-middle).scaled(1 / half), phase_range)
    phase = strain(z, y, x)
    if kind not in DISLOCATIONS:
        phase = scaled(phase, inside, phase_range, None if recipe.keep_slope else (z, y, x))
    within = phase[inside]
    drawn |= {"strain": kind, "phase_range": float(within.max() - within.min()), "finer": finer}
    drawn |= {"edge": edge, "rough": rough}
    if edge > 0:
        modulus = gaussian_filter(modulus, edge * finer, truncate=3.0, mode="constant")
    if rough > 0:
        modulus = modulus * (1 + np.float32(rough) * rng.standard_normal(modulus.shape, np.float32))
    phase = phase.astype(np.float32)
    values = np.empty(modulus.shape, np.complex64)
    values.real = modulus * np.cos(phase)
    values.imag = modulus * np.sin(phase)
    return values, axes


def _grid(low: NDArray[np.float64], high: NDArray[np.float64], finer: int, margin: int) -> list[NDArray[np.float64]]:
    """Evenly spaced coordinates about the box, `finer` in each voxel, symmetric within it."""
    within = (np.arange(finer) - (finer - 1) / 2) / finer
    return [
        (np.arange(np.floor(a) - margin, np.ceil(b) + margin + 1)[:, None] + within).ravel()
        for a, b in zip(low, high, strict=True)
    ]


def _support(crystal: Polyhedron, shape: tuple[int, int, int]) -> NDArray[np.bool_]:
    low, high = crystal.extent()
    starts = [max(-(n // 2), int(np.floor(a)) - 1) for n, a in zip(shape, low, strict=True)]
    stops = [min(n - n // 2, int(np.ceil(b)) + 2) for n, b in zip(shape, high, strict=True)]
    support = np.zeros(shape, np.bool_)
    box = tuple(slice(a + n // 2, b + n // 2) for a, b, n in zip(starts, stops, shape, strict=True))
    support[box] = voxelise(crystal, [np.arange(a, b) for a, b in zip(starts, stops, strict=True)]) > 0.5
    return support


def _blind(
    recipe: Recipe, rng: np.random.Generator, drawn: dict[str, Any]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    frames, rows, columns = recipe.shape
    kind = _one(recipe.gap, rng)
    pixels = random_gap(kind, (rows, columns), rng, width=recipe.gap_width, distance=recipe.gap_distance)
    pixels &= dead_pixels((rows, columns), int(rng.integers(recipe.dead_pixels + 1)), rng)
    drawn["gap"] = kind
    return pixels, lost_frames(frames, int(rng.integers(recipe.lost_frames + 1)), rng)


def _exposure(recipe: Recipe, rng: np.random.Generator) -> Exposure:
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


def _alien(recipe: Recipe, rng: np.random.Generator) -> Alien:
    """Another, unstrained crystal's pattern, somewhere beside the middle."""
    shape = np.asarray(recipe.shape)
    body = random_convex(rng, 12).centred()
    low, high = body.extent()
    body = body.scaled(shape / (rng.uniform(3, 8) * (high - low).max()))
    axes = _grid(*body.extent(), finer=1, margin=1)
    direction = rng.normal(size=3)
    offset = rng.uniform(0.2, 0.5) * shape * direction / np.abs(direction).max()
    wave = propagate(voxelise(body, axes), axes, recipe.shape, offset)
    share = float(np.exp(rng.uniform(np.log(1e-4), np.log(0.3))))
    return Alien(intensity=wave.real**2 + wave.imag**2, share=share)
