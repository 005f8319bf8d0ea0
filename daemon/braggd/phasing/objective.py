"""How far a homogeneous crystal's pattern is from the measured one, and the gradient of that, without autograd.

The crystal is `support * exp(i phase)` on a grid half as long as the pattern on each axis, padded with zeros. Its one
amplitude follows from the photons (Parseval): the calculated and the measured counts have the same sum over the
measured voxels. Through a Fourier transform F, a loss with dL/d|F o|^2 = g has the gradient dL/do* = F^H (g F o), one
inverse transform.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from braggd.phasing import fourier
from braggd.phasing.halfspaces import coordinates, soft_support, support_gradient

Loss = Literal["mae", "poisson"]
Phase = Literal["angle", "phasor", "displacement"]
Parameters = dict[str, NDArray[Any]]
"""normals: (plane, 3) float64; distances: (plane,) float64, voxels; phase: (z, y, x) or (2, z, y, x)"""

_SMALL = 64**3  # voxels; below it, on a busy machine, the threads of a transform wait longer than one works
_DARK = 1.0  # photon, added to both counts in the Poisson loss: else the dark voxels' slopes drown all others
_ROUND = 1e-3  # rad, below which the total variation is a square: it has a slope at 0, too


class Objective:
    """The loss of one measured pattern, as a function of a crystal's parameters.

    counts: (z, y, x) float32 or float64 (the precision of all that follows), photons, zero frequency at [0, 0, 0],
        undefined where not valid
    valid: bool, True where measured; no other voxel enters
    loss: `mae`, sum |calculated - measured| / sum measured; or `poisson`, the mean over the measured voxels of
        `calculated - measured + measured log(measured / calculated)`
    phase: what the parameter is: `angle`, rad; `phasor`, (2, z, y, x), the cosine and sine up to a positive factor;
        `displacement`, times `scattering_vector` the angle
    scattering_vector: |Q|, the inverse of the displacement's unit
    softness: of the support's border, voxels
    smoothness: weight of the phase's total variation (mean over the voxels, sum over the axes)
    compactness: weight of the support's share of the object grid
    """

    def __init__(
        self,
        counts: NDArray[Any],
        valid: NDArray[np.bool_],
        *,
        loss: Loss = "mae",
        phase: Phase = "angle",
        scattering_vector: float = 1.0,
        softness: float = 0.6,
        smoothness: float = 0.0,
        compactness: float = 0.0,
    ) -> None:
        self.counts = np.ascontiguousarray(np.where(valid, counts, 0), counts.dtype)
        self.box = tuple(n // 2 for n in counts.shape)
        self.grid = coordinates(self.box)
        self._mask = None if valid.all() else valid.astype(counts.dtype)
        self._measured = int(valid.sum())
        self.photons = float(self.counts.sum(dtype=np.float64))
        self._loss, self._phase = loss, phase
        self._q, self._softness = scattering_vector, softness
        self._smoothness, self._compactness = smoothness, compactness
        self._wave = np.empty(counts.shape, np.result_type(counts.dtype, np.complex64))
        self._inside = tuple(slice(n) for n in self.box)

    def support(self, parameters: Parameters) -> NDArray[Any]:
        """The soft support on the object grid."""
        shape = parameters["normals"], parameters["distances"]
        return soft_support(*shape, self._softness, self.grid, self.counts.dtype)

    def angle(self, parameters: Parameters) -> NDArray[Any]:
        """The phase on the object grid, rad."""
        phase = parameters["phase"]
        if self._phase == "phasor":
            return np.asarray(np.arctan2(phase[1], phase[0]))
        return phase * self._dtype(self._q) if self._phase == "displacement" else phase

    def density(self, parameters: Parameters) -> NDArray[Any]:
        """The object on its grid, with its amplitude."""
        shape = self.support(parameters) * np.exp(1j * self.angle(parameters))
        return np.asarray(shape * np.sqrt(self._transform(shape)[1]))

    def __call__(self, parameters: Parameters) -> tuple[float, Parameters]:
        """The loss, and its gradient by each parameter; NaN where nothing is left of the object."""
        support, angle = self.support(parameters), self.angle(parameters)
        unit = np.empty(self.box, self._wave.dtype)
        np.cos(angle, out=unit.real)
        np.sin(angle, out=unit.imag)
        loss, back = self._pattern(support * unit)
        back *= np.conj(unit)
        by_support, by_angle = 2 * back.real, 2 * support * back.imag
        if self._compactness:
            loss += self._compactness * float(support.mean(dtype=np.float64))
            by_support += self._compactness / support.size
        if self._smoothness:
            variation, slope = total_variation(angle)
            loss += self._smoothness * variation
            by_angle += self._smoothness * slope
        normals, distances = parameters["normals"], parameters["distances"]
        by_normals, by_distances = support_gradient(normals, distances, self._softness, self.grid, support, by_support)
        by_phase = self._by_phase(parameters["phase"], by_angle)
        return loss, {"normals": by_normals, "distances": by_distances, "phase": by_phase}

    def _by_phase(self, phase: NDArray[Any], by_angle: NDArray[Any]) -> NDArray[Any]:
        if self._phase == "phasor":
            turn = by_angle / np.sum(phase**2, axis=0)
            return np.stack([-phase[1] * turn, phase[0] * turn])
        return by_angle * self._dtype(self._q) if self._phase == "displacement" else by_angle

    def _transform(self, shape: NDArray[Any]) -> tuple[NDArray[Any], float]:
        """The intensity of an object, and the factor from it to photons; its wave stays in self._wave.

        The object lies in the array's corner: that only turns the wave's phase.
        """
        self._wave[...] = 0
        self._wave[self._inside] = shape
        _forward(self._wave)
        intensity = self._wave.real**2
        intensity += self._wave.imag**2
        if self._mask is not None:
            intensity *= self._mask
        total = float(intensity.sum(dtype=np.float64))
        return intensity, self.photons / total if total > 0 else np.nan

    def _pattern(self, shape: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """The pattern's loss, and half its gradient by the object (real + i imaginary part)."""
        calculated, factor = self._transform(shape)
        calculated *= self._dtype(factor)
        loss, slope = self._misfit(calculated)
        # the amplitude follows the photons: what scales the whole pattern changes nothing
        slope -= self._dtype(float(np.vdot(slope, calculated)) / self.photons)
        if self._mask is not None:
            slope *= self._mask
        self._wave *= slope
        _inverse(self._wave)
        return loss, self._wave[self._inside] * self._dtype(factor * slope.size)

    def _misfit(self, calculated: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """The loss, and its slope by the calculated counts; both counts are 0 where nothing was measured."""
        difference = calculated - self.counts
        if self._loss == "mae":
            loss = float(np.abs(difference).sum(dtype=np.float64)) / self.photons
            return loss, np.sign(difference, out=difference) / self._dtype(self.photons)
        dark = self._dtype(_DARK)
        expected, seen = calculated + dark, self.counts + dark
        divergence = difference + seen * np.log(seen / expected)
        loss = float(divergence.sum(dtype=np.float64)) / self._measured
        difference /= expected
        difference /= self._dtype(self._measured)
        return loss, difference

    @property
    def _dtype(self) -> Any:
        return self.counts.dtype.type


def total_variation(angle: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    """How much a phase changes from voxel to voxel, and the gradient of that.

    angle: (z, y, x), rad

    The mean over the voxels of `sum_axes sqrt(2 - 2 cos(step) + 1e-6)`: |step| where it is small, blind to 2 pi.
    """
    total, gradient = 0.0, np.zeros_like(angle)
    for axis in range(3):
        step = np.diff(angle, axis=axis)
        size = np.sqrt(4 * np.sin(step / 2) ** 2 + angle.dtype.type(_ROUND) ** 2)
        total += float(size.sum(dtype=np.float64))
        pull = np.sin(step) / size
        low, high = (tuple(cut if a == axis else slice(None) for a in range(3)) for cut in (slice(-1), slice(1, None)))
        gradient[high] += pull
        gradient[low] -= pull
    return total / angle.size, gradient / angle.size


def _forward(wave: NDArray[Any]) -> None:
    if wave.size <= _SMALL:
        wave[...] = scipy.fft.fftn(wave, overwrite_x=True, workers=1)
    else:
        fourier.forward(wave, wave)


def _inverse(wave: NDArray[Any]) -> None:
    if wave.size <= _SMALL:
        wave[...] = scipy.fft.ifftn(wave, overwrite_x=True, workers=1)
    else:
        fourier.inverse(wave, wave)
