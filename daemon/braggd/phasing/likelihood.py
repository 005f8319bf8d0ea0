"""Maximum likelihood: conjugate gradients on the Poisson log-likelihood, to end a retrieval with.

Thibault & Guizar-Sicairos, New J. Phys. 14, 063004 (2012), doi:10.1088/1367-2630/14/6/063004: minimise (eq. 5)

    L = sum over measured voxels of I - n log I,   I = |F density|^2 (blurred, where the beam is partially coherent)

whose gradient with the density's conjugate is `F^-1 [(1 - n / I) F density]`, within the support; directions after
Polak and Ribiere, and along each, I is a polynomial of second degree in the step: the line search takes no transform.
A small floor is added to n and to I: the minimum stays where both agree, and a dark voxel does not outweigh all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.phasing import fourier, projections
from braggd.phasing.arrays import namespace
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
        self._on = projections.kernels_for(density)
        supported(density, support, density)
        self._wave = np.empty_like(density)
        fourier.forward(density, self._wave)
        self._gradient, self._before = np.empty_like(density), np.zeros_like(density)
        self._direction = np.zeros_like(density)
        self._norm: Any = 0.0  # of the gradient before, squared; as all sums, it stays where the arrays are
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
        on, gradient, direction = self._on, flat(self._gradient), flat(self._direction)
        norm = on.dot(gradient, gradient)
        share = on.share(norm, on.dot(gradient, flat(self._before)), self._norm, on.dot(direction, gradient))
        on.turn(direction, gradient, share)
        self._gradient, self._before, self._norm = self._before, self._gradient, norm
        change = self._gradient  # which is not needed any more
        fourier.forward(self._direction, change)
        step = self._search(change)
        on.add(flat(self.density), step, direction)
        on.add(flat(self._wave), step, flat(change))

    def _find_gradient(self) -> None:
        """Also leaves the present intensity in `_constant`."""
        intensity(self._wave, self._constant)
        self._blur(self._constant)
        self._on.weigh(flat(self._constant), flat(self.target), _FLOOR, flat(self._linear))
        self._blur(self._linear)  # a symmetric kernel is its own transpose
        self._on.scale(flat(self._wave), flat(self._linear), flat(self._gradient))
        fourier.inverse(self._gradient, self._gradient)
        supported(self._gradient, self.support, self._gradient)

    def _search(self, change: NDArray[np.complex64]) -> Any:
        """The step to the minimum along the line, by Newton's method; where L bends down, by the expected curvature."""
        self._on.expand(flat(self._wave), flat(change), flat(self._linear), flat(self._quadratic))
        self._blur(self._linear)
        self._blur(self._quadratic)
        parts = [flat(array) for array in (self._constant, self._linear, self._quadratic, self.target)]
        state = namespace(change).asarray([0.0, 0.0, np.inf, 0.0, np.inf])  # see `braggd.phasing.plain.newton`
        for trial in range(_TRIALS):
            self._on.newton(state, self._on.slope(*parts, state[0], _FLOOR), trial > 0)
        return state[3]

    def _blur(self, array: NDArray[np.float32]) -> None:
        if self.kernels is not None:
            convolve(array, self._spare, self.kernels)
            array[...] = self._spare
