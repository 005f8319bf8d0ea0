"""The iterations: one object on its way, with its support and the coherence of the beam."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from braggd.phasing import fourier
from braggd.phasing.coherence import Widths, fit_widths
from braggd.phasing.likelihood import Likelihood
from braggd.phasing.projections import (
    MIXTURES,
    blur,
    charge_flip,
    difference_map,
    intensity,
    misfit,
    project_modulus,
    relaxed,
    supported,
    update,
)
from braggd.phasing.recipe import Block, iterations
from braggd.phasing.support import shrink_wrap

_FORGETFUL = {"CF", *(name for name, (keep, _) in MIXTURES.items() if keep == 0)}

_Wrap = Callable[[NDArray[np.float32]], NDArray[np.bool_]]


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

    Memory at most, in complex64 arrays of the volume's size, those three included: ER, SF, CF, HIO and RAAR 4, with
    coherence half of one more; DM 5, ML 9. The work space of the FFT library comes on top.
    """

    def __init__(
        self,
        target: NDArray[np.float32],
        density: NDArray[np.complex64],
        support: NDArray[np.bool_],
        widths: Widths | None,
    ) -> None:
        self.target, self.density, self.support, self.widths = target, density, support, widths
        self._likelihood: Likelihood | None = None

    def run(self, recipe: tuple[Block, ...], schedule: Schedule, check: Callable[[int], None]) -> None:
        """Iterate; `check` is called with the number of the iteration, and may raise to give up."""
        total, done = iterations(recipe), 0
        for block in recipe:
            for _ in range(block.count):
                fitted = self.widths is not None and done >= schedule.coherence_from
                if fitted and (done - schedule.coherence_from) % schedule.coherence_every == 0:
                    self._fit_coherence()
                done += 1
                due = bool(schedule.support_every) and done % schedule.support_every == 0
                wrap = self._wrapping(schedule, done / total) if due else None
                self._iterate(block.algorithm, blurred=fitted, wrap=wrap)
                check(done)
            self._likelihood = None

    def constrain(self) -> None:
        """Leave nothing outside the support."""
        supported(self.density, self.support, self.density)

    def measure(self) -> tuple[float, float]:
        """Log-likelihood per voxel and R factor of the object within its support."""
        calculated = self._calculate()
        if self.widths is None:
            return misfit(calculated, self.target)
        blur(calculated, self._blurred, self.widths)
        return misfit(self._blurred, self.target)

    def _wrapping(self, schedule: Schedule, share: float) -> _Wrap:
        width = schedule.width(share)
        return lambda modulus: shrink_wrap(modulus, (width,) * 3, schedule.support_threshold, self.support)

    def _iterate(self, algorithm: str, *, blurred: bool, wrap: _Wrap | None) -> None:
        """One iteration; `wrap` makes the next support of the modulus of the projected object."""
        if algorithm == "ML":
            projected = self._descend(blurred=blurred)
        else:
            # what does not look back on the density before can do without a second array
            projected = self.density if algorithm in _FORGETFUL else self._wave
            self._project(self.density, projected, blurred=blurred)
        support = self.support
        if wrap is not None:
            intensity(projected, self._coherent)
            support = wrap(np.sqrt(self._coherent, out=self._coherent))
        if algorithm == "CF":
            charge_flip(self.density, projected, self.support)
        elif algorithm == "DM":
            relaxed(self.density, self.support, self._other)
            self._project(self._other, self._other, blurred=blurred)
            difference_map(self.density, projected, self._other, self.support)
        elif algorithm != "ML":
            update(self.density, projected, self.support, algorithm)
        self.support = support

    def _project(self, density: NDArray[np.complex64], out: NDArray[np.complex64], *, blurred: bool) -> None:
        """Onto the measured modulus; out may be density."""
        fourier.forward(density, out)
        if blurred and self.widths is not None:
            intensity(out, self._coherent)
            blur(self._coherent, self._blurred, self.widths)
            project_modulus(out, self.target, self._blurred)
        else:
            project_modulus(out, self.target)
        fourier.inverse(out, out)

    def _descend(self, *, blurred: bool) -> NDArray[np.complex64]:
        now = (self.target, self.density, self.support, self.widths if blurred else None)
        if self._likelihood is None or not self._likelihood.fits(*now):
            self._likelihood = Likelihood(*now)
        self._likelihood.iterate()
        return self.density

    def _fit_coherence(self) -> None:
        """By the object within its support: what HIO has outside is no crystal."""
        if self.widths is not None:
            self.widths = fit_widths(self._calculate(), self.target, self.widths)

    def _calculate(self) -> NDArray[np.float32]:
        """The coherent intensity of the object within its support."""
        supported(self.density, self.support, self._wave)
        fourier.forward(self._wave, self._wave)
        intensity(self._wave, self._coherent)
        return self._coherent

    @cached_property
    def _wave(self) -> NDArray[np.complex64]:
        return np.empty_like(self.density)

    @cached_property
    def _other(self) -> NDArray[np.complex64]:
        return np.empty_like(self.density)

    @cached_property
    def _coherent(self) -> NDArray[np.float32]:
        return np.empty_like(self.target)

    @cached_property
    def _blurred(self) -> NDArray[np.float32]:
        return np.empty_like(self.target)
