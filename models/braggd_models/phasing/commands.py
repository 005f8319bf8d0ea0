"""`braggd-models train phase`, `export phase`, `score phasing`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import track

from braggd.config import PhasingConfig
from braggd_models.benchmarks import machine, replace_section

FOLDER = Path("models/runs")
SHIPPED = Path(__file__).parents[1] / "weights" / "phase.onnx"


def train_phase(
    net: Annotated[str, typer.Option(help="Which network; seed is the one that braggd ships.")] = "seed",
    folder: Annotated[Path | None, typer.Option(help="Of the run; it goes on there where it was.")] = None,
    minutes: Annotated[float, typer.Option(help="Of training in all; pauses do not count.")] = 120,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 5e-3,
    decay: Annotated[float, typer.Option(help="Share of the time over which the rate falls at the end.")] = 0.4,
    batch: Annotated[int, typer.Option(help="Crystals per step; 0: as the network wants.")] = 0,
    seed: Annotated[int, typer.Option(help="Of the crystals.")] = 0,
    workers: Annotated[int, typer.Option(help="Processes that simulate; 0: none beside the training.")] = 0,
    threads: Annotated[int, typer.Option(help="Of the CPU; 0: as PyTorch chooses.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
) -> None:
    """Train a network that predicts the phase, or go on training it. `export phase` makes it usable."""
    from braggd_models.phasing.nets import NETS
    from braggd_models.phasing.train import train
    from braggd_models.training import Plan

    if net not in NETS:
        raise typer.BadParameter(f"{net}: choose one of {', '.join(NETS)}", param_hint="--net")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    place = folder or FOLDER / f"phase-{net}"
    command = f"braggd-models train phase --minutes {minutes:g} --rate {rate:g} --decay {decay:g} --seed {seed}"
    command += f" --batch {batch}" if batch else ""
    plan = Plan(minutes=minutes, rate=rate, decay=decay, threads=threads, command=command)
    run = train(place, net, plan, batch=batch, seed=seed, workers=workers, device=device)
    Console().print(f"{run.step} steps in {run.seconds / 60:.0f} min; {place}/curve.png", highlight=False)


def export_phase(
    folder: Annotated[Path | None, typer.Option(help="Of the run.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.onnx; its card is FILE.json.")] = SHIPPED,
) -> None:
    """Write the trained network `seed` as the daemon runs it."""
    from braggd_models.phasing.export import export_run

    export_run(folder or FOLDER / "phase-seed", output)
    Console().print(f"{output}, {output.stat().st_size / 1e6:.1f} MB", highlight=False)


def score_phases(
    crystals: Annotated[
        int, typer.Option(help="How many, each at all ranges and with all strains; 20 as the thesis.")
    ] = 20,
    ranges: Annotated[str, typer.Option(help="Phase ranges in units of pi, by commas; empty: half to 5.")] = "",
    method: Annotated[list[str] | None, typer.Option(help="Only that one; may be repeated.")] = None,
    model: Annotated[str, typer.Option(help="FILE.onnx; auto: the shipped one.")] = "auto",
    part: Annotated[str, typer.Option(help="ranges, race, low-strain, times, measured or nets.")] = "ranges",
    minutes: Annotated[float, typer.Option(help="Of training each network, with --part nets.")] = 10,
    shape: Annotated[str, typer.Option(help="Of the patterns, ZxYxX, with --part race.")] = "128x128x128",
    output: Annotated[Path, typer.Option("-o", "--output", help="Markdown file.")] = Path("models/BENCHMARKS.md"),
) -> None:
    """Compare the network that predicts phases with plain iterations.

    ranges: accuracy against the phase range; race: how soon a crystal is solved; low-strain: crystals without a centre
    of symmetry that are hardly strained; times: of the network, for the shapes in the thesis's Table 4.2; measured:
    the shipped scan; nets: what those of the thesis and of the literature learn in a short time, beside ours
    """
    import math

    from braggd.bench_phasing import edges_of
    from braggd_models.phasing.parts import OF_CRYSTALS, PARTS, Wanted
    from braggd_models.phasing.study import METHODS

    if part not in PARTS:
        raise typer.BadParameter(f"{part}: choose one of {', '.join(PARTS)}", param_hint="--part")
    for name in method or ():
        if name not in METHODS:
            raise typer.BadParameter(f"{name}: choose one of {', '.join(METHODS)}", param_hint="--method")
    try:
        steps = tuple(float(one) * math.pi for one in ranges.split(",")) if ranges else ()
    except ValueError as error:
        raise typer.BadParameter(f"{ranges}: give numbers, separated by commas", param_hint="--ranges") from error
    command = "braggd-models score phases" + (f" --part {part}" if part != "ranges" else "")
    if part in OF_CRYSTALS:
        command += f" --crystals {crystals}" + (f" --ranges {ranges}" if ranges else "")
    command += "".join(f' --method "{name}"' for name in method or ())
    command += f" --minutes {minutes:g}" if part == "nets" else ""
    command += f" --shape {shape}" if part == "race" else ""
    console = Console()
    count, sections = PARTS[part](
        Wanted(
            crystals=crystals,
            ranges=steps,
            methods=tuple(method or ()),
            model=model,
            minutes=minutes,
            shape=edges_of(shape),
        )
    )
    for section in track(sections, part, total=count, console=console):
        if section.told:
            console.print(section.told, highlight=False)
        text = f"## Phases: {section.title}\n\n{section.text}\n\n`{command}`, {machine()}."
        replace_section(output, section.subject, text)


def score_phasing(
    crystals: Annotated[int, typer.Option(help="How many; 60 are the whole study.")] = 60,
    recipe: Annotated[str, typer.Option(help="Of the starts, as 1700*RAAR; empty: the default.")] = "",
    starts: Annotated[int, typer.Option(help="At most, until two agree; 0: the default.")] = 0,
    merging: Annotated[bool, typer.Option(help="Also do the final stage.")] = True,
    jobs: Annotated[int, typer.Option(help="Crystals phased at once, one thread each.")] = 1,
    part: Annotated[str, typer.Option(help="study or algorithms.")] = "study",
    small: Annotated[bool, typer.Option("--small", help="Only those of 64^3 voxels.")] = False,
    output: Annotated[Path, typer.Option("-o", "--output", help="Markdown file.")] = Path("models/BENCHMARKS.md"),
) -> None:
    """Phase simulated crystals without a hand in between, and count those that are solved.

    study: as the daemon does it, all stages; algorithms: what each finds from one start
    """
    from braggd_models.phasing.score import ALGORITHMS, SHAPES, cases, compared, race, report, run

    if part not in ("study", "algorithms"):
        raise typer.BadParameter(f"{part}: choose one of study, algorithms", param_hint="--part")
    chosen = [case for case in cases(crystals) if not small or case.shape == min(SHAPES)]
    if part == "algorithms":
        results = []
        for result in track(race(chosen, ALGORITHMS), "algorithms", total=len(chosen)):
            results.append(result)
            text = (
                "## Phasing: simulated crystals solved by each algorithm\n\n"
                "Share that one random start brings to an accuracy of 95 % and more (Masto, eq. 4.5), without "
                "refinement; the crystals are the first of those above, their number in brackets. DM projects twice "
                "per iteration."
                f"\n\n{compared(results, ALGORITHMS)}\n\n"
                f"`braggd-models score phasing --part algorithms --crystals {crystals}{' --small' if small else ''}`, "
                f"{machine()}."
            )
            replace_section(output, "phasing algorithms", text)
        return
    config = PhasingConfig(starts=starts) if starts else PhasingConfig()
    if recipe:
        config = msgspec.structs.replace(config, recipe=recipe)
    told = f" --recipe '{recipe}'" if recipe else ""
    told += "" if merging else " --no-merging"
    told += f" --jobs {jobs}" if jobs > 1 else ""
    told += f" --starts {starts}" if starts else ""
    told += " --small" if small else ""
    command = f"braggd-models score phasing --crystals {crystals}{told}"
    console, outcomes, text = Console(), [], ""
    for outcome in track(
        run(chosen, config, merging=merging, jobs=jobs), "phasing", total=len(chosen), console=console
    ):
        outcomes.append(outcome)
        case = outcome.case
        console.print(
            f"{case.number:3d} {'x'.join(map(str, case.shape)):11s} {case.strain:9s} {case.phase_range:4.1f} rad "
            f"{case.peak:8.0f} photons: {outcome.one[0]:5.1f} {outcome.several[0]:5.1f} {outcome.final[0]:5.1f} % "
            f"{outcome.final[1]:.3f} rad, {outcome.starts} starts, {outcome.seconds:.0f} s",
            highlight=False,
        )
        text = (
            f"## Phasing: simulated crystals solved{f' by {recipe}' if recipe else ''}\n\n"
            "Accuracy (Masto, eq. 4.5) of 95 % and more; Poisson noise, hot pixels and a flat background in the data, "
            "no support given. One random start alone; the best of as many as it took until two agreed; the final "
            "stage, merged. Starts are those at full resolution."
            f"\n\n{report(outcomes)}\n\n`{command}`, {machine()}."
        )
        # after each one: a long study may be broken off
        replace_section(output, f"phasing study{f' {recipe}' if recipe else ''}", text)
    console.print(text, highlight=False, markup=False)
