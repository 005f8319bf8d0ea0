"""The iterations: one object on its way, with its support and the coherence of the beam."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from braggd.phasing import fourier
from braggd.phasing.arrays import beside, namespace, to_device
from braggd.phasing.coherence import Kernels, fit_kernels
from braggd.phasing.likelihood import Likelihood
from braggd.phasing.projections import (
    MIXTURES,
    charge_flip,
    convolve,
    difference_map,
    intensity,
    misfit,
    project_modulus,
    pull,
    relaxed,
    supported,
    update,
    within_phase,
)
from braggd.phasing.recipe import DETWIN, Block, iterations
from braggd.phasing.support import half, shrink_wrap, solid

_CONFINED = {"ER", DETWIN}
"""What leaves nothing outside the support."""

_FORGETFUL = {"CF", DETWIN, *(name for name, (keep, _) in MIXTURES.items() if keep == 0)}

_UNEVEN_FROM = 0.85  # share of the iterations after which the object's modulus is its own
_SOLID_EVERY = 10  # iterations between two looks at which part of the object is solid

_Wrap = Callable[[NDArray[np.float32]], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What happens beside the projections. Shares are of the iterations of one run.

    support_every: iterations between two shrink-wraps, 0: the support stays
    support_threshold: see `braggd.phasing.support.shrink_wrap`; at the first iteration, at 70 % and from 95 % on. A
        tight one cuts off what is strained most, whose photons are far from the peak and few
    relative: what the threshold is a share of, "rms" or "max"
    smoothing: width of the shrink-wrap's Gaussian, voxels, at the first and from three quarters on
    most: voxels that the support may have, at the first iteration and from 70 % on
    uniformity: 0..1, how far the modulus in the object's solid part is drawn to its root mean square at the first
        iteration, falling to 0 at 85 %
    border: only voxels that near to the support's border may change; 0: all
    coherence_every: iterations between two fits of the coherence
    coherence_from: iteration of the first of them
    """

    support_every: int = 20
    support_threshold: tuple[float, float, float] = (0.2, 0.18, 0.18)
    relative: str = "rms"
    smoothing: tuple[float, float] = (2.0, 0.8)
    most: tuple[float, float] = (np.inf, np.inf)
    uniformity: float = 0.0
    border: int = 0
    coherence_every: int = 25
    coherence_from: int = 0

    def width(self, share: float) -> float:
        """The smoothing after that share of the iterations: a geometric descent."""
        first, last = self.smoothing
        return float(first * (last / first) ** min(1.0, share / 0.75))

    def threshold(self, share: float) -> float:
        """The support's threshold after that share of the iterations."""
        return float(np.interp(share, (0, 0.7, 0.95), self.support_threshold))

    def limit(self, share: float) -> float:
        """How many voxels the support may have after that share of the iterations."""
        first, last = self.most
        return first if first == last else float(np.interp(share, (0, 0.7), (first, last)))

    def evenness(self, share: float) -> float:
        """How far the modulus is drawn to its root mean square after that share of the iterations."""
        return self.uniformity * max(0.0, 1 - share / _UNEVEN_FROM)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Soft:
    """Voxels that were not measured, and what they may be expected to be: a soft constraint.

    places: int64, flat indices; amplitudes: float32, theirs; weight: 0..1, of these against the wave's own modulus
    """

    places: NDArray[np.int64]
    amplitudes: NDArray[np.float32]
    weight: float


