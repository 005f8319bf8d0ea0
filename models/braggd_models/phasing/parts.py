"""The comparisons that `braggd-models score phases` makes, each a section of the benchmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from braggd.config import Config, InferenceConfig
from braggd_models.phasing import measured, race, rivals, study
from braggd_models.phasing.nets import NETS
from braggd_models.phasing.score import SOLVED


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for.

    crystals: how many; ranges: phase ranges, rad, those of the part where there are none
    methods: of `study.METHODS`; model: the network's file; minutes: of training a network
    shape: of the patterns of a race, voxels
    """

    crystals: int
    ranges: tuple[float, ...]
    methods: tuple[str, ...]
    model: str
    minutes: float
    shape: tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A section as far as it is known. title, text: Markdown; subject: its name in the file; told: of what came last"""

    title: str
    subject: str
    text: str
    told: str = ""


Part = Callable[[Wanted], tuple[int, Iterator[Section]]]
"""How many sections there will be, each in the place of the one before, since a long study may be broken off."""


def _ranges(wanted: Wanted) -> tuple[int, Iterator[Section]]:
    cases = study.cases(wanted.crystals, wanted.ranges or study.RANGES)
    return len(cases), _accuracies(cases, wanted, "the network against plain iterations", "phases")


def _low_strain(wanted: Wanted) -> tuple[int, Iterator[Section]]:
    cases = study.cases(wanted.crystals, wanted.ranges or study.LOW_RANGES, study.LOPSIDED)
    title = "hardly strained crystals without a centre of symmetry"
    return len(cases), _accuracies(cases, wanted, title, "phases low-strain")


def _accuracies(cases: Sequence[study.Case], wanted: Wanted, title: str, subject: str) -> Iterator[Section]:
    outcomes = []
    for outcome in study.run(cases, wanted.methods or list(study.METHODS), wanted.model):
        outcomes.append(outcome)
        case = outcome.case
        told = ", ".join(f"{name} {score:.1f} % {seconds:.1f} s" for name, (score, seconds) in outcome.scores.items())
        yield Section(
            title=title,
            subject=" ".join((subject, *wanted.methods)),
            text="Mean accuracy in percent (Masto, eq. 4.5), symmetries removed, of crystals that no network was "
            "trained on: 64 x 64 x 64, oversampling 2 to 5, peaks of 1e4 to 1e6 photons, Poisson noise.\n\n"
            f"{study.report(outcomes)}",
            told=f"{case.number:3d} {case.strain:9s} {case.phase_range:4.1f} rad: {told}",
        )


def _race(wanted: Wanted) -> tuple[int, Iterator[Section]]:
    cases = study.cases(wanted.crystals, wanted.ranges or study.RANGES)

    def sections() -> Iterator[Section]:
        finishes, voxels = [], " x ".join(map(str, wanted.shape))
        for finish in race.race(cases, wanted.shape, wanted.model):
            finishes.append(finish)
            yield Section(
                title=f"time to an accuracy of {SOLVED:.0f} %, {voxels} voxels",
                subject=f"phases race {voxels}",
                text=race.report(finishes),
                told=f"{finish.case.number:3d} {finish.case.strain:9s} {finish.case.phase_range:4.1f} rad: "
                f"from the network {finish.network:.1f} s, at random {finish.random:.1f} s",
            )

    return len(cases), sections()


def _times(wanted: Wanted) -> tuple[int, Iterator[Section]]:
    def sections() -> Iterator[Section]:
        yield Section(title="time", subject="phases times", text=study.times(study.SHAPES, wanted.model))

    return 1, sections()


def _measured(wanted: Wanted) -> tuple[int, Iterator[Section]]:
    def sections() -> Iterator[Section]:
        text = measured.compared("example", Config(inference=InferenceConfig(phase_model=wanted.model)))
        yield Section(title="the measured scan", subject="phases measured", text=text)

    return 1, sections()


def _nets(wanted: Wanted) -> tuple[int, Iterator[Section]]:
    def sections() -> Iterator[Section]:
        done = []
        for one in rivals.rivals(list(NETS), wanted.minutes):
            done.append(one)
            yield Section(
                title="networks",
                subject="phases nets",
                text=rivals.report(done, wanted.minutes),
                told=f"{one.name}: {one.steps} steps, loss {one.loss:.3g}",
            )

    return len(NETS), sections()


PARTS: dict[str, Part] = {
    "ranges": _ranges,
    "race": _race,
    "low-strain": _low_strain,
    "times": _times,
    "measured": _measured,
    "nets": _nets,
}
"""By the name that the command has for them."""

OF_CRYSTALS = ("ranges", "race", "low-strain")
"""Those that depend on how many crystals and which phase ranges are asked for."""
