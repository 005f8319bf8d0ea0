"""How well phases are predicted, against the phase range: the network, plain iterations, and both together.

Reproduces Figs. 4.46 to 4.49 and Table 4.2 of M. Masto, PhD thesis, Univ. Grenoble Alpes, for the network that is
shipped, on crystals of `braggd_models.simulate`, whose code makes none of the training data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from braggd.config import Config, InferenceConfig, PhasingConfig
from braggd.inference.inpaint import inpaint
from braggd.inference.phase import Predicted, predict
from braggd.phasing import fourier
from braggd.phasing.align import accuracy, align
from braggd.phasing.ensemble import Ensemble, Run, lifted, measured, refine, solver_for
from braggd.phasing.improve import improved
from braggd.phasing.pattern import Pattern, prepare, withheld_voxels
from braggd.phasing.ranking import choose
from braggd.phasing.recipe import ONE_RUN, parse
from braggd.phasing.reduced import Reduced
from braggd.phasing.retrieve import Seed, merge, retrieve
from braggd.phasing.support import typical
from braggd.scan.hot import trusted
from braggd_models.benchmarks import table
from braggd_models.simulate.dataset import random_crystal
from braggd_models.simulate.gaps import cross
from braggd_models.simulate.pattern import Simulated
from braggd_models.simulate.shapes import SHAPES as KINDS

SHAPES = ((118, 180, 230), (110, 160, 200))
"""Of the patterns in the thesis's Table 4.2."""

STRAINS = ("gaussians", "cosines", "random")
RANGES = tuple(float(n) * np.pi / 2 for n in range(1, 11))
"""Phase ranges, rad, peak to peak: ten steps up to 5 pi."""

LOPSIDED = ("winterbottom", "random")
"""Crystals without a centre of symmetry, where the object and its twin differ by their shape too."""

LOW_RANGES = (0.3, 1.0, 2.0)
"""Phase ranges, rad, peak to peak, of Fig. 4.50: hardly strained."""

_SEED = 40_000
_GAP, _BESIDE = 6, 20
BASELINE = PhasingConfig(coherence=False)
"""What plain iterations are done with: a coherent beam, as the crystals are simulated."""

_AFTER = parse("300*ER")
_COARSELY_AFTER, _FINELY_AFTER = parse("200*ER"), parse("100*ER")
_TIGHTNESS = (0.65, 1.0)  # of the support: withheld voxels tell whether what is faint is crystal
_INSIDE = 0.3  # of the typical modulus: where the object is taken to be once it is sampled coarsely
_BORDER = 2  # voxels from the support's border that may change while the network's object is refined


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One crystal at one phase range, rad; crystals: shapes to choose from, all if none are named.

    shape: of the pattern, voxels
    """

    number: int
    strain: str
    phase_range: float
    crystals: tuple[str, ...] = ()
    shape: tuple[int, int, int] = (64, 64, 64)

    def simulate(self) -> Simulated:
        """The scan: any shape, oversampling 2 to 5, peak of 1e4 to 1e6 photons, Poisson noise, a little background."""
        return random_crystal(
            _SEED + self.number,
            shape=self.shape,
            crystal=self.crystals or tuple(KINDS),
            strain=self.strain,
            phase_range=(self.phase_range, self.phase_range),
            peak_counts=(1e4, 1e6),
            oversampling=(2.0, 5.0),
            background=0.05,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """(accuracy in percent, seconds) of a case by each method."""

    case: Case
    scores: dict[str, tuple[float, float]]


def cases(crystals: int, ranges: Sequence[float] = RANGES, shapes: tuple[str, ...] = ()) -> list[Case]:
    """The same crystals at every phase range and for every kind of strain; shapes: to choose from, all if none."""
    return [
        Case(number=number, strain=strain, phase_range=phase_range, crystals=shapes)
        for number in range(crystals)
        for phase_range in ranges
        for strain in STRAINS
    ]


def run(chosen: Sequence[Case], methods: Sequence[str], model: str = "auto") -> Iterator[Outcome]:
    """Score the cases, as the daemon would do each: nothing is set by hand.

    methods: of `METHODS`; model: the network's file
    """
    config = Config(inference=InferenceConfig(phase_model=model))
    for case in chosen:
        truth = case.simulate()
        scores = {}
        for method in methods:
            density, seconds = METHODS[method](truth, config)
            scores[method] = (score(density, truth), seconds)
        yield Outcome(case=case, scores=scores)


def score(density: NDArray[np.complex64] | None, truth: Simulated) -> float:
    """Accuracy in percent, symmetries removed; 0 where there is no object."""
    return 0.0 if density is None else accuracy(align(truth.density, density).density, truth.density)


Made = tuple[NDArray[np.complex64] | None, float]


def _network(truth: Simulated, config: Config) -> Made:
    predicted = predicted_for(truth, config)
    return predicted.density, predicted.seconds


def _dl(truth: Simulated, config: Config) -> Made:
    """The `dl` stage: the network's object after quick starts at low resolution."""
    density, _, seconds = dl_for(truth, config)
    return density, seconds


