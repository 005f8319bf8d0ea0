"""How soon a crystal is solved from the network's object, and how soon from random phases, by the same recipe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from braggd.config import Config, InferenceConfig
from braggd.phasing import fourier
from braggd.phasing.arrays import to_host
from braggd.phasing.ensemble import Ensemble
from braggd.phasing.pattern import prepare, withheld_voxels
from braggd.phasing.recipe import ONE_RUN
from braggd.phasing.retrieve import warm_up
from braggd_models.benchmarks import table
from braggd_models.phasing.score import SOLVED
from braggd_models.phasing.study import BASELINE, Case, amplitude_of, predicted_for, score
from braggd_models.simulate.pattern import Simulated

_STARTS, _PATIENCE_S = 4, 60.0  # at most
_OFTEN, _UNTIL, _SELDOM = 10, 100, 50  # iterations between two looks at the object, at first, and later


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Seconds until an object came to SOLVED, starts in vain counted in, looks at it not; infinite after a minute.

    network: that of the network where its object is there at once; else also that of starts of which the first began
        with its object, the others at random
    random: all began at random
    """

    case: Case
    network: float
    random: float


class _OverError(Exception):
    """Thrown through a start that came to the object, or took too long; holds the seconds."""


def race(chosen: Sequence[Case], shape: tuple[int, int, int], model: str = "auto") -> Iterator[Finish]:
    """Solve the cases both ways, at full resolution, with patterns of that shape; model: the network's file."""
    config = Config(inference=InferenceConfig(phase_model=model))
    warm_up(config.phasing)
    for case in chosen:
        truth = replace(case, shape=shape).simulate()
        predicted = predicted_for(truth, config)
        seeds = [] if predicted.density is None else [("network", fourier.corner(predicted.density))]
        more = 0.0 if score(predicted.density, truth) >= SOLVED else _solved(truth, seeds)
        yield Finish(case=case, network=predicted.seconds + more, random=_solved(truth, []))


def _solved(truth: Simulated, seeds: Sequence[tuple[str, NDArray[np.complex64]]]) -> float:
    amplitude, valid = amplitude_of(truth)
    withheld = withheld_voxels(amplitude, valid, BASELINE.free_fraction, BASELINE.seed)
    begun, looking = time.perf_counter(), 0.0
    ensemble = Ensemble(prepare(amplitude, valid, None, withheld), BASELINE, seeds, recipe=ONE_RUN, starts=_STARTS)

    def look(done: int) -> None:
        nonlocal looking
        if done % (_OFTEN if done <= _UNTIL else _SELDOM) or ensemble.solver is None:
            return
        density, support = (to_host(array) for array in (ensemble.solver.density, ensemble.solver.support))
        now = time.perf_counter()
        if score(fourier.centre(np.where(support, density, 0).astype(np.complex64)), truth) >= SOLVED:
            raise _OverError(now - begun - looking)
        if now - begun - looking > _PATIENCE_S:
            raise _OverError(float("inf"))
        looking += time.perf_counter() - now

    try:
        for _ in range(_STARTS):
            ensemble.start(look)
    except _OverError as found:
        return float(found.args[0])
    return float("inf")


def report(finishes: Sequence[Finish]) -> str:
    """Markdown: medians by strain, and over all."""
    strains = dict.fromkeys(f.case.strain for f in finishes)
    groups = {strain: [f for f in finishes if f.case.strain == strain] for strain in strains}
    rows = [_row(name, group) for name, group in {**groups, "all": list(finishes)}.items()]
    head = (
        "strain",
        "crystals",
        "from the network (s)",
        "at random (s)",
        "ratio",
        "solved from the network",
        "at random",
    )
    return (
        f"Starts of {ONE_RUN} at full resolution, {_STARTS} and {_PATIENCE_S:.0f} s at most, the object looked at "
        f"every {_OFTEN} iterations, after {_UNTIL} of them every {_SELDOM}; medians. The network's time is counted "
        f"in.\n\n{table(head, rows)}"
    )


def _row(name: str, group: Sequence[Finish]) -> tuple[object, ...]:
    network, random = (np.array([getattr(f, kind) for f in group]) for kind in ("network", "random"))
    medians = float(np.median(network)), float(np.median(random))
    shares = [f"{np.isfinite(times).mean():.0%}" for times in (network, random)]
    return (name, len(group), *medians, medians[0] / medians[1], *shares)
