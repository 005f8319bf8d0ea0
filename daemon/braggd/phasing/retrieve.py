"""From measured amplitudes to an object: random starts on the pattern's middle, the best refined on all of it.

The middle of the pattern holds most of the photons and decides which object it is, at an eighth of the cost. What is
found there begins the refinement on the whole pattern, which only has the details left to find.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from braggd.config import PhasingConfig
from braggd.errors import PhasingError
from braggd.phasing import coherence, fourier
from braggd.phasing.align import posed
from braggd.phasing.pattern import Pattern, prepare
from braggd.phasing.ranking import Quality, choose, judge
from braggd.phasing.recipe import iterations, parse
from braggd.phasing.solver import Schedule, Solver
from braggd.phasing.support import components, from_autocorrelation, shrink_wrap

Progress = Callable[[float, str], None]

_AUTOCORRELATION = 0.1  # of its maximum: the first support
_SEEDED = 0.25  # share of a start's iterations in which the guess holds the masked voxels
_FITTED = 0.6  # share of a start's iterations after which the coherence is fitted
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Retrieved:
    """A retrieved object.

    density: (z, y, x) complex64, 0 outside the support, its middle at the array's n // 2, mean phase 0;
        `fftshift(fftn(ifftshift(density)))` is the coherent wave, whose modulus is sqrt(photons)
    support: bool
    metrics: `llk`, `r_factor`, `support_voxels`, `components`, `start` (index of the start that won), `starts`,
        `rejected` (starts with a fault), `coherence_z`, `_y`, `_x` (width of the blur, voxels, if fitted)
    runs: the figures of each start, on the middle of the pattern
    warnings: sentences
    """

    density: NDArray[np.complex64]
    support: NDArray[np.bool_]
    metrics: Mapping[str, float]
    runs: tuple[Quality, ...]
    warnings: tuple[str, ...]


def retrieve(
    amplitude: NDArray[np.float32],
    valid: NDArray[np.bool_],
    config: PhasingConfig,
    *,
    guess: NDArray[np.float32] | None = None,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Retrieved:
    """Phase a diffraction pattern.

    amplitude: (z, y, x) float32, sqrt(photons), zero frequency at n // 2, undefined where not valid
    valid: bool, True where measured; elsewhere the wave is free, but for a bound
    guess: float32, amplitudes with the masked voxels filled: they hold the wave there in the first iterations only
    progress: told the share done, 0..1, and what is being done; stop: asked at every iteration whether to give up

    Raises PhasingError where there is nothing to phase, the recipe is wrong, or `stop` said so.
    """
    whole = prepare(amplitude, valid, guess)
    middle = whole.middle() if config.coarse else whole
    course = _Course(config, middle, whole, progress, stop)

    solvers, qualities = [], []
    for index in range(config.starts):
        solver, quality = _start(index, middle, config, course)
        solvers.append(solver)
        qualities.append(quality)
        _log.debug("start %d: %s", index, quality)
    best = choose(qualities)

    solver = _refine(solvers[best], middle, whole, config, course)
    quality = judge(*solver.measure(), solver.support)
    density, support = posed(fourier.centre(solver.density), fourier.centre(solver.support))
    return Retrieved(
        density=density,
        support=support,
        metrics=_metrics(quality, qualities, best, solver.widths),
        runs=tuple(qualities),
        warnings=_warnings(quality, qualities),
    )


def warm_up(config: PhasingConfig) -> None:
    """Compile the kernels and plan the transforms now, not when the first scan waits."""
    edge = np.arange(16) - 8
    square = sum(np.meshgrid(edge**2, edge**2, edge**2, sparse=True))
    amplitude = (100 * np.exp(-square / 20)).astype(np.float32)
    short = PhasingConfig(recipe="2*HIO", refine="2*ER", starts=1, support_every=1, coherence=config.coherence)
    retrieve(amplitude, amplitude < 90, short)
    plan = np.ones(config.shape, np.complex64)
    fourier.forward(plan, plan)
    fourier.inverse(plan, plan)


class _Course:
    """How far the work is, in voxels gone through; gives up when told to."""

    def __init__(
        self,
        config: PhasingConfig,
        middle: Pattern,
        whole: Pattern,
        progress: Progress | None,
        stop: Callable[[], bool] | None,
    ) -> None:
        self.recipe, self.refinement = parse(config.recipe), parse(config.refine)
        self._progress, self._stop = progress, stop
        self._starts = config.starts
        self._start_cost = iterations(self.recipe) * middle.target.size
        self._iteration_cost = {"start": middle.target.size, "refine": whole.target.size}
        self._total = config.starts * self._start_cost + iterations(self.refinement) * whole.target.size

    def start(self, index: int) -> Callable[[int], None]:
        """What a start calls at each iteration."""
        return self._check("start", index * self._start_cost, f"random start {index + 1} of {self._starts}")

    def refine(self) -> Callable[[int], None]:
        """What the refinement calls at each iteration."""
        return self._check("refine", self._starts * self._start_cost, "refining the best start")

    def _check(self, kind: str, before: int, doing: str) -> Callable[[int], None]:
        cost = self._iteration_cost[kind]

        def check(done: int) -> None:
            if self._stop is not None and self._stop():
                raise PhasingError("the phasing was stopped before its end; reprocess the scan to begin anew")
            if self._progress is not None:
                self._progress((before + done * cost) / self._total, doing)

        return check


def _start(index: int, pattern: Pattern, config: PhasingConfig, course: _Course) -> tuple[Solver, Quality]:
    random = np.random.default_rng([config.seed, index])
    support = from_autocorrelation(pattern.filled, _AUTOCORRELATION)
    phase = random.uniform(-np.pi, np.pi, pattern.target.shape).astype(np.float32)
    density = (pattern.filled * np.exp(1j * phase)).astype(np.complex64)
    fourier.inverse(density, density)
    widths = coherence.START if config.coherence else None
    solver = Solver(pattern.target, density, support, widths)
    solver.constrain()
    recipe, check = course.recipe, course.start(index)
    seeded = int(_SEEDED * iterations(recipe)) if pattern.guessed else 0

    def release(done: int) -> None:
        if done == seeded:
            solver.target = pattern.target
        check(done)

    if seeded:
        solver.target = pattern.filled
    solver.run(recipe, _schedule(config, (2.0, 0.8), round(_FITTED * iterations(recipe))), release)
    return solver, judge(*solver.measure(), solver.support)


def _refine(found: Solver, middle: Pattern, whole: Pattern, config: PhasingConfig, course: _Course) -> Solver:
    if middle is whole:
        density, support = found.density, found.support
    else:
        density = whole.embed(found.density * found.support, middle)
        support = shrink_wrap(np.abs(density), (1.2,) * 3, config.support_threshold, np.zeros(density.shape, np.bool_))
    solver = Solver(whole.target, density, support, found.widths)
    solver.constrain()
    solver.run(course.refinement, _schedule(config, (1.2, 0.8), 0), course.refine())
    if config.one_piece:
        solver.support = components(solver.support)[1]
    solver.constrain()
    return solver


def _schedule(config: PhasingConfig, smoothing: tuple[float, float], coherence_from: int) -> Schedule:
    return Schedule(
        support_every=config.support_every,
        support_threshold=config.support_threshold,
        smoothing=smoothing,
        coherence_from=coherence_from,
    )


def _metrics(quality: Quality, starts: list[Quality], best: int, widths: coherence.Widths | None) -> dict[str, float]:
    metrics = {name: float(value) for name, value in asdict(quality).items()}
    metrics |= {
        "start": float(best),
        "starts": float(len(starts)),
        "rejected": float(sum(bool(start.fault) for start in starts)),
    }
    if widths is not None:
        metrics |= dict(zip(("coherence_z", "coherence_y", "coherence_x"), widths, strict=True))
    return metrics


def _warnings(quality: Quality, starts: list[Quality]) -> tuple[str, ...]:
    said = []
    if all(start.fault for start in starts):
        said.append(
            f"no start gave one compact object (the best {starts[choose(starts)].fault}); look at mask and peak"
        )
    if quality.fault:
        said.append(f"the refined object {quality.fault}; do not rely on it")
    return tuple(said)
