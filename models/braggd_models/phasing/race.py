"""How soon a crystal is solved from the network's object, and how soon from random phases, by the same recipe."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braggd.config import Config, InferenceConfig, PhasingConfig
from braggd.phasing import fourier
from braggd.phasing.ensemble import Ensemble
from braggd.phasing.pattern import prepare, withheld_voxels
from braggd.phasing.retrieve import warm_up
from braggd_models.benchmarks import table
from braggd_models.phasing.score import SOLVED
from braggd_models.phasing.study import Case, amplitude_of, predicted_for, score
from braggd_models.simulate.pattern import Simulated

_RECIPE = "200*HIO + 300*RAAR + 200*ER"
_STARTS = 6  # at most


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Seconds until a start came to SOLVED, those before it counted in; infinite where none did.

    network: the first start began with the network's object, whose time is counted in, the others at random
    random: all began at random
    """

    case: Case
    network: float
    random: float


def race(chosen: Sequence[Case], model: str = "auto") -> Iterator[Finish]:
    """Solve the cases both ways; model: the network's file."""
    config = Config(inference=InferenceConfig(phase_model=model))
    warm_up(config.phasing)
    for case in chosen:
        truth = case.simulate()
        predicted = predicted_for(truth, config)
        seeds = [] if predicted.density is None else [("network", fourier.corner(predicted.density))]
        yield Finish(case=case, network=predicted.seconds + _solved(truth, seeds), random=_solved(truth, []))


def _solved(truth: Simulated, seeds: Sequence[tuple[str, NDArray[np.complex64]]]) -> float:
    amplitude, valid = amplitude_of(truth)
    config = PhasingConfig()
    withheld = withheld_voxels(amplitude, valid, config.free_fraction, config.seed)
    begun = time.perf_counter()
    pattern = prepare(amplitude, valid, None, withheld)
    ensemble = Ensemble(pattern, config, seeds, recipe=_RECIPE, starts=_STARTS)
    spent = time.perf_counter() - begun
    for _ in range(_STARTS):
        begun = time.perf_counter()
        run = ensemble.start(lambda _: None)
        spent += time.perf_counter() - begun
        if score(fourier.centre(run.solver.density), truth) >= SOLVED:
            return spent
    return float("inf")


def report(finishes: Sequence[Finish]) -> str:
    """Markdown: medians by strain, and over all."""
    groups = {
        name: [f for f in finishes if f.case.strain == name] for name in dict.fromkeys(f.case.strain for f in finishes)
    }
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
    return f"Starts of {_RECIPE}, {_STARTS} at most; medians.\n\n{table(head, rows)}"


def _row(name: str, group: Sequence[Finish]) -> tuple[object, ...]:
    network, random = (np.array([getattr(f, kind) for f in group]) for kind in ("network", "random"))
    medians = float(np.median(network)), float(np.median(random))
    shares = [f"{np.isfinite(times).mean():.0%}" for times in (network, random)]
    return (name, len(group), *medians, medians[0] / medians[1], *shares)
