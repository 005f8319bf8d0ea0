"""The models' commands. Exit codes: 0 done, 1 failed, 2 wrong usage; errors are one sentence on stderr."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from braggd import __version__
from braggd.cli import run_commands
from braggd_models.gaps import commands
from braggd_models.phasing.commands import export_phase, score_phases, score_phasing, train_phase

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Simulate crystals, and make the networks that braggd runs.",
)

train = typer.Typer(no_args_is_help=True, help="Train a network, or go on training it.")
export = typer.Typer(no_args_is_help=True, help="Write a trained network as the daemon runs it.")
score = typer.Typer(no_args_is_help=True, help="Measure what networks do; writes models/BENCHMARKS.md.")
app.add_typer(train, name="train")
app.add_typer(export, name="export")
app.add_typer(score, name="score")


@app.command()
def simulate(
    output: Annotated[Path, typer.Option("-o", "--output", help="FILE.npz or FILE.h5")],
    seed: Annotated[int, typer.Option(help="The same seed makes the same scan.")] = 0,
    shape: Annotated[str, typer.Option(help="Z,Y,X voxels, or one number for a cube.")] = "64",
    crystal: Annotated[
        str, typer.Option(help="wulff, winterbottom, cube, octahedron, tetrahexahedron, random; several by commas.")
    ] = "",
    strain: Annotated[
        str,
        typer.Option(
            help="none, gaussians, cosines, random, substrate, surface, mixed, screw, edge; several by commas."
        ),
    ] = "",
    phase_range: Annotated[str, typer.Option("--range", help="RAD or LOW,HIGH: phase, peak to peak.")] = "",
    oversampling: Annotated[str, typer.Option(help="N or LOW,HIGH: along the longest axis.")] = "",
    peak: Annotated[str, typer.Option(help="PHOTONS or LOW,HIGH: in the brightest voxel.")] = "",
    gap: Annotated[str, typer.Option(help="none, stripe, cross, two-stripes, detector; several by commas.")] = "none",
    gap_width: Annotated[str, typer.Option(help="PIXELS or LOW,HIGH")] = "",
    gap_distance: Annotated[str, typer.Option(help="PIXELS or LOW,HIGH: from the frame's middle.")] = "",
    realistic: Annotated[bool, typer.Option("--real", help="With all that scans suffer from.")] = False,
    noise: Annotated[bool, typer.Option(help="Poisson noise.")] = True,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Simulate a rocking scan whose truth is known, as a file that braggd reads."""
    from braggd_models.simulate.dataset import REAL, Recipe, random_crystal
    from braggd_models.simulate.files import write

    edges = _numbers("--shape", shape, (1, 3))
    changes: dict[str, object] = {
        "shape": tuple(int(n) for n in (edges * 3 if len(edges) == 1 else edges)),
        "gap": _kinds(gap),
        "noise": noise,
    }
    changes |= {name: _kinds(text) for name, text in (("crystal", crystal), ("strain", strain)) if text}
    ranges = {
        "phase_range": ("--range", phase_range),
        "oversampling": ("--oversampling", oversampling),
        "peak_counts": ("--peak", peak),
        "gap_width": ("--gap-width", gap_width),
        "gap_distance": ("--gap-distance", gap_distance),
    }
    for name, (option, text) in ranges.items():
        if text:
            ends = _numbers(option, text, (1, 2))
            low, high = ends[0], ends[-1]
            changes[name] = (int(low), int(high)) if name.startswith("gap") else (low, high)
    if realistic and gap == "none":
        del changes["gap"]
    write(output, random_crystal(seed, REAL if realistic else Recipe(), **changes))


for group, subject, command in (
    (train, "gaps", commands.train_gaps),
    (train, "gaps-patches", commands.train_patches),
    (train, "phase", train_phase),
    (export, "gaps", commands.export_gaps),
    (export, "phase", export_phase),
    (score, "gaps", commands.score_gaps),
    (score, "phases", score_phases),
    (score, "phasing", score_phasing),
):
    group.command(subject)(command)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Simulate crystals, and make the networks that braggd runs."""
    if show:
        Console().print(f"braggd {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Run a command."""
    run_commands(app)


def _kinds(text: str) -> tuple[str, ...]:
    return tuple(kind.strip() for kind in text.split(","))


def _numbers(option: str, text: str, counts: tuple[int, ...]) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) not in counts or (len(numbers) == 2 and numbers[0] > numbers[1]):
        wanted = " or ".join(str(count) for count in counts)
        raise typer.BadParameter(f"{text}: give {wanted} numbers, of two the lower one first", param_hint=option)
    return numbers