def _network_with_gap(truth: Simulated, config: Config) -> Made:
    """The network's object where `with_cross` put a gap."""
    return _network(with_cross(truth), config)


def _dl_with_gap(truth: Simulated, config: Config) -> Made:
    """The `dl` stage where `with_cross` put a gap."""
    return _dl(with_cross(truth), config)


def with_cross(truth: Simulated) -> Simulated:
    """The scan with a 6 pixel cross 20 pixels beside the peak, which is filled as the daemon fills it."""
    peak = np.unravel_index(int(np.argmax(truth.noiseless)), truth.noiseless.shape)
    rows, columns = truth.counts.shape[1:]
    row, column = (
        int(p) + (_BESIDE if p + _BESIDE + _GAP < n else -_BESIDE - _GAP)
        for p, n in zip(peak[1:], (rows, columns), strict=True)
    )
    valid = truth.valid & cross((rows, columns), (row, column), (_GAP, _GAP))
    return replace(truth, valid=valid, counts=np.where(valid, truth.counts, 0))


def _one_run(truth: Simulated, config: Config) -> Made:
    """400 HIO + 1000 RAAR + 300 ER from random phases."""
    amplitude, valid = amplitude_of(truth)
    begun = time.perf_counter()
    (run,) = plain_runs(amplitude, valid, 1)
    return fourier.centre(run.solver.density), time.perf_counter() - begun


def _refined(truth: Simulated, config: Config) -> Made:
    """The `dl` stage and 300 ER."""
    density, support, seconds = dl_for(truth, config)
    if density is None or support is None:
        return None, seconds
    amplitude, valid = amplitude_of(truth)
    begun = time.perf_counter()
    run = polished(density, support, amplitude, valid)
    return fourier.centre(run.solver.density), seconds + time.perf_counter() - begun


def plain_runs(amplitude: NDArray[np.float32], valid: NDArray[np.bool_], number: int) -> list[Run]:
    """Runs of ONE_RUN from random phases, stopped where they fall far behind those before.

    amplitude, valid: as `retrieve` takes them
    """
    withheld = withheld_voxels(amplitude, valid, BASELINE.free_fraction, BASELINE.seed)
    ensemble = Ensemble(prepare(amplitude, valid, None, withheld), BASELINE, recipe=ONE_RUN, starts=number)
    return [ensemble.start(_unseen) for _ in range(number)]


def polished(
    density: NDArray[np.complex64],
    support: NDArray[np.bool_],
    amplitude: NDArray[np.float32],
    valid: NDArray[np.bool_],
) -> Run:
    """An object after 300 ER whose support changes at its border only.

    density, support: (z, y, x), their middle at n // 2; amplitude, valid: as `retrieve` takes them
    Of a large pattern, 200 of the iterations are done on it sampled as coarsely as the crystal allows. Two supports, a
    loose and a tight one, are tried, and the withheld voxels decide.
    """
    phasing = msgspec.structs.replace(BASELINE, support_border=_BORDER)
    withheld = withheld_voxels(amplitude, valid, phasing.free_fraction, phasing.seed)
    whole = prepare(amplitude, valid, None, withheld)
    coarse = Reduced.full(whole, phasing.free_fraction, phasing.seed)
    density, support = fourier.corner(density), fourier.corner(support)
    pattern, first = whole, _AFTER
    if coarse is not None:
        pattern, first = coarse.pattern, _COARSELY_AFTER
        density = coarse.lower(density)
        support = np.abs(density) > _INSIDE * typical(np.abs(density).ravel())
    begun = _begun(density, support, pattern, phasing)
    runs = [refine(begun, pattern, first, phasing, _unseen, tightness) for tightness in _TIGHTNESS]
    best = runs[choose([run.quality for run in runs])]
    if coarse is None:
        return best
    return refine(lifted(best, coarse, whole, phasing), whole, _FINELY_AFTER, phasing, _unseen, best.tightness)


def _begun(density: NDArray[np.complex64], support: NDArray[np.bool_], pattern: Pattern, config: PhasingConfig) -> Run:
    solver = solver_for(pattern, density, support, None, config)
    return Run(origin="network", number=0, tightness=1.0, solver=solver, quality=measured(solver, pattern))


def _unseen(_done: int) -> None:
    """Nobody follows these iterations."""


