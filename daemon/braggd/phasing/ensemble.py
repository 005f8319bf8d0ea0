"""Several starts on one pattern: begun at random or from a seed, stopped when they fall behind, ranked at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from braggd.config import PhasingConfig
from braggd.phasing import coherence, fourier
from braggd.phasing.align import align
from braggd.phasing.arrays import beside, give_up, lesser, to_host, usable
from braggd.phasing.pattern import Pattern
from braggd.phasing.projections import misfit
from braggd.phasing.ranking import BEHIND, Quality, choose, compare, judge
from braggd.phasing.recipe import Block, iterations, parse
from braggd.phasing.reduced import Reduced
from braggd.phasing.solver import Schedule, Soft, Solver
from braggd.phasing.support import first_support, shrink_wrap

Check = Callable[[int], None]

_GENEROUS = (2.2, 1.8)  # times the voxels that the object is said to fill: most of the support, early and late
_TIGHTNESS = (1.0, 1.4, 1.8, 0.8, 1.2)  # times the support's thresholds, by turns: no one level finds every crystal
_GROWN = 1.5  # times the voxels that a start found: most of the support when it is refined
_HELD = 0.15  # share of a start's iterations in which the guess holds the masked voxels
_MILESTONE = 0.6  # share of a start's iterations after which it is compared with those before
_LAGGING = 4.0  # times the rank that the best start had there: it will not catch up
SAME = 0.97
"""Correlation of the moduli of two runs that are the same object."""
_SAME_PHASE = 0.96  # the same of the objects themselves
_CONTENDING = 2.5  # ratio of the ranks up to which another object may still turn out to be the better one
_AS_GOOD = 2.0  # ratio of the ranks of two starts that agree
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Seed:
    """An object to begin with, in place of a random one.

    name: where it comes from, as "network" or "previous"
    density: (z, y, x) complex64, on the grid of the whole pattern, its middle at n // 2
    """

    name: str
    density: NDArray[np.complex64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Run:
    """A start that came to its end, or was stopped on the way (its quality then says so).

    origin: "random", or the seed's name; number: of the start, from 0
    tightness: what it multiplied the support's thresholds by
    solver: its object, with the zero frequency at [0, 0, 0]
    """

    origin: str
    number: int
    tightness: float
    solver: Solver
    quality: Quality


class _LaggingError(Exception):
    """Thrown through a run that fell behind."""


class Ensemble:
    """The starts on one pattern.

    pattern: what they are phased on
    seeds: on this pattern's grid, zero frequency at [0, 0, 0]; they go first
    recipe: algorithms of a start; seeded: of one from a seed, if other ones; starts: random ones at most
    searched: starts at low resolution that the seeds come from

    runs: the starts done; solver: of the last one begun, None before the first
    """

    def __init__(
        self,
        pattern: Pattern,
        config: PhasingConfig,
        seeds: Sequence[tuple[str, NDArray[np.complex64]]] = (),
        *,
        recipe: str,
        seeded: str = "",
        starts: int,
        searched: int = 0,
    ) -> None:
        self.pattern, self.config, self.seeds, self.starts = pattern, config, seeds, starts
        self.searched = searched
        self._recipes = parse(seeded or recipe), parse(recipe)
        self.support, self.voxels = first_support(pattern.filled)
        self.runs: list[Run] = []
        self.solver: Solver | None = None
        self._milestones: list[float] = []

    @property
    def best(self) -> Run:
        """The best run so far."""
        return self.runs[choose([run.quality for run in self.runs])]

    @property
    def total(self) -> int:
        """How many starts there are at most."""
        return self.starts + len(self.seeds)

    def recipe(self, number: int) -> tuple[Block, ...]:
        """What the start of that number does."""
        return self._recipes[number >= len(self.seeds)]

    def rank(self) -> tuple[Quality, ...]:
        """The runs' figures, in their order, with the faults that show beside the best.

        A run that is the same object as the best has none: it only fits worse for its tighter support.
        """
        best = self.best
        ranked = compare([run.quality for run in self.runs])
        self.runs = [
            run if run.quality.fault or (quality.fault and self.same(best, run)) else replace(run, quality=quality)
            for run, quality in zip(self.runs, ranked, strict=True)
        ]
        return tuple(run.quality for run in self.runs)

    def settled(self) -> bool:
        """Whether two runs without a fault came to the same object: it need not be looked for any longer."""
        if len(self.runs) < 2 or self.best.quality.fault:
            return False
        last, others = self.runs[-1], self.runs[:-1]
        good = [run for run in others if not run.quality.fault and self._as_good(run) and self._as_good(last)]
        return any(self.same(run, last) for run in good)

    def contenders(self) -> list[Run]:
        """The best run and, where no two agreed, the next best that is another object and nearly as good.

        Which of them fits better shows when both are refined on the whole pattern.
        """
        best = self.best
        others = [] if self.settled() else [run for run in self.runs if run.quality.fault in ("", BEHIND)]
        near = [run for run in others if run is not best and run.quality.rank <= _CONTENDING * best.quality.rank]
        return [best, *[run for run in sorted(near, key=_ranked) if not self.same(best, run)][:1]]

    def start(self, check: Check) -> Run:
        """Do the next one; `check` is called with the number of each iteration done."""
        number = len(self.runs)
        seeded = number < len(self.seeds)
        origin = self.seeds[number][0] if seeded else "random"
        tightness = _TIGHTNESS[(number if seeded else number - len(self.seeds)) % len(_TIGHTNESS)]
        solver = self.solver = self._begin(number)
        lagging = False
        try:
            recipe = self.recipe(number)
            schedule, watch = self._schedule(tightness), self._watched(solver, number, check)
            iterate(solver, recipe, schedule, watch, self.config.device)
        except _LaggingError:
            lagging = True
        solver.constrain()
        quality = measured(solver, self.pattern)
        if lagging and not quality.fault:
            quality = replace(quality, fault=BEHIND)
        run = Run(origin=origin, number=number, tightness=tightness, solver=solver, quality=quality)
        self.runs.append(run)
        _log.debug("start %d (%s): %s", number, origin, quality)
        return run

    def _begin(self, number: int) -> Solver:
        pattern, config = self.pattern, self.config
        support = self.support
        if number < len(self.seeds):
            density = self.seeds[number][1].copy()
            support = self._support_of(density)
        else:
            random = np.random.default_rng([config.seed, number - len(self.seeds)])
            phase = random.uniform(-np.pi, np.pi, pattern.target.shape).astype(np.float32)
            density = (pattern.filled * np.exp(1j * phase)).astype(np.complex64)
            fourier.inverse(density, density)
        # while the object is not found, a blur that is fitted would explain what the object does not
        solver = solver_for(pattern, density, support, None, config)
        solver.constrain()
        return solver

    def _support_of(self, density: NDArray[np.complex64]) -> NDArray[np.bool_]:
        schedule = self._schedule(1.0)
        return shrink_wrap(
            np.abs(density),
            (schedule.width(1),) * 3,
            schedule.threshold(0),
            self.support,
            relative=schedule.relative,
            most=schedule.limit(0),
        )

    def _watched(self, solver: Solver, number: int, check: Check) -> Check:
        total, random = iterations(self.recipe(number)), number >= len(self.seeds)
        held = int(_HELD * total) if self.pattern.masked else 0
        if held:
            solver.target = self.pattern.filled

        def watch(done: int) -> None:
            if done == held:
                solver.aim(self.pattern.target)
            if random and done == round(_MILESTONE * total):  # what was begun elsewhere is ahead of its time
                reached = measured(solver, self.pattern).rank
                # written so that a NaN lags
                if self._milestones and not reached <= _LAGGING * min(self._milestones):
                    raise _LaggingError
                self._milestones.append(reached)
            check(done)

        return watch

    def _schedule(self, tightness: float) -> Schedule:
        config = self.config
        early, late = _GENEROUS
        return Schedule(
            support_every=config.support_every,
            support_threshold=_tightened(config.support_threshold, tightness),
            relative=config.support_relative,
            smoothing=(2.0, 0.8),
            most=(early * self.voxels, late * self.voxels),
            uniformity=config.uniformity,
        )

    def _as_good(self, run: Run) -> bool:
        return run.quality.rank <= _AS_GOOD * self.best.quality.rank

    def same(self, one: Run, other: Run) -> bool:
        """Whether two runs came to the same object, their phases too: a mixture of both twins has the same modulus."""
        first = fourier.centre(one.solver.density)
        aligned = align(first, fourier.centre(other.solver.density))
        if aligned.correlation < SAME:
            return False
        norms = float(np.linalg.norm(first)) * float(np.linalg.norm(aligned.density))
        return abs(complex(np.vdot(first, aligned.density))) >= _SAME_PHASE * norms


def _ranked(run: Run) -> float:
    return run.quality.rank


def lifted(run: Run, reduced: Reduced | None, whole: Pattern, config: PhasingConfig) -> Run:
    """A run on the whole pattern.

    reduced: what it was found on; None: `whole` itself
    """
    if reduced is None:
        return run
    density, support = reduced.lift(run.solver.density, run.solver.support)
    return replace(run, solver=solver_for(whole, density, support, run.solver.kernels, config))


def refine(
    run: Run,
    whole: Pattern,
    recipe: tuple[Block, ...],
    config: PhasingConfig,
    check: Check,
    tightness: float,
) -> Run:
    """Go on with a run on the whole pattern; the run itself stays as it is.

    tightness: what the support's thresholds are multiplied by
    """
    density, support = run.solver.density.copy(), run.solver.support
    kernels = (run.solver.kernels or coherence.START) if config.coherence else None
    solver = solver_for(whole, density, support, kernels, config)
    solver.constrain()
    _, middle, end = config.support_threshold
    schedule = Schedule(
        support_every=config.support_every,
        support_threshold=_tightened((middle, middle, end), tightness),
        relative=config.support_relative,
        smoothing=(1.2, 0.8),
        most=(_GROWN * np.count_nonzero(support),) * 2,
        border=config.support_border,
    )
    iterate(solver, recipe, schedule, check, config.device)
    solver.constrain()
    return replace(run, tightness=tightness, solver=solver, quality=measured(solver, whole))


def solver_for(
    pattern: Pattern,
    density: NDArray[np.complex64],
    support: NDArray[np.bool_],
    kernels: coherence.Kernels | None,
    config: PhasingConfig,
) -> Solver:
    """A solver with the constraints of the configuration."""
    soft = None
    if pattern.masked and config.inpainted_weight:
        places = pattern.faint_gaps()
        soft = Soft(places=places, amplitudes=pattern.filled.reshape(-1)[places], weight=config.inpainted_weight)
    return Solver(pattern.target, density, support, kernels, soft=soft, phase_limit=config.phase_limit)


def iterate(solver: Solver, recipe: tuple[Block, ...], schedule: Schedule, check: Check, device: str) -> None:
    """Run a solver on a device of `braggd.phasing.arrays`; its arrays are in main memory before and after.

    A GPU that fails on the way is given up, and all is done again on the CPU.
    """
    chosen = usable(device)
    try:
        with solver.on(chosen):
            solver.run(recipe, schedule, check)
    except (MemoryError, RuntimeError) as error:  # what CuPy's errors of memory, driver and compiler are
        if chosen == "cpu":
            raise
        give_up(f"the GPU failed: {str(error).splitlines()[0].rstrip('.')}")
        _log.warning("%s", lesser(device))
        solver.run(recipe, schedule, check)


def measured(solver: Solver, pattern: Pattern) -> Quality:
    """The figures of a solver's object, wherever it is."""
    expected = solver.expected()
    llk, r_factor = misfit(expected, solver.target)
    withheld = np.nan if pattern.withheld is None else misfit(expected, beside(pattern.withheld, expected))[0]
    return judge(llk, r_factor, to_host(solver.density), to_host(solver.support), withheld)


def _tightened(thresholds: tuple[float, float, float], tightness: float) -> tuple[float, float, float]:
    first, middle, last = (min(0.9, tightness * threshold) for threshold in thresholds)
    return first, middle, last
