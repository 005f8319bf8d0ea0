"""Maximum likelihood: conjugate gradients on the Poisson log-likelihood, to end a retrieval with.

Thibault & Guizar-Sicairos, New J. Phys. 14, 063004 (2012), doi:10.1088/1367-2630/14/6/063004: minimise (eq. 5)

    L = sum over measured voxels of I - n log I,   I = |F density|^2 (blurred, where the beam is partially coherent)

whose gradient with the density's conjugate is `F^-1 [(1 - n / I) F density]`, within the support; directions after
Polak and Ribiere, and along each, I is a polynomial of second degree in the step: the line search takes no transform.
A small floor is added to n and to I: the minimum stays where both agree, and a dark voxel does not outweigh all others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braggd.phasing import fourier, projections
from braggd.phasing.projections import Kernels, convolve, flat, intensity, supported

_FLOOR = 0.1  # photons
_TRIALS = 4


class Likelihood:
    """Conjugate gradients from one density on; begun anew when support, target or blur are others.

    target: (z, y, x) float32, see `braggd.phasing.projections`; a free voxel only counts above its bound
    density: complex64, changed in place; zero outside the support from here on
    support: bool
    kernels: of the blur by partial coherence; None: the beam is coherent

    It keeps 4 complex64 and 4 float32 arrays of the volume's size; an iteration takes two Fourier transforms.
    """

    def __init__(
        self,
        target: NDArray[np.float32],
        density: NDArray[np.complex64],
        support: NDArray[np.bool_],
        kernels: Kernels | None,
    ) -> None:
        self.target, self.density, self.support, self.kernels = target, density, support, kernels
        supported(density, support, density)
        self._wave = np.empty_like(density)
        fourier.forward(density, self._wave)
        self._gradient, self._before = np.empty_like(density), np.empty_like(density)
        self._direction = np.zeros_like(density)
        self._norm = 0.0  # of the gradient before, squared
        self._constant, self._linear, self._quadratic, self._spare = (np.empty_like(target) for _ in range(4))

    def fits(
        self,
        target: NDArray[np.float32],
        density: NDArray[np.complex64],
        support: NDArray[np.bool_],
        kernels: Kernels | None,
    ) -> bool:
        """Whether this is still about the same arrays and the same blur."""
        same = self.target is target and self.density is density and self.support is support
        return same and self.kernels is kernels

    def iterate(self) -> None:
        """One step along one direction."""
        self._find_gradient()
        norm = _product(self._gradient, self._gradient)
        if norm == 0:
            return
        share = max(0.0, (norm - _product(self._gradient, self._before)) / self._norm) if self._norm else 0.0
        projections.kernels.turn(flat(self._direction), flat(self._gradient), share)
        if _product(self._direction, self._gradient) >= 0:  # uphill: begin anew with the gradient itself
            projections.kernels.turn(flat(self._direction), flat(self._gradient), 0.0)
        self._gradient, self._before, self._norm = self._before, self._gradient, norm
        change = self._gradient  # which is not needed any more
        fourier.forward(self._direction, change)
        step = self._search(change)
        projections.kernels.add(flat(self.density), step, flat(self._direction))
        projections.kernels.add(flat(self._wave), step, flat(change))

    def _find_gradient(self) -> None:
        """Also leaves the present intensity in `_constant`."""
        intensity(self._wave, self._constant)
        self._blur(self._constant)
        projections.kernels.weigh(flat(self._constant), flat(self.target), _FLOOR, flat(self._linear))
        self._blur(self._linear)  # a symmetric kernel is its own transpose
        projections.kernels.scale(flat(self._wave), flat(self._linear), flat(self._gradient))
        fourier.inverse(self._gradient, self._gradient)
        supported(self._gradient, self.support, self._gradient)

    def _search(self, change: NDArray[np.complex64]) -> float:
        """The step to the minimum along the line, by Newton's method; where L bends down, by the expected curvature."""
        projections.kernels.expand(flat(self._wave), flat(change), flat(self._linear), flat(self._quadratic))
        self._blur(self._linear)
        self._blur(self._quadratic)
        parts = [flat(array) for array in (self._constant, self._linear, self._quadratic, self.target)]
        step, low, high, best, least = 0.0, 0.0, np.inf, 0.0, np.inf
        for trial in range(_TRIALS):
            first, second, expected = projections.kernels.slope(*parts, step, _FLOOR)
            low, high = (step, high) if first < 0 else (low, step)
            if trial and abs(first) < least:
                best, least = step, abs(first)
            step -= first / max(second, 0.1 * expected, 1e-30)
            if not low < step < high:
                step = (low + high) / 2 if np.isfinite(high) else 2 * low
        return best

    def _blur(self, array: NDArray[np.float32]) -> None:
        if self.kernels is not None:
            convolve(array, self._spare, self.kernels)
            array[...] = self._spare


def _product(one: NDArray[np.complex64], other: NDArray[np.complex64]) -> float:
    return float(np.vdot(one, other).real)