def _ensemble(truth: Simulated, config: Config) -> Made:
    """The final stage: the network's object and random starts, merged."""
    predicted = predicted_for(truth, config)
    amplitude, valid = amplitude_of(truth)
    begun = time.perf_counter()
    seeds = [] if predicted.density is None else [Seed(name="network", density=predicted.density)]
    phasing = msgspec.structs.replace(config.phasing, coherence=False)
    final = merge(retrieve(amplitude, valid, phasing, seeds=seeds), phasing)
    return final.density, predicted.seconds + time.perf_counter() - begun


METHODS: dict[str, Callable[[Simulated, Config], Made]] = {
    "network": _network,
    "network, gap": _network_with_gap,
    "dl": _dl,
    "dl, gap": _dl_with_gap,
    "one run": _one_run,
    "dl + 300 ER": _refined,
    "ensemble": _ensemble,
}
"""What can be scored, by the name that it has in the tables."""


def dl_for(truth: Simulated, config: Config) -> tuple[NDArray[np.complex64] | None, NDArray[np.bool_] | None, float]:
    """Object, support and seconds of the `dl` stage, as the daemon makes it."""
    predicted = predicted_for(truth, config)
    if predicted.density is None or predicted.support is None:
        return None, None, predicted.seconds
    amplitude, valid = amplitude_of(truth)
    begun = time.perf_counter()
    density, support, _ = improved(predicted.density, predicted.support, amplitude, valid, config.phasing)
    return density, support, predicted.seconds + time.perf_counter() - begun


def predicted_for(truth: Simulated, config: Config) -> Predicted:
    """What the network makes of a scan, hot pixels masked and gaps filled as the daemon does it."""
    valid, _ = trusted(truth.counts, truth.valid)
    counts = truth.counts if valid.all() else inpaint(truth.counts, valid, config.inference).counts
    return predict(counts, valid, config.inference)


def amplitude_of(truth: Simulated) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Measured amplitudes, 0 where masked, and which voxels count as measured."""
    valid, _ = trusted(truth.counts, truth.valid)
    return np.sqrt(np.where(valid, truth.counts, 0), dtype=np.float32), valid


def times(shapes: Sequence[tuple[int, int, int]], model: str = "auto") -> str:
    """Markdown: seconds for the network, and for 300 ER behind it, on patterns of these shapes (Table 4.2)."""
    config = Config(inference=InferenceConfig(phase_model=model))
    _network(Case(number=0, strain="gaussians", phase_range=3.0).simulate(), config)  # the network is loaded by now
    rows = []
    for shape in shapes:
        truth = random_crystal(_SEED, shape=shape, strain="gaussians", phase_range=(3.0, 3.0), oversampling=(3.0, 3.0))
        # as the daemon does: to lengths that are fast to transform
        about = tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(shape, fourier.good_shape(shape), strict=True))
        truth = replace(truth, counts=truth.counts[about].copy(), valid=truth.valid[about].copy())
        seconds = (method(truth, config)[1] for method in (_network, _dl, _refined))
        rows.append((" x ".join(map(str, shape)), *seconds))
    return table(("voxels", "network (s)", "dl (s)", "dl + 300 ER (s)"), rows)


def report(outcomes: Sequence[Outcome]) -> str:
    """Markdown: mean accuracy by strain and phase range, and over 2 pi to 5 pi."""
    methods = list(outcomes[0].scores)
    ranges = sorted({o.case.phase_range for o in outcomes})
    groups = [(f"{r / np.pi:.1f} pi", r, r) for r in ranges] + [("2 pi to 5 pi", 2 * np.pi - 1e-6, 5 * np.pi + 1e-6)]
    rows: list[tuple[object, ...]] = []
    for strain in STRAINS:
        for label, low, high in groups:
            ours = [o for o in outcomes if o.case.strain == strain and low <= o.case.phase_range <= high]
            if ours:
                rows.append((strain, label, len(ours), *(_mean([o.scores[m][0] for o in ours]) for m in methods)))
    parts = [table(("strain", "phase range", "crystals", *methods), rows)]
    if {"dl + 300 ER", "one run"} <= set(methods):
        won = [o.scores["dl + 300 ER"][0] >= o.scores["one run"][0] - 0.5 for o in outcomes]
        parts.append(f"DL + 300 ER is as good as one run (within 0.5 points) or better in {np.mean(won):.0%}.")
    solved = [f"{m}: {np.mean([o.scores[m][0] >= 95 for o in outcomes]):.0%}" for m in methods]
    seconds = [f"{m}: {np.median([o.scores[m][1] for o in outcomes]):.3g} s" for m in methods]
    parts += [f"Accuracy of 95 % and more: {', '.join(solved)}.", f"Median time: {', '.join(seconds)}."]
    return "\n\n".join(parts)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