class Solver:
    """An object under retrieval; arrays have their zero frequency and middle at [0, 0, 0].

    target: (z, y, x) float32, see `braggd.phasing.projections`
    density: complex64, changed in place
    support: bool
    kernels: of the blur by partial coherence; None: the beam is coherent
    soft: what is expected where nothing was measured
    phase_limit: rad; a voxel whose phase is farther from the object's mean phase counts as outside the support
        (Harder et al., Nat. Commun. 1, 2010, and for 0 positivity); None: any phase

    Memory at most, in complex64 arrays of the volume's size, those three included: ER, SF, CF, HIO and RAAR 4, with
    coherence half of one more; DM 5, ML 9. The work space of the FFT library comes on top.
    """

    def __init__(
        self,
        target: NDArray[np.float32],
        density: NDArray[np.complex64],
        support: NDArray[np.bool_],
        kernels: Kernels | None,
        *,
        soft: Soft | None = None,
        phase_limit: float | None = None,
    ) -> None:
        self.target, self.density, self.support, self.kernels = target, density, support, kernels
        self.soft, self.phase_limit = soft, phase_limit
        self._likelihood: Likelihood | None = None
        self._solid: tuple[NDArray[np.int64], NDArray[np.float32]] | None = None
        self._confined = False  # the density to its support
        self._boxed: tuple[NDArray[np.bool_], fourier.Box | None] | None = None

    def run(self, recipe: tuple[Block, ...], schedule: Schedule, check: Callable[[int], None]) -> None:
        """Iterate; `check` is called with the number of the iteration, and may raise to give up."""
        total, done = iterations(recipe), 0
        self._confined = False
        for block in recipe:
            for _ in range(block.count):
                fitted = self.kernels is not None and done >= schedule.coherence_from
                if fitted and (done - schedule.coherence_from) % schedule.coherence_every == 0:
                    self._fit_coherence()
                done += 1
                due = bool(schedule.support_every) and done % schedule.support_every == 0
                wrap = self._wrapping(schedule, done / total) if due else None
                evenness = schedule.evenness(done / total)
                if not evenness or done % _SOLID_EVERY == 1:
                    self._solid = None
                self._iterate(block.algorithm, blurred=fitted, wrap=wrap, evenness=evenness)
                check(done)
            self._likelihood = None

    @contextmanager
    def on(self, device: str) -> Iterator[None]:
        """Within, the arrays are on that device, `cpu` or `cuda`; afterwards in main memory.

        Where an error leaves it, they are as they were before.
        """
        before = self.target, self.density, self.support, self.kernels, self.soft
        self._move(device)
        try:
            yield
            self._move("cpu")
        except BaseException:
            if before[1] is not self.density:
                self.target, self.density, self.support, self.kernels, self.soft = before
                self._forget()
            raise

    def aim(self, target: NDArray[np.float32]) -> None:
        """Go on with another target, wherever that is."""
        self.target = beside(target, self.density)

    def constrain(self) -> None:
        """Leave nothing outside the support."""
        supported(self.density, self.support, self.density)

    def measure(self) -> tuple[float, float]:
        """Log-likelihood per voxel and R factor of the object within its support."""
        return misfit(self.expected(), self.target)

    def expected(self) -> NDArray[np.float32]:
        """The intensity of the object within its support, as the beam shows it; valid until the next iteration."""
        calculated = self._calculate()
        if self.kernels is None:
            return calculated
        convolve(calculated, self._blurred, self.kernels)
        return self._blurred

    def _move(self, device: str) -> None:
        if isinstance(self.density, np.ndarray) == (device == "cpu"):
            return
        self.target, self.density, self.support = (
            to_device(array, device) for array in (self.target, self.density, self.support)
        )
        if self.kernels is not None:
            z, y, x = (to_device(kernel, device) for kernel in self.kernels)
            self.kernels = z, y, x
        if self.soft is not None:
            places, amplitudes = (to_device(array, device) for array in (self.soft.places, self.soft.amplitudes))
            self.soft = replace(self.soft, places=places, amplitudes=amplitudes)
        self._forget()

    def _forget(self) -> None:
        """The work space, which is where the arrays were."""
        self._likelihood = self._solid = None
        for name in ("_wave", "_other", "_coherent", "_blurred"):
            self.__dict__.pop(name, None)

    def _wrapping(self, schedule: Schedule, share: float) -> _Wrap:
        width, threshold, most = schedule.width(share), schedule.threshold(share), schedule.limit(share)
        return lambda modulus: shrink_wrap(
            modulus,
            (width,) * 3,
            threshold,
            self.support,
            relative=schedule.relative,
            most=most,
            border=schedule.border,
        )

    def _iterate(self, algorithm: str, *, blurred: bool, wrap: _Wrap | None, evenness: float) -> None:
        """One iteration; `wrap` makes the next support of the modulus of the projected object."""
        if algorithm == "ML":
            projected = self._descend(blurred=blurred)
        else:
            # what does not look back on the density before can do without a second array
            projected = self.density if algorithm in _FORGETFUL else self._wave
            before = self._box() if self._confined else None
            # what looks at all of the object, to find where it is, needs all of it
            within = algorithm in _CONFINED and wrap is None and not (evenness and self._solid is None)
            after = self._box() if within else None
            self._project(self.density, projected, before, after, blurred=blurred)
            if evenness:
                self._even_out(projected, evenness)
        support = self.support
        if wrap is not None:
            intensity(projected, self._coherent)
            support = wrap(np.sqrt(self._coherent, out=self._coherent))
        inside = self._inside(projected, algorithm)
        if algorithm == "CF":
            charge_flip(self.density, projected, inside)
        elif algorithm == "DM":
            relaxed(self.density, inside, self._other)
            self._project(self._other, self._other, blurred=blurred)
            difference_map(self.density, projected, self._other, inside)
        elif algorithm != "ML":
            update(self.density, projected, inside, "ER" if algorithm == DETWIN else algorithm)
        self._confined = algorithm in _CONFINED and wrap is None
        self.support = support

    def _even_out(self, projected: NDArray[np.complex64], evenness: float) -> None:
        """Draw the modulus of the object's solid part towards its root mean square.

        A crystal is about as dense everywhere: holes where the phase winds are what the search gets caught in. Only
        what is solid is evened out, since the support reaches beyond the object.
        """
        if self._solid is None:
            intensity(projected, self._coherent)
            modulus = np.sqrt(self._coherent, out=self._coherent)
            places, level = solid(modulus, self.support)
            self._solid = places, namespace(modulus).full(places.shape, level, np.float32)
        pull(projected, *self._solid, evenness)

    def _inside(self, projected: NDArray[np.complex64], algorithm: str) -> NDArray[np.bool_]:
        """The support that this iteration's constraint is."""
        inside = self.support
        if algorithm == DETWIN:
            inside = half(inside)
        if self.phase_limit is not None and algorithm != "ML":
            inside = within_phase(projected, inside, self.phase_limit)
        return inside

    def _box(self) -> fourier.Box | None:
        """About the support; None on a GPU, where lines left out save nothing."""
        if not isinstance(self.support, np.ndarray):
            return None
        if self._boxed is None or self._boxed[0] is not self.support:
            self._boxed = self.support, fourier.box_about(self.support)
        return self._boxed[1]

    def _project(
        self,
        density: NDArray[np.complex64],
        out: NDArray[np.complex64],
        before: fourier.Box | None = None,
        after: fourier.Box | None = None,
        *,
        blurred: bool,
    ) -> None:
        """Onto the measured modulus; out may be density.

        before: outside it the density is 0; after: outside it nothing is wanted of what comes out
        """
        fourier.forward(density, out, before)
        if blurred and self.kernels is not None:
            intensity(out, self._coherent)
            convolve(self._coherent, self._blurred, self.kernels)
            project_modulus(out, self.target, self._blurred)
        else:
            project_modulus(out, self.target)
        if self.soft is not None:
            pull(out, self.soft.places, self.soft.amplitudes, self.soft.weight)
        fourier.inverse(out, out, after)

    def _descend(self, *, blurred: bool) -> NDArray[np.complex64]:
        now = (self.target, self.density, self.support, self.kernels if blurred else None)
        if self._likelihood is None or not self._likelihood.fits(*now):
            self._likelihood = Likelihood(*now)
        self._likelihood.iterate()
        return self.density

    def _fit_coherence(self) -> None:
        """By the object within its support: what HIO has outside is no crystal."""
        if self.kernels is not None:
            self.kernels = fit_kernels(self._calculate(), self.target, self.kernels)

    def _calculate(self) -> NDArray[np.float32]:
        """The coherent intensity of the object within its support."""
        supported(self.density, self.support, self._wave)
        fourier.forward(self._wave, self._wave, self._box())
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
