"""From measured amplitudes to an object: a search, the best refined on the whole pattern.

The middle of the pattern, where nearly all photons are, decides which object it is, at a hundredth of the cost. What is
found there begins the refinement on the whole pattern, which only has the details left to find; where starts came to
different objects, the best two are refined and compared. What several starts have in common is the final one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from braggd.config import PhasingConfig
from braggd.phasing import coherence, fourier
from braggd.phasing.align import correlation, posed
from braggd.phasing.arrays import give_up, lesser, usable
from braggd.phasing.course import Course, Progress, cost
from braggd.phasing.ensemble import SAME, Ensemble, Run, Seed, iterate, lifted, measured, refine, solver_for
from braggd.phasing.modes import aligned, decompose
from braggd.phasing.pattern import Pattern, prepare, withheld_voxels
from braggd.phasing.ranking import Quality, choose, simplest
from braggd.phasing.recipe import Block, parse
from braggd.phasing.reduced import Reduced
from braggd.phasing.search import search
from braggd.phasing.solver import Schedule
from braggd.phasing.support import components, specks

__all__ = ["Progress", "Retrieved", "Seed", "merge", "retrieve", "warm_up"]

_POLISH = (Block(20, "ER"),)  # after the merging: the mean of several runs is no longer any run's own fit
_REFINED = (0.8, 1.0, 1.8)  # tightness of the support: withheld voxels tell whether what is faint is crystal
_EXPLAINED = 0.55  # log-likelihood per voxel: noise alone gives 0.5 where there are photons
_WORTH = 0.9  # times the rank before: going on helped, and may help again
_PROLONGED = 3  # times at most
_EQUAL = 0.99  # correlation of the objects that two devices make of a small pattern
_MERGED = 5  # runs at most
_ALIKE = 1.5  # times the best rank: runs that are merged with the best
_FIGURES = ("llk", "free_llk", "r_factor", "support_voxels", "components", "twin_overlap", "unevenness")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Search:
    """What was looked for, and what came of it: `merge` goes on from there.

    whole: the pattern; free: bool, the voxels withheld from the fit, zero frequency at n // 2; None: none
    reduced: what the starts were made on; None: the whole pattern
    ensemble: the starts
    """

    whole: Pattern
    free: NDArray[np.bool_] | None
    reduced: Reduced | None
    ensemble: Ensemble

    def lifted(self, run: Run, config: PhasingConfig) -> Run:
        """A start, brought to the whole pattern."""
        return lifted(run, self.reduced, self.whole, config)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Retrieved:
    """A retrieved object.

    density: (z, y, x) complex64, 0 outside the support, its middle at the array's n // 2, mean phase 0;
        `fftshift(fftn(ifftshift(density)))` is the coherent wave, whose modulus is sqrt(photons)
    support: bool
    kernels: of the blur by partial coherence, per axis; None: the beam was taken as coherent
    free: bool, the voxels withheld from the fit, zero frequency at n // 2; None: none
    metrics: `llk`, `free_llk` (if voxels were withheld), `r_factor`, `support_voxels`, `components`, `twin_overlap`,
        `unevenness`, `start` (index of the one that won), `starts`, `rejected` (those with a fault), `searched` (starts
        at low resolution, before), `coherence_z`, `_y`, `_x` (standard deviation of the blur, voxels, if
        fitted); after merging also `merged` (runs), `mode_share`
        (of the intensity that is in the first mode), `repeatability` (mean pairwise correlation of the merged runs'
        moduli)
    origin: what won, "random" or a seed's name
    runs: the figures of each start, on the middle of the pattern
    merged: (z, y, x) complex64, the runs that were merged, aligned; empty before merging
    warnings: sentences
    search, refined: what `merge` goes on from, and the run that this is of
    """

    density: NDArray[np.complex64]
    support: NDArray[np.bool_]
    kernels: coherence.Kernels | None
    free: NDArray[np.bool_] | None
    metrics: Mapping[str, float]
    origin: str
    runs: tuple[Quality, ...]
    merged: tuple[NDArray[np.complex64], ...]
    warnings: tuple[str, ...]
    search: Search
    refined: Run


def retrieve(
    amplitude: NDArray[np.float32],
    valid: NDArray[np.bool_],
    config: PhasingConfig,
    *,
    guess: NDArray[np.float32] | None = None,
    seeds: Sequence[Seed] = (),
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Retrieved:
    """Phase a diffraction pattern: starts until two of them agree, `config.starts` at most; the best is refined.

    amplitude: (z, y, x) float32, sqrt(photons), zero frequency at n // 2, undefined where not valid
    valid: bool, True where measured; elsewhere the wave is free, but for a bound
    guess: float32, amplitudes with the masked voxels filled: they hold the wave there in the first iterations, and
        with `config.inpainted_weight` softly ever after; where the pattern is faint, tempered by the local average
    seeds: objects to begin with, beside the random starts
    progress: told the share done, 0..1, and what is being done; stop: asked at every iteration whether to give up

    Raises PhasingError where there is nothing to phase, the recipe is wrong, or `stop` said so.
    """
    free = withheld_voxels(amplitude, valid, config.free_fraction, config.seed)
    whole = prepare(amplitude, valid, guess, free)
    refinement = parse(config.refine)
    last = cost(refinement, whole)
    course = Course(progress, stop, 2 * len(_REFINED) * last)
    reduced, ensemble = search(whole, config, seeds, course)
    ensemble.rank()
    done = Search(whole=whole, free=free, reduced=reduced, ensemble=ensemble)
    contenders = [done.lifted(run, config) for run in ensemble.contenders()]
    course.skip_to_last(len(contenders) * len(_REFINED) * last)

    def refined(run: Run, tightness: float) -> Run:
        check = course.stretch(last, refinement, "refining the best start")
        return refine(run, whole, refinement, config, check, tightness)

    run = _tightest([refined(run, tightness) for run, tightness in itertools.product(contenders, _REFINED)])
    run = _prolonged(run, whole, config, course)
    return _retrieved(run, done, config)


def merge(
    found: Retrieved,
    config: PhasingConfig,
    *,
    progress: Progress | None = None,
    stop: Callable[[], bool] | None = None,
) -> Retrieved:
    """Do the starts that were spared, refine all that are as good as the best, and merge them into their first mode.

    found: of `retrieve`; what it began with is taken from there

    Raises PhasingError where `stop` said so.
    """
    ensemble, whole, refinement = found.search.ensemble, found.search.whole, parse(config.refine)
    left = range(len(ensemble.runs), ensemble.total)
    more, last = cost(refinement, whole), cost(_POLISH, whole)
    searching = sum(cost(ensemble.recipe(number), ensemble.pattern) for number in left)
    course = Course(progress, stop, searching + _MERGED * more + last)
    for _ in left:
        course.start(ensemble)
    ensemble.rank()

    def refined(run: Run) -> Run:
        if run.number == found.refined.number:
            return found.refined
        check = course.stretch(more, refinement, "refining the other starts")
        return refine(found.search.lifted(run, config), whole, refinement, config, check, found.refined.tightness)

    good = [run for run in ensemble.runs if not run.quality.fault or run is ensemble.best]
    runs = [refined(run) for run in sorted(good, key=lambda run: run.quality.rank)[:_MERGED]]
    if all(run.number != found.refined.number for run in runs):
        runs.append(found.refined)
    runs, densities = _agreeing(runs)
    modes = decompose(densities, None)
    solver = runs[0].solver
    solver = solver_for(whole, fourier.corner(modes.densities[0]), solver.support, solver.kernels, config)
    course.skip_to_last(last)
    polishing = course.stretch(last, _POLISH, "merging the runs")
    iterate(solver, _POLISH, Schedule(support_every=0), polishing, config.device)
    solver.constrain()
    best = replace(runs[0], solver=solver, quality=measured(solver, whole))
    if best.quality.rank > runs[0].quality.rank:  # the mean has to be worth it
        best = runs[0]
    figures = {"merged": float(len(runs)), "mode_share": modes.weights[0]}
    pairs = [correlation(one, other) for one, other in itertools.combinations(densities, 2)]
    if pairs:
        figures["repeatability"] = float(np.mean(pairs))
    return _retrieved(best, found.search, config, densities, figures)


def warm_up(config: PhasingConfig) -> None:
    """Compile the kernels and plan the transforms now, not when the first scan waits."""
    edge = np.arange(16) - 8
    square = sum(np.meshgrid(edge**2, edge**2, edge**2, sparse=True))
    amplitude = (100 * np.exp(-square / 20)).astype(np.float32)
    short = PhasingConfig(
        recipe="2*HIO", refine="2*ER", prolong="", starts=1, support_every=1, coherence=config.coherence, device="cpu"
    )
    here = retrieve(amplitude, amplitude < 90, short)
    if usable(config.device) != "cpu":
        there = retrieve(amplitude, amplitude < 90, msgspec.structs.replace(short, device=config.device))
        if not correlation(here.density, there.density) > _EQUAL:
            give_up("the GPU does not give what the CPU gives")
    plan = np.ones(config.shape, np.complex64)
    fourier.forward(plan, plan)
    fourier.inverse(plan, plan)


def _best(runs: Sequence[Run]) -> Run:
    return runs[choose([run.quality for run in runs])]


def _tightest(runs: Sequence[Run]) -> Run:
    """Of the best run's start, the one of the tightest support that is about as good."""
    best = _best(runs)
    same = [run for run in runs if run.number == best.number]
    return same[simplest([run.quality for run in same], [run.tightness for run in same])]


