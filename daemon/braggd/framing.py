"""A pattern at low resolution: its middle, resampled so that every crystal fills the same share of the array.

So a network sees patterns, and so an object is looked for: where the middle of the pattern, which is the object at low
resolution, is sampled no finer than it has to be, an iteration costs a hundredth.

The inverse transform of an intensity is the object's autocorrelation, twice as wide as the object. How far it reaches
along each axis tells the fringe period, and so how finely the pattern is sampled; nothing has to be chosen by hand. A
window on the autocorrelation, and the transform back at other places, is the pattern resampled without aliasing. Both
are matrices along the axes. The way back is the same for the wave.

After Masto, PhD thesis, Univ. Grenoble Alpes, Fig. 4.39, where crop and binning were set by hand.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy import ndimage

from braggd.bright import smoothed
from braggd.errors import FramingError

EDGE = 32
"""Voxels of the pattern at low resolution, along each axis."""

# How many times the crystal's width the field of view is.
_OVERSAMPLING = 2.3
# The autocorrelation counts as there above this share of its middle, and above so many times its noise after smoothing;
# of simulated crystals that gives 0.94 of the width, 0.82 to 1.04 in nine of ten.
_THERE, _ABOVE_NOISE, _SMOOTHED = 0.003, 4.8, 3
_SHARE_SEEN = 0.94
_FAR, _ABOVE_FLOOR = 0.45, 2.0
_FEWEST_PHOTONS = 100.0
# The shortest crystal, in voxels, of which there is anything to see.
_NARROWEST = 3.0
_CENTRE_SHARE = 0.02  # of the brightest voxel: what the centre of mass is of

Floats = NDArray[np.float32]
Complex = NDArray[np.complex64]


@dataclass(frozen=True, eq=False)
class Framing:
    """Where the voxels of a pattern at low resolution are within it.

    shape: of the pattern; centre: of its peak, voxels; step: voxels of the pattern for one at low resolution, per axis;
    edge: voxels at low resolution along each axis
    """

    shape: tuple[int, int, int]
    centre: tuple[float, float, float]
    step: tuple[float, float, float]
    edge: int = EDGE

    @property
    def window(self) -> tuple[slice, slice, slice]:
        """The voxels of the pattern that are seen at low resolution."""
        z, y, x = (
            slice(max(0, math.floor(centre - self.edge / 2 * step)), math.ceil(centre + self.edge / 2 * step) + 1)
            for centre, step in zip(self.centre, self.step, strict=True)
        )
        return z, y, x

    def seen(self, counts: Floats, valid: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        """The pattern at low resolution, (edge, edge, edge) both: photons, and 1 where they were measured, else 0.

        counts: (z, y, x) photons, filled where not valid. A voxel counts as measured where more than half of it is;
        others hold 0.
        """
        photons = np.asarray(counts, np.float32)
        share = np.asarray(valid, np.float32)
        for axis in range(3):
            photons = _along(axis, self._resampling[axis], photons)
            share = _along(axis, self._coverage[axis], share)
        measured = share > 0.5
        # as many photons as the larger voxels would have counted
        photons = np.where(measured, np.maximum(photons, 0) * np.float32(math.prod(self.step)), 0)
        return photons.astype(np.float32), measured.astype(np.float32)

    def on_pattern(self, small: Complex) -> Complex:
        """The wave at the pattern's voxels, (z, y, x) complex64, of one (edge, edge, edge); 0 beyond it."""
        density = scipy.fft.fftshift(scipy.fft.ifftn(scipy.fft.ifftshift(np.asarray(small, np.complex64))))
        for axis in range(3):
            density = _along(axis, self._outwards[axis], density)
        return np.asarray(density, np.complex64)

    def at_low_resolution(self, density: Complex) -> Complex:
        """The wave, (edge, edge, edge) complex64, of an object on the pattern's grid, its middle at n // 2."""
        for axis in range(3):
            density = _along(axis, self._inwards[axis], density)
        return np.asarray(density, np.complex64)

    def _places(self, centre: float, step: float) -> NDArray[np.float64]:
        """Where the voxels at low resolution are along an axis of the pattern."""
        return np.asarray(centre + (np.arange(self.edge) - self.edge // 2) * step, np.float64)

    @cached_property
    def _inwards(self) -> list[Complex]:
        """Per axis, (edge, n): from the object to its wave at the places of the low resolution."""
        made = []
        for n, centre, step in zip(self.shape, self.centre, self.step, strict=True):
            places = self._places(centre, step) - n // 2
            made.append(np.exp(-2j * np.pi / n * np.outer(places, np.arange(n) - n // 2)).astype(np.complex64))
        return made

    @cached_property
    def _resampling(self) -> list[Floats]:
        """Per axis, (edge, n): band-limited interpolation within the autocorrelation's window."""
        made = []
        for n, centre, step in zip(self.shape, self.centre, self.step, strict=True):
            places = self._places(centre, step)
            lags = np.arange(n) - n // 2
            reach = n / (2 * step)
            window = np.clip((1.1 * reach - np.abs(lags)) / (0.2 * reach) + 0.5, 0, 1)
            forth = np.exp(2j * np.pi / n * np.outer(places, lags)) * window
            matrix = (forth @ np.exp(-2j * np.pi / n * np.outer(lags, np.arange(n)))).real / n
            inside = (places > -0.5) & (places < n - 0.5)
            made.append((matrix * inside[:, None]).astype(np.float32))
        return made

    @cached_property
    def _coverage(self) -> list[Floats]:
        """Per axis, (edge, n): how much of a voxel at low resolution each of the pattern's covers."""
        made = []
        for n, centre, step in zip(self.shape, self.centre, self.step, strict=True):
            places = self._places(centre, step)
            low = np.maximum(places[:, None] - step / 2, np.arange(n) - 0.5)
            high = np.minimum(places[:, None] + step / 2, np.arange(n) + 0.5)
            made.append((np.maximum(high - low, 0) / step).astype(np.float32))
        return made

    @cached_property
    def _outwards(self) -> list[Complex]:
        """Per axis, (n, edge): from an object's array to the wave at the pattern's voxels within the window."""
        made = []
        for n, centre, step in zip(self.shape, self.centre, self.step, strict=True):
            at = (np.arange(n) - centre) / step
            matrix = np.exp(-2j * np.pi / self.edge * np.outer(at, np.arange(self.edge) - self.edge // 2))
            inside = np.abs(at) <= self.edge / 2 - 0.5
            made.append((matrix * inside[:, None]).astype(np.complex64))
        return made


def framing_of(counts: Floats, edge: int = EDGE) -> Framing:
    """Find the peak's centre and the crystal's extent.

    counts: (z, y, x) photons without gaps; edge: voxels at low resolution
    Raises FramingError where there is nothing to be seen.
    """
    photons = float(np.sum(counts, dtype=np.float64))
    if not (np.isfinite(photons) and photons >= _FEWEST_PHOTONS):
        raise FramingError(f"there is nothing to see: the pattern holds {photons:.0f} photons")
    centre = centre_of(counts)
    widths = extent(counts, centre)
    if min(widths) < _NARROWEST:
        raise FramingError(
            f"there is nothing to see: the crystal would be {min(widths):.1f} voxels wide; the pattern has no fringes"
        )
    z, y, x = (max(n / (_OVERSAMPLING * w), 2 / edge) for n, w in zip(counts.shape, widths, strict=True))
    return Framing(_triple(counts.shape), centre, (z, y, x), edge)


def extent(counts: Floats, centre: tuple[float, float, float]) -> tuple[float, float, float]:
    """The width of the crystal along each axis, in voxels of the pattern's inverse transform, by its autocorrelation.

    counts: (z, y, x) photons; centre: of the peak, voxels
    """
    photons = float(np.sum(counts, dtype=np.float64))
    # a peak off the origin would turn the correlation's phase, and smoothing then cancel it
    moved = np.roll(np.asarray(counts, np.float32), [-round(c) for c in centre], (0, 1, 2))
    correlated = scipy.fft.rfftn(moved, workers=-1)
    size = _SMOOTHED
    smooth = np.abs(
        ndimage.uniform_filter(correlated.real, size, mode="nearest")
        + 1j * ndimage.uniform_filter(correlated.imag, size, mode="nearest")
    )
    level = max(_THERE * photons, _ABOVE_NOISE * math.sqrt(photons) / size**1.5)
    found = []
    for axis, n in enumerate(counts.shape):
        profile = smooth.max(axis=tuple(a for a in range(3) if a != axis))
        lags = np.minimum(np.arange(len(profile)), n - np.arange(len(profile)))
        # real scans (uneven pixels, a second crystal) leave a floor out to the farthest lags
        floor = float(np.median(profile[lags >= _FAR * n]))
        there = lags[profile > max(level, _ABOVE_FLOOR * floor)]
        found.append(((float(there.max()) if there.size else 0.0) + 0.5) / _SHARE_SEEN)
    return found[0], found[1], found[2]


def centre_of(counts: Floats) -> tuple[float, float, float]:
    """The centre of mass of what is well above the background, voxels."""
    box, smooth = smoothed(np.asarray(counts, np.float32), _three_wide, _CENTRE_SHARE, (1, 1, 1))
    bright = np.maximum(smooth - np.float32(_CENTRE_SHARE) * smooth.max(), 0)
    z, y, x = (edge.start + float(c) for edge, c in zip(box, ndimage.center_of_mass(bright), strict=True))
    return z, y, x


def _three_wide(volume: Floats) -> Floats:
    return np.asarray(ndimage.uniform_filter(volume, 3, mode="nearest"), np.float32)


def _along(axis: int, matrix: NDArray[Any], volume: NDArray[Any]) -> NDArray[Any]:
    """A matrix applied along one axis."""
    moved = np.tensordot(matrix, volume, axes=(1, axis))
    return np.moveaxis(moved, 0, axis)


def _triple(shape: tuple[int, ...]) -> tuple[int, int, int]:
    z, y, x = shape
    return z, y, x
