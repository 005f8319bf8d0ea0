"""How many simulated crystals phase retrieval solves, from one start and from several."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from numpy.typing import NDArray

from braggd.config import PhasingConfig
from braggd.phasing import fourier
from braggd.phasing.align import accuracy, align
from braggd.phasing.ensemble import Ensemble
from braggd.phasing.pattern import prepare
from braggd.phasing.reduced import Reduced
from braggd.phasing.retrieve import merge, retrieve
from braggd_models.benchmarks import table
from braggd_models.phasing.study import amplitude_of
from braggd_models.simulate.dataset import random_crystal
from braggd_models.simulate.pattern import Simulated

SOLVED = 95.0
"""Accuracy (Masto, PhD thesis, eq. 4.5) in percent from which a crystal counts as solved."""

STRAINS = ("gaussians", "cosines", "random")
SHAPES: tuple[tuple[int, int, int], ...] = (
    *((64, 64, 64),) * 11,
    *((96, 96, 96), (80, 96, 112)),
    *((128, 128, 128),),
    *((128, 180, 230),),
)
"""Shapes of the patterns, by turns: fifteen of them are a round."""

_SEED = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One simulated crystal. phase_range: rad, peak to peak; peak: photons in the brightest voxel."""

    number: int
    shape: tuple[int, int, int]
    strain: str
    phase_range: float
    peak: float

    def simulate(self) -> Simulated:
        """The scan, with Poisson noise, up to three hot pixels and a flat background of up to 0.05 photons."""
        return random_crystal(
            _SEED + self.number,
            shape=self.shape,
            strain=self.strain,
            phase_range=(self.phase_range, self.phase_range),
            peak_counts=(self.peak, self.peak),
            oversampling=(2.0, 4.0),
            hot_pixels=3,
            background=0.05,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What phase retrieval made of a case.

    one, several, final: (accuracy in percent, mean phase error inside the crystal in rad) of one random start alone, of
        the best of several, and of the merged runs
    starts: at full resolution, until two agreed; seconds: until the best of several was refined
    """

    case: Case
    one: tuple[float, float]
    several: tuple[float, float]
    final: tuple[float, float]
    starts: int
    seconds: float


def cases(count: int) -> list[Case]:
    """The same ones every time: all strains and shapes, 1 rad to 5 pi, peaks of 1e4 to 1e6 photons."""
    made = []
    for number in range(count):
        random = np.random.default_rng([_SEED, number])
        made.append(
            Case(
                number=number,
                shape=SHAPES[number % len(SHAPES)],
                strain=STRAINS[number // len(SHAPES) % 3 if number % len(SHAPES) > 10 else number % 3],
                phase_range=float(random.uniform(1, 5 * np.pi)),
                peak=float(10 ** random.uniform(4, 6)),
            )
        )
    return made


def run(chosen: Sequence[Case], config: PhasingConfig, *, merging: bool = True, jobs: int = 1) -> Iterator[Outcome]:
    """Phase the cases, as the daemon does it: hot pixels masked, no support given, nothing set by hand.

    jobs: how many are phased at once, each in a process with one thread, if more than one; times then are of one thread
    """
    phased = partial(_outcome, config=config, merging=merging)
    if jobs == 1:
        yield from map(phased, chosen)
        return
    with _one_thread_each(), ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(phased, chosen)


def errors(density: NDArray[np.complex64], truth: Simulated) -> tuple[float, float]:
    """Accuracy in percent, and the mean phase error inside the crystal, rad, of an object with its middle at n // 2.

    The error is weighted by the true modulus. Where the object is empty there is no phase: that counts as pi / 2.
    """
    true = truth.density
    found = align(true, density).density
    inside = np.abs(true) > 0.5 * np.abs(true).max()
    weights = np.abs(true[inside]).astype(np.float64)
    ratio = found[inside] * np.conj(true[inside])
    turned = np.angle(ratio * np.exp(-1j * np.angle(ratio.sum())))
    turned -= _plane(np.argwhere(inside).astype(np.float64), turned, weights * (np.abs(turned) < 1) * (ratio != 0))
    error = np.where(ratio == 0, np.pi / 2, np.abs(turned))
    return accuracy(found, true), float(np.sum(weights * error) / weights.sum())


def _plane(at: NDArray[np.float64], angle: NDArray[np.float32], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The constant and the ramp in an angle, which a diffraction pattern does not fix; by weighted least squares."""
    columns = np.column_stack([np.ones(len(at)), at - at.mean(axis=0)])
    root = np.sqrt(weights)[:, None]
    solution = np.linalg.lstsq(columns * root, angle * root[:, 0], rcond=None)[0]
    return np.asarray(columns @ solution, np.float64)


ALGORITHMS = {
    "ER": "1700*ER",
    "SF": "1400*SF + 300*ER",
    "HIO": "1400*HIO + 300*ER",
    "RAAR": "1400*RAAR + 300*ER",
    "DM": "700*DM + 300*ER",
    "CF": "1400*CF + 300*ER",
    "ER, ML": "1400*ER + 300*ML",
    "HIO, RAAR": "1000*HIO + 400*RAAR + 300*ER",
}
"""Recipes of about as many projections, to compare what the algorithms find from one start."""


def race(chosen: Sequence[Case], recipes: Mapping[str, str]) -> Iterator[tuple[Case, dict[str, float]]]:
    """One random start of each recipe on each case, nothing else: accuracy in percent by the recipe's name."""
    for case in chosen:
        truth = case.simulate()
        amplitude, valid = amplitude_of(truth)
        whole = prepare(amplitude, valid, None)
        reduced = Reduced.full(whole, fraction=0, seed=0)
        found = {}
        for name, recipe in recipes.items():
            pattern = whole if reduced is None else reduced.pattern
            solver = Ensemble(pattern, PhasingConfig(), recipe=recipe, starts=1).start(lambda _: None).solver
            density = solver.density if reduced is None else reduced.lift(solver.density, solver.support)[0]
            found[name] = errors(fourier.centre(density), truth)[0]
        yield case, found


def compared(results: Sequence[tuple[Case, dict[str, float]]], recipes: Mapping[str, str]) -> str:
    """Markdown: the share of solved cases, by recipe and by strain, size and phase range."""
    groups = [(name, [found for case, found in results if belongs(case)]) for name, belongs in _groups(results)]
    columns = [(name, group) for name, group in groups if group]
    rows = []
    for name in recipes:
        scores = [[found[name] for found in group] for _, group in columns]
        shares = (f"{np.mean([score >= SOLVED for score in group]):.0%}" for group in scores)
        rows.append((name, recipes[name], *shares, float(np.mean(scores[0]))))
    heads = (f"{name} ({len(group)})" for name, group in columns)
    return table(("algorithm", "recipe", *heads, "mean accuracy"), rows)


def report(outcomes: Sequence[Outcome]) -> str:
    """Markdown: totals, and by strain, size, phase range and peak."""
    groups = _groups([(o.case, o) for o in outcomes])
    rows = [_row(name, [o for o in outcomes if belongs(o.case)]) for name, belongs in groups]
    head = ("crystals", "number", "one start", "best of several", "final", "phase error, solved (rad)", "starts", "s")
    missed = [
        f"- number {o.case.number}, {o.case.strain}, {o.case.phase_range:.1f} rad, {o.case.peak:.0f} photons, "
        f"{'x'.join(map(str, o.case.shape))}: {o.one[0]:.1f}, {o.several[0]:.1f}, {o.final[0]:.1f} %"
        for o in outcomes
        if min(o.one[0], o.final[0]) < SOLVED
    ]
    return "\n\n".join(
        [table(head, rows), *(["Not solved (one start, best, final):", "\n".join(missed)] if missed else [])]
    )


def _groups(results: Sequence[tuple[Case, object]]) -> list[tuple[str, Callable[[Case], bool]]]:
    """What cases are told apart by: strain, size, phase range and peak."""
    groups: list[tuple[str, Callable[[Case], bool]]] = [("all", lambda case: True)]
    groups += [(name, lambda case, name=name: case.strain == name) for name in STRAINS]  # type: ignore[misc]
    for shape in sorted({case.shape for case, _ in results}, key=np.prod):
        groups.append((" x ".join(map(str, shape)), lambda case, shape=shape: case.shape == shape))  # type: ignore[misc]
    for low, high in ((0, np.pi), (np.pi, 2 * np.pi), (2 * np.pi, 3.5 * np.pi), (3.5 * np.pi, 5 * np.pi)):
        label = f"{low:.1f} to {high:.1f} rad"
        groups.append((label, lambda case, low=low, high=high: low < case.phase_range <= high))  # type: ignore[misc]
    for low, high in ((1e4, 1e5), (1e5, 1e6)):
        label = f"{low:.0e} to {high:.0e} photons"
        groups.append((label, lambda case, low=low, high=high: low <= case.peak < high))  # type: ignore[misc]
    return groups


def _row(name: str, outcomes: Sequence[Outcome]) -> tuple[object, ...]:
    def share(stage: str) -> str:
        if not outcomes:
            return "-"
        return f"{sum(getattr(o, stage)[0] >= SOLVED for o in outcomes) / len(outcomes):.0%}"

    solved = [o.final[1] for o in outcomes if o.final[0] >= SOLVED]
    return (
        name,
        len(outcomes),
        share("one"),
        share("several"),
        share("final"),
        float(np.mean(solved)) if solved else "-",
        float(np.mean([o.starts for o in outcomes])) if outcomes else "-",
        float(np.median([o.seconds for o in outcomes])) if outcomes else "-",
    )


def _outcome(case: Case, config: PhasingConfig, merging: bool) -> Outcome:
    truth = case.simulate()
    amplitude, valid = amplitude_of(truth)
    begun = time.perf_counter()
    found = retrieve(amplitude, valid, config)
    seconds = time.perf_counter() - begun
    one = retrieve(amplitude, valid, msgspec.structs.replace(config, starts=1, quick=""))
    final = merge(found, config) if merging else found
    return Outcome(
        case=case,
        one=errors(one.density, truth),
        several=errors(found.density, truth),
        final=errors(final.density, truth),
        starts=int(found.metrics["starts"]),
        seconds=seconds,
    )


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """For processes begun within: the libraries read it once, when they are loaded."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)
