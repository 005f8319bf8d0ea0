"""From a crystal's density to what a detector counts.

The wave is numpy's FFT of the object, both with their middle at n // 2: `wave_of(object_of(wave))` is `wave`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import gaussian_filter

from braggd.phasing import fourier
from braggd_models.errors import SimulationError

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Simulated:
    """A rocking scan with its truth; all volumes are (z, y, x).

    counts: float32, photons; 0 where a gap, dead pixel or lost frame is, the saturation value where saturated
    noiseless: float32, the counts to expect everywhere: with background, aliens and coherence, without noise, gaps, hot
        pixels and saturation
    valid: bool, True where measured; hot pixels are not marked, as nobody knows them beforehand
    density: complex64 truth; the squared modulus of its FFT is the crystal's own fully coherent pattern in photons
    support: bool, voxels that the crystal fills by more than half
    parameters: what it was made of, by name; plain numbers, texts and lists
    """

    counts: NDArray[np.float32]
    noiseless: NDArray[np.float32]
    valid: NDArray[np.bool_]
    density: NDArray[np.complex64]
    support: NDArray[np.bool_]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def wave(self) -> NDArray[np.complex64]:
        """The crystal's own wave, complex64; its argument is the reciprocal-space phase."""
        return wave_of(self.density)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Alien:
    """The peak of another crystal; its photons add to the crystal's own.

    intensity: (z, y, x), in any unit
    share: its brightest voxel as a share of the crystal's brightest
    """

    intensity: NDArray[np.float32]
    share: float


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Exposure:
    """How a pattern is recorded.

    peak_counts: photons to expect in the crystal's brightest voxel
    coherence: width (one sigma) of the blur in reciprocal space along z, y, x, in voxels; 0 is full coherence
    background: photons per voxel, flat
    flux_jitter: relative rms of the beam's intensity from frame to frame
    hot_pixels: pixels that count far too much in every frame
    spikes: voxels that count far too much once
    saturation: counts from which a pixel is saturated, None where never
    noise: Poisson noise; without it, counts are the expectation
    """

    peak_counts: float = 1e5
    coherence: Triple = (0.0, 0.0, 0.0)
    background: float = 0.0
    flux_jitter: float = 0.0
    hot_pixels: int = 0
    spikes: int = 0
    saturation: float | None = None
    noise: bool = True


def wave_of(density: ArrayLike) -> NDArray[np.complex64]:
    """fftshift(fftn(ifftshift(density))), complex64; density: (z, y, x)."""
    wave = fourier.corner(np.asarray(density, np.complex64))
    fourier.forward(wave, wave)
    return fourier.centre(wave)


def object_of(wave: ArrayLike) -> NDArray[np.complex64]:
    """fftshift(ifftn(ifftshift(wave))), complex64; wave: (z, y, x)."""
    density = fourier.corner(np.asarray(wave, np.complex64))
    fourier.inverse(density, density)
    return fourier.centre(density)


