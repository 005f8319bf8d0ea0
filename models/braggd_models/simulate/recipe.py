"""What may be drawn for a simulated scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from braggd_models.errors import SimulationError
from braggd_models.simulate.gaps import GAPS
from braggd_models.simulate.shapes import SHAPES
from braggd_models.simulate.strain import DISLOCATIONS, STRAINS

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
    finer: samples per voxel and axis; 1 is the plain FFT of voxels, and aliases: against atoms, log counts of the far
        fringes correlate by 0.93..0.97, with 2 by 0.99, and more hardly helps
    binary: share of crystals whose voxels are full or empty, one sample each, as simple simulations have them
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
    binary: float = 0.1
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
    stretch=1.0,
    shear=0.0,
    irregularity=0.0,
    shift=0.0,
    off_peak=0.0,
    finer=1,
    binary=0.0,
    edge=0.0,
    rough=0.0,
    crystal="wulff",
)
"""Nothing but a crystal, its phase and Poisson noise."""

REAL = Recipe(
    stretch=1.6,
    shear=0.4,
    coherence=0.8,
    background=0.1,
    flux_jitter=0.01,
    aliens=1,
    gap=GAPS,
    dead_pixels=8,
    lost_frames=1,
    hot_pixels=2,
    spikes=2,
    strain=tuple(STRAINS),
    keep_slope=True,
)
"""All that scans suffer from."""


def checked(recipe: Recipe | None, changes: Mapping[str, Any]) -> Recipe:
    """A recipe with some fields changed. Raises SimulationError where it asks for what cannot be."""
    recipe = recipe or Recipe()
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
