"""`braggd-models score phasing`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.progress import track

from braggd.config import PhasingConfig
from braggd_models.benchmarks import machine, replace_section


def score_phasing(
    crystals: Annotated[int, typer.Option(help="How many; 60 are the whole study.")] = 60,
    recipe: Annotated[str, typer.Option(help="Of the starts, as 1700*RAAR; empty: the default.")] = "",
    starts: Annotated[int, typer.Option(help="At most, until two agree.")] = 5,
    merging: Annotated[bool, typer.Option(help="Also do the final stage.")] = True,
    jobs: Annotated[int, typer.Option(help="Crystals phased at once, one thread each.")] = 1,
    output: Annotated[Path, typer.Option("-o", "--output", help="Markdown file.")] = Path("models/BENCHMARKS.md"),
) -> None:
    """Phase simulated crystals without a hand in between, and count those that are solved."""
    from braggd_models.phasing.score import cases, report, run

    config = PhasingConfig(starts=starts)
    if recipe:
        config = msgspec.structs.replace(config, recipe=recipe)
    console = Console()
    outcomes = []
    for outcome in track(
        run(cases(crystals), config, merging=merging, jobs=jobs), "phasing", total=crystals, console=console
    ):
        outcomes.append(outcome)
        case = outcome.case
        console.print(
            f"{case.number:3d} {'x'.join(map(str, case.shape)):11s} {case.strain:9s} {case.phase_range:4.1f} rad "
            f"{case.peak:8.0f} photons: {outcome.one[0]:5.1f} {outcome.several[0]:5.1f} {outcome.final[0]:5.1f} % "
            f"{outcome.final[1]:.3f} rad, {outcome.starts} starts, {outcome.seconds:.0f} s",
            highlight=False,
        )
    told = f" --recipe '{recipe}'" if recipe else ""
    told += "" if merging else " --no-merging"
    told += f" --jobs {jobs}" if jobs > 1 else ""
    command = f"braggd-models score phasing --crystals {crystals} --starts {starts}{told}"
    text = (
        f"## Phasing: simulated crystals solved by {config.recipe}\n\n"
        "Accuracy (Masto, eq. 4.5) of 95 % and more; Poisson noise, hot pixels and a flat background in the data, no "
        "support given. One start; the best by free log-likelihood of as many as it took until two agreed; the final "
        f"stage, merged.\n\n{report(outcomes)}\n\n`{command}`, {machine()}."
    )
    replace_section(output, f"phasing {config.recipe}", text)
    console.print(text, highlight=False, markup=False)