def _prolonged(run: Run, whole: Pattern, config: PhasingConfig, course: Course) -> Run:
    """Go on with a run as long as that helps and noise does not explain what is left.

    Where a strained crystal is nearly found, its last defects heal slowly, and only in one stretch of RAAR: ER between
    forgets what the iterations before had gathered outside the support.
    """
    if not config.prolong:
        return run
    recipe = parse(config.prolong)
    for _ in range(_PROLONGED):
        if run.quality.llk <= _EXPLAINED:
            break
        before, check = run, course.stretch(0, recipe, "going on with the best start")
        after = refine(run, whole, recipe, config, check, run.tightness)
        run = _best([before, after])
        if run is before or run.quality.rank > _WORTH * before.quality.rank:
            break
    return run


def _agreeing(runs: Sequence[Run]) -> tuple[list[Run], tuple[NDArray[np.complex64], ...]]:
    """The best run and those that are about as good or the same object, and their densities, laid over the best."""
    ranked = sorted(runs, key=lambda run: (bool(run.quality.fault), run.quality.rank))
    densities = aligned([fourier.centre(run.solver.density) for run in ranked])
    level = _ALIKE * ranked[0].quality.rank
    kept = [
        (run, density)
        for run, density in zip(ranked, densities, strict=True)
        if run is ranked[0]
        or (not run.quality.fault and (run.quality.rank <= level or correlation(densities[0], density) >= SAME))
    ]
    return [run for run, _ in kept], tuple(density for _, density in kept)


