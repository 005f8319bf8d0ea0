"""Crystals by the thousand, simulated in batches on the device that trains: the scale that phase networks see.

A crystal's box is EDGE / oversampling voxels wide along every axis, whatever the scan: `braggd.framing`
resamples patterns to that. Of the pattern only the middle EDGE voxels are there, which is the object at low resolution.
Facets, strain and noise as in `braggd_models.simulate`, the slower, independent simulator that networks are scored on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from braggd_models.phasing import facets, fourier, strained

EDGE = 32
"""Voxels of the pattern along each axis."""

_FINER = 2
_BOX = 20  # voxels of the object's array that are filled


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """What is drawn. A pair is a range, of which every crystal draws its own value.

    phase_range: rad, peak to peak; oversampling: per axis; peak: photons in the brightest voxel, by their logarithm
    off_peak: largest distance of the zero frequency from the middle, voxels
    gaps: share of patterns with masked stripes and crosses; cropped: share whose outer part was not measured
    blurred: share that is partially coherent; alien: share with another crystal's peak at the side
    background: largest photons per voxel, mostly less
    """

    phase_range: tuple[float, float] = (0.0, 5.2 * math.pi)
    oversampling: tuple[float, float] = (1.9, 2.9)
    peak: tuple[float, float] = (3e3, 1e7)
    off_peak: float = 0.7
    gaps: float = 0.3
    cropped: float = 0.3
    blurred: float = 0.25
    alien: float = 0.05
    background: float = 0.1


@dataclass(frozen=True, slots=True, eq=False)
class Crystals:
    """A batch of patterns with their truth.

    intensity: (batch, z, y, x) float32, photons, 0 where not measured
    measured: float32, 1 where measured and 0 elsewhere
    wave: complex64, noiseless and coherent, in units in which the brightest voxel has modulus 1
    photons: (batch,) float32, of the brightest voxel; phase_range: (batch,) rad
    kind: (batch,) int64, index into `strained.KINDS`
    """

    intensity: Tensor
    measured: Tensor
    wave: Tensor
    photons: Tensor
    phase_range: Tensor
    kind: Tensor

    def to(self, device: torch.device) -> Crystals:
        """The same on a device."""
        return Crystals(*(getattr(self, f.name).to(device) for f in fields(self)))

    def __len__(self) -> int:
        return len(self.photons)


def draw(count: int, rng: torch.Generator, ranges: Ranges | None = None, edge: int = EDGE) -> Crystals:
    """A batch of crystals, on the generator's device.

    edge: voxels of the pattern along each axis; crystals scale with it
    """
    r = ranges or Ranges()
    device = rng.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=rng, device=device)

    half = edge / 2 / uniform(*r.oversampling, 3)
    crystal = facets.placed(facets.draw(count, rng), half, rng)
    size = round(_BOX * edge / EDGE) * _FINER
    line = (torch.arange(size, dtype=torch.float32, device=device) - (size - 1) / 2) / _FINER
    modulus = facets.filled(crystal, line, softness=uniform(0.7, 2.5) / _FINER)
    phase_range = uniform(*r.phase_range)
    phase, kind = strained.draw(modulus, line, half, phase_range, rng)
    tilt = 0.3 * uniform(-1, 1, 3) * (uniform(0, 1, 1) < 0.3) / half
    modulus = modulus * (1 + _plane(tilt, line)).clamp_min(0.2)
    modulus = modulus * (
        1 + uniform(0, 0.04)[:, None, None, None] * torch.randn(modulus.shape, generator=rng, device=device)
    )

    off = uniform(-1, 1, 3) * r.off_peak
    lines = [fourier.matrix(fourier.centred(edge, device) - off[:, axis, None], line, edge) for axis in range(3)]
    wave = fourier.separable(torch.polar(modulus.clamp_min(0), phase), *lines)
    wave = wave / wave.abs().amax((1, 2, 3), keepdim=True)
    photons = torch.exp(uniform(math.log(r.peak[0]), math.log(r.peak[1])))
    expected = _blurred(wave.abs().square(), 0.5 * uniform(0, 1, 3) * (uniform(0, 1, 1) < r.blurred))
    expected = expected + _aliens(expected, r.alien, rng)
    expected = expected * photons[:, None, None, None] + r.background * uniform(0, 1, 1, 1, 1) ** 3
    measured = _measured(count, edge, r, rng)
    intensity = torch.poisson(expected, generator=rng) * measured
    return Crystals(intensity, measured, wave, photons, phase_range, kind)


def _plane(slopes: Tensor, line: Tensor) -> Tensor:
    """(batch, n, n, n) of (batch, 3) slopes along z, y, x."""
    z, y, x = (slopes[:, axis, None] * line for axis in range(3))
    return z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :]


def _blurred(intensity: Tensor, widths: Tensor) -> Tensor:
    """Convolved with a Gaussian of (batch, 3) widths (one sigma), voxels."""
    at = torch.arange(intensity.shape[-1], dtype=torch.float32, device=intensity.device)
    square = (at[:, None] - at[None]) ** 2
    kernels = torch.exp(-0.5 * square / (widths[:, :, None, None] ** 2 + 1e-3))
    kernels = kernels / kernels.sum(-1, keepdim=True)
    return fourier.separable(intensity, kernels[:, 0], kernels[:, 1], kernels[:, 2])


def _aliens(intensity: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Peaks at the side: those of the batch's other crystals."""
    device = intensity.device
    count, edge = len(intensity), intensity.shape[-1]
    there = torch.rand(count, generator=rng, device=device) < share
    bright = torch.exp(torch.empty(count, device=device).uniform_(math.log(1e-4), math.log(0.1), generator=rng))
    by = torch.randint(edge // 4, edge // 2, (3,), generator=rng, device=device).tolist()
    return torch.roll(intensity, (1, *by), (0, 1, 2, 3)) * (there * bright)[:, None, None, None]


def _measured(count: int, edge: int, r: Ranges, rng: torch.Generator) -> Tensor:
    device = rng.device

    def chance(share: float) -> Tensor:
        return torch.rand(count, generator=rng, device=device) < share

    at = fourier.centred(edge, device)
    measured = torch.ones(count, edge, edge, edge, device=device)
    some, cross, rocking = chance(r.gaps), chance(0.3), chance(0.1)
    along = torch.where(rocking, 0, 1 + chance(0.5).long())
    for axis in range(3):
        middle = edge / 4 * torch.randn(count, 1, generator=rng, device=device)
        width = edge / 32 * torch.rand(count, 1, generator=rng, device=device) * 5 + 0.7
        here = some & ((along == axis) | (cross & (axis > 0)))
        line = 1 - ((at - middle).abs() * 2 < width).float() * here[:, None]
        reach = edge / 2 * (0.6 + 0.5 * torch.rand(count, 1, generator=rng, device=device))
        line = line * torch.where(chance(r.cropped)[:, None], (at.abs() <= reach).float(), 1.0)
        shape = [count, 1, 1, 1]
        shape[axis + 1] = edge
        measured = measured * line.reshape(shape)
    return measured