def propagate(
    values: NDArray[Any], axes: Sequence[ArrayLike], shape: Sequence[int], offset: ArrayLike = (0.0, 0.0, 0.0)
) -> NDArray[np.complex64]:
    """The wave of a density that is sampled on a grid of its own, at the voxels of a pattern.

    values: (a, b, c) real or complex density
    axes: evenly spaced coordinates of the samples along z, y, x, voxels of the pattern's inverse FFT, 0 in its middle
    shape: of the pattern
    offset: where the pattern's zero frequency comes to lie, in voxels from n // 2; need not be whole

    Returns complex64 of that shape. The sum over samples times the volume of one, so that density 1 gives an object of
    modulus 1. Equal to `wave_of` where the samples are the voxels; a finer grid does not alias as that does, and small
    crystals in large patterns cost little: three products with exp(-2 pi i k x / n), one for each axis.
    """
    lines = [np.asarray(axis, np.float64) for axis in axes]
    volume = float(np.prod([(a[-1] - a[0]) / (len(a) - 1) if len(a) > 1 else 1.0 for a in lines]))
    shifts = np.broadcast_to(np.asarray(offset, np.float64), 3)
    first, second, third = (
        np.exp(-2j * np.pi / n * np.outer(np.arange(n) - n // 2 - s, line)).astype(np.complex64)
        for n, s, line in zip(shape, shifts, lines, strict=True)
    )
    wave = np.matmul(np.asarray(values, np.complex64) * np.float32(volume), third.T)
    wave = np.matmul(second, wave)
    return np.asarray((first @ wave.reshape(len(lines[0]), -1)).reshape(tuple(shape)), np.complex64)


def expose(
    wave: NDArray[np.complex64],
    exposure: Exposure,
    rng: np.random.Generator,
    *,
    valid: NDArray[np.bool_] | None = None,
    aliens: Sequence[Alien] = (),
    support: NDArray[np.bool_],
    parameters: Mapping[str, Any] | None = None,
) -> Simulated:
    """Record a wave.

    wave: (z, y, x) complex64, zero frequency at n // 2
    valid: bool, broadcastable to the wave; False where no counts come from, as `gaps` makes it
    support: bool, as it goes into the result

    Raises SimulationError where the wave is dark or the exposure impossible.
    """
    intensity = wave.real**2 + wave.imag**2
    brightest = float(intensity.max())
    if not (np.isfinite(brightest) and brightest > 0 and exposure.peak_counts > 0):
        raise SimulationError("the pattern is dark; give the crystal a volume and peak_counts above 0")
    if min(exposure.background, exposure.flux_jitter, *exposure.coherence) < 0:
        raise SimulationError("background, flux_jitter and coherence must not be negative")
    scale = exposure.peak_counts / brightest
    noiseless = (_blurred(intensity, exposure.coherence) * np.float32(scale)).astype(np.float32)
    for alien in aliens:
        noiseless += np.float32(alien.share * exposure.peak_counts / alien.intensity.max()) * alien.intensity
    noiseless += np.float32(exposure.background)
    if exposure.flux_jitter:
        noiseless *= np.exp(exposure.flux_jitter * rng.normal(size=(len(wave), 1, 1))).astype(np.float32)

    counts = rng.poisson(noiseless).astype(np.float32) if exposure.noise else noiseless.copy()
    _heat(counts, exposure, rng)
    measured = np.ones(wave.shape, np.bool_) if valid is None else np.broadcast_to(valid, wave.shape).copy()
    if exposure.saturation is not None:
        measured &= counts < exposure.saturation
        np.minimum(counts, np.float32(exposure.saturation), out=counts)
    if valid is not None:
        counts *= valid
    return Simulated(
        counts=counts,
        noiseless=noiseless,
        valid=measured,
        density=object_of(wave * np.float32(np.sqrt(scale))),
        support=support,
        parameters=dict(parameters or {}),
    )


def _blurred(intensity: NDArray[np.float32], widths: Triple) -> NDArray[np.float32]:
    if not any(widths):
        return intensity
    return np.asarray(gaussian_filter(intensity, widths, truncate=3.5, mode="nearest"), np.float32)


def _heat(counts: NDArray[np.float32], exposure: Exposure, rng: np.random.Generator) -> None:
    """Add hot pixels and spikes, brighter than their surroundings and up to far above the peak."""
    top = np.log(max(exposure.peak_counts * 10, 1e3))
    _, rows, columns = counts.shape
    for _ in range(exposure.hot_pixels):
        level = np.exp(rng.uniform(np.log(30), top))
        pixel = rng.integers(rows), rng.integers(columns)
        counts[:, pixel[0], pixel[1]] += rng.poisson(level, len(counts)) if exposure.noise else level
    for _ in range(exposure.spikes):
        counts[tuple(rng.integers(counts.shape))] += np.round(np.exp(rng.uniform(np.log(30), top)))
