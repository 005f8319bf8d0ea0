"""`braggd-models train gaps`, `export gaps`, `score gaps`."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.logging import RichHandler

from braggd_models.benchmarks import machine, replace_section

FOLDER = Path("models/runs")
SHIPPED = Path(__file__).parents[1] / "weights" / "gaps.onnx"

Folder = Annotated[Path | None, typer.Option(help="Of the run; it goes on there where it was.")]
Minutes = Annotated[float, typer.Option(help="Of training in all; pauses do not count.")]
Seed = Annotated[int, typer.Option(help="Of the crystals.")]
Threads = Annotated[int, typer.Option(help="Of the CPU; 0: as PyTorch chooses.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Width = Annotated[int, typer.Option(help="Of the gap, pixels.")]


def train_gaps(
    folder: Folder = None,
    minutes: Minutes = 120,
    rate: Annotated[float, typer.Option(help="Learning rate.")] = 1.5e-3,
    start: Annotated[
        Path | None, typer.Option(help="FILE.onnx, an exported network; a new run begins with its weights and guesses.")
    ] = None,
    crystals: Annotated[
        int, typer.Option(help="That the linear guesses are learnt from; 0: the guesses of --start, or from 150.")
    ] = 0,
    batch: Annotated[int, typer.Option(help="Gaps per step; more of them keep a GPU busy.")] = 8,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(help="Processes that simulate; 0: none beside the training.")] = 0,
    threads: Threads = 0,
    device: Device = "auto",
) -> None:
    """Train the network that fills gaps, or go on training it. `export gaps` makes it usable."""
    from braggd_models.gaps import linear
    from braggd_models.gaps.slabnet import SlabNet
    from braggd_models.gaps.start import begin
    from braggd_models.gaps.train import train
    from braggd_models.training import Plan

    _talk()
    place = folder or FOLDER / "gaps"
    place.mkdir(parents=True, exist_ok=True)
    learnt, net = place / "guesses.npz", SlabNet()
    if start and not (place / "last.pt").exists():
        guesses, said = begin(net, start)
        if not crystals:
            guesses.save(learnt)
        (place / "start.txt").write_text(said)
    if not learnt.exists():
        from rich.progress import Progress

        number = crystals or 150
        with Progress() as progress:
            bar = progress.add_task("linear guesses", total=number)
            guesses = linear.learn(seed + 11, number, lambda done: progress.update(bar, completed=done))
        guesses.save(learnt)
    command = f"braggd-models train gaps --minutes {minutes:g} --rate {rate:g} --seed {seed}"
    command += f"{' --start' * bool(start)}{f' --crystals {crystals}' * bool(crystals)} --batch {batch}"
    plan = Plan(minutes=minutes, rate=rate, decay=0.7, threads=threads, command=command)
    learnt_guesses = linear.Guesses.load(learnt)
    run = train(place, learnt_guesses, plan, net=net, batch=batch, seed=seed, workers=workers, device=device)
    Console().print(f"{run.step} steps in {run.seconds / 60:.0f} min; {place}/curve.png", highlight=False)


def train_patches(
    folder: Folder = None,
    minutes: Minutes = 30,
    width: Width = 6,
    seed: Seed = 0,
    threads: Threads = 0,
    device: Device = "auto",
) -> None:
    """Train the thesis's 3D patch network for one width, to be compared with."""
    from braggd_models.gaps.study import train_patch_net

    _talk()
    place = folder or FOLDER / f"gaps-patches-{width}"
    run = train_patch_net(place, width, minutes, seed=seed, threads=threads, device=device)
    Console().print(f"{run.step} steps in {run.seconds / 60:.0f} min; {place}/curve.png", highlight=False)


def export_gaps(
    folder: Folder = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.onnx; its card is FILE.json.")] = SHIPPED,
) -> None:
    """Write the trained network as the daemon runs it."""
    from braggd_models.gaps.export import export_run

    export_run(folder or FOLDER / "gaps", output)
    Console().print(f"{output}, {output.stat().st_size / 1e6:.1f} MB", highlight=False)


def score_gaps(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer and smaller crystals.")] = False,
    crystals: Annotated[int, typer.Option(help="Held-out ones; 0: 12, or 4 with --quick.")] = 0,
    minutes: Annotated[float, typer.Option(help="Of training what is compared with; 0: 20, or 2 with --quick.")] = 0,
    part: Annotated[list[str] | None, typer.Option(help="Only that comparison; may be repeated.")] = None,
    model: Annotated[str, typer.Option(help="FILE.onnx; auto: the shipped one.")] = "auto",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of BENCHMARKS.md and the figures.")] = Path(
        "models"
    ),
) -> None:
    """Compare the network with interpolation, the noise ceiling and the thesis; writes BENCHMARKS.md."""
    from braggd_models.gaps.score import PARTS, QUICK, Size, plot
    from braggd_models.gaps.study import STUDIES

    known = PARTS | STUDIES
    for name in part or known:
        if name not in known:
            raise typer.BadParameter(f"{name}: choose one of {', '.join(known)}", param_hint="--part")
    size = QUICK if quick else Size()
    size = replace(size, crystals=crystals or size.crystals, minutes=minutes or size.minutes)
    said = " --quick" * quick + f" --crystals {crystals}" * bool(crystals) + f" --minutes {minutes:g}" * bool(minutes)
    for name in part or known:
        done = known[name](model, size)
        figures = "".join(f"\n\n![{file.stem}](figures/{file.name})" for file in plot(done, output / "figures"))
        command = f"braggd-models score gaps{said} --part {name}"
        Console().print(f"\n{done.text}", highlight=False, markup=False)
        replace_section(
            output / "BENCHMARKS.md",
            f"gaps {name}",
            f"## Gaps: {name}\n\n{done.text}{figures}\n\n`{command}`, {machine()}.",
        )


def _talk() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