def _retrieved(
    run: Run,
    found: Search,
    config: PhasingConfig,
    merged: tuple[NDArray[np.complex64], ...] = (),
    more: Mapping[str, float] | None = None,
) -> Retrieved:
    solver, support = run.solver, run.solver.support
    starts = tuple(start.quality for start in found.ensemble.runs)
    density = solver.density
    if config.one_piece:
        support = components(support)[1]
        support = support & ~specks(np.abs(density) * support)
        density = density * support
    density, support = posed(fourier.centre(density), fourier.centre(support))
    return Retrieved(
        density=density,
        support=support,
        kernels=solver.kernels,
        free=found.free,
        metrics=_metrics(run, starts) | {"searched": float(found.ensemble.searched)} | dict(more or {}),
        origin=run.origin,
        runs=starts,
        merged=merged,
        warnings=_warnings(run.quality, starts, run.number, config.device),
        search=found,
        refined=run,
    )


def _metrics(run: Run, qualities: tuple[Quality, ...]) -> dict[str, float]:
    figures = asdict(run.quality)
    metrics = {name: float(figures[name]) for name in _FIGURES if np.isfinite(figures[name])}
    metrics |= {
        "start": float(run.number),
        "starts": float(len(qualities)),
        "rejected": float(sum(bool(quality.fault) for quality in qualities)),
    }
    if run.solver.kernels is not None:
        widths = coherence.widths(run.solver.kernels)
        metrics |= dict(zip(("coherence_z", "coherence_y", "coherence_x"), widths, strict=True))
    return metrics


def _warnings(quality: Quality, runs: tuple[Quality, ...], best: int, device: str) -> tuple[str, ...]:
    said = [sentence] if (sentence := lesser(device)) else []
    if all(run.fault for run in runs):
        said.append(f"no start gave one compact object (the best {runs[best].fault}); look at mask and peak")
    if quality.fault:
        said.append(f"the refined object {quality.fault}; do not rely on it")
    return tuple(said)
