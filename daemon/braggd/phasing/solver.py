"""The iterations: one object on its way, with its support and the coherence of the beam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braggd.phasing import fourier
from braggd.phasing.coherence import Widths, fit_widths
from braggd.phasing.projections import blur, intensity, misfit, project_modulus, update
from braggd.phasing.recipe import Block, iterations
from braggd.phasing.support import shrink_wrap


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What happens beside the projections.

    support_every: iterations between two shrink-wraps, 0: the support stays
    support_threshold: of the largest smoothed modulus
    smoothing: width of the shrink-wrap's Gaussian, voxels, at the first and from the last quarter on
    coherence_every: iterations between two fits of the coherence
    coherence_from: iteration of the first of them
    """

    support_every: int = 20
    support_threshold: float = 0.15
    smoothing: tuple[float, float] = (2.0, 0.8)
    coherence_every: int = 25
    coherence_from: int = 0

    def width(self, share: float) -> float:
        """The smoothing after that share of the iterations: a geometric descent, done at three quarters."""
        first, last = self.smoothing
        return float(first * (last / first) ** min(1.0, share / 0.75))


class Solver:
    """An object under retrieval; arrays have their zero frequency and middle at [0, 0, 0].

    target: (z, y, x) float32, see `braggd.phasing.projections`
    density: complex64, changed in place
    support: bool
    widths: of the coherence blur, voxels; None: the beam is coherent
    """

    def __init__(
        self,
        target: NDArray[np.float32],
        density: NDArray[np.complex64],
        support: NDArray[np.bool_],
        widths: Widths | None,
    ) -> None:
        self.target, self.density, self.support, self.widths = target, density, support, widths
        self._wave = np.empty_like(density)
        self._coherent = np.empty_like(target)
        self._blurred = np.empty_like(target)

    def run(self, recipe: tuple[Block, ...], schedule: Schedule, check: Callable[[int], None]) -> None:
        """Iterate; `check` is called with the number of the iteration, and may raise to give up."""
        total, done = iterations(recipe), 0
        for block in recipe:
            for _ in range(block.count):
                fitted = self.widths is not None and done >= schedule.coherence_from
                if fitted and (done - schedule.coherence_from) % schedule.coherence_every == 0:
                    self._fit_coherence()
                self._iterate(block.algorithm, blurred=fitted)
                done += 1
                if schedule.support_every and done % schedule.support_every == 0:
                    width = schedule.width(done / total)
                    modulus = np.abs(self._wave)
                    self.support = shrink_wrap(modulus, (width,) * 3, schedule.support_threshold, self.support)
                check(done)

    def constrain(self) -> None:
        """Leave nothing outside the support."""
        self.density *= self.support

    def measure(self) -> tuple[float, float]:
        """Log-likelihood per voxel and R factor of the object within its support."""
        self._calculate(self.density * self.support)
        if self.widths is None:
            return misfit(self._coherent, self.target)
        blur(self._coherent, self._blurred, self.widths)
        return misfit(self._blurred, self.target)

    def _iterate(self, algorithm: str, *, blurred: bool) -> None:
        fourier.forward(self.density, self._wave)
        if blurred and self.widths is not None:
            intensity(self._wave, self._coherent)
            blur(self._coherent, self._blurred, self.widths)
            project_modulus(self._wave, self.target, self._blurred)
        else:
            project_modulus(self._wave, self.target)
        fourier.inverse(self._wave, self._wave)
        update(self.density, self._wave, self.support, algorithm)

    def _fit_coherence(self) -> None:
        """By the object within its support: what HIO has outside is no crystal."""
        if self.widths is not None:
            self._calculate(self.density * self.support)
            self.widths = fit_widths(self._coherent, self.target, self.widths)

    def _calculate(self, density: NDArray[np.complex64]) -> None:
        fourier.forward(density, self._wave)
        intensity(self._wave, self._coherent)
