"""The commands. Exit codes: 0 done, 1 failed, 2 wrong usage; errors are one sentence on stderr."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import msgspec
import typer
from rich.console import Console
from rich.logging import RichHandler

from braggd import __version__
from braggd.config import Config, load
from braggd.errors import BraggdError, ConfigError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__.split(".")[0]
)
bench_app = typer.Typer(no_args_is_help=True, help="Measure this machine against the bounds.")
app.add_typer(bench_app, name="bench")
errors = Console(stderr=True)


Protocol = Literal["simplon-v1", "simplon-v2", "array-1.0"]
Pattern = Literal["push", "pub"]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and every log line.")]


@app.command()
def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the archive and the picture.")] = Path(
        "braggd-demo"
    ),
) -> None:
    """Replay a measured scan through a running daemon and show what comes out."""
    from braggd.demo import run_demo

    run_demo(output)


@app.command()
def run(
    config: Annotated[Optional[Path], typer.Argument(help="TOML file; without it, everything on loopback.")] = None,  # noqa: UP045
    source: Annotated[str, typer.Option(help="ZMQ endpoint of the detector's stream.")] = "",
    archive: Annotated[str, typer.Option(help="Folder of the archive.")] = "",
    results: Annotated[str, typer.Option(help="ZMQ endpoint on which results are published.")] = "",
    http: Annotated[str, typer.Option(help="HOST:PORT of metrics and health.")] = "",
    tango: Annotated[str, typer.Option(help="Name of the Tango device, or off.")] = "",
    debug: Debug = False,
) -> None:
    """Run the daemon until SIGTERM or Ctrl-C."""
    _logging(debug)
    from braggd.service import Service

    Service(_overridden(load(config) if config else Config(), source, archive, results, http, tango)).run()


@app.command()
def check(config: Annotated[Path, typer.Argument(help="TOML file.")]) -> None:
    """Say in words what is wrong with a configuration; exit 1 if anything is."""
    from braggd.check import faults

    found = faults(load(config))
    for fault in found:
        _complain(fault)
    if found:
        raise typer.Exit(1)
    Console().print(f"{config}: good")


@app.command()
def replay(
    scan: Annotated[str, typer.Argument(help="FILE[::DATASET], or 'example' for the shipped scan.")],
    to: Annotated[str, typer.Option("--to", help="Endpoint to bind, as tcp://127.0.0.1:9999.")],
    protocol: Annotated[Protocol, typer.Option(help="What the messages look like.")] = "simplon-v2",
    rate: Annotated[float, typer.Option(help="Frames per second; 0: as fast as they are taken.")] = 0.0,
    detector: Annotated[str, typer.Option(help="Embed the frames into this detector, its gaps blanked.")] = "",
    at: Annotated[str, typer.Option(help="ROW,COL of the peak on that detector.")] = "",
    pattern: Annotated[Pattern, typer.Option(help="push, as a detector does, or pub.")] = "push",
    series: Annotated[int, typer.Option(help="Number of the series.")] = 1,
    debug: Debug = False,
) -> None:
    """Play a recorded scan as a detector would."""
    _logging(debug)
    from braggd.example import example_scan
    from braggd.sources.files import read_scan
    from braggd.sources.replay import replay as play

    recorded = read_scan(str(example_scan()) if scan == "example" else scan)
    play(
        recorded.counts,
        recorded.geometry,
        to,
        protocol=protocol,
        rate_hz=rate or None,
        detector=detector or None,
        at=_pair(at, "--at") if at else None,
        pattern=pattern,
        series=series,
    )


@app.command()
def reconstruct(
    scan: Annotated[str, typer.Argument(help="FILE[::DATASET], or 'example' for the shipped scan.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="OUT.cxi")],
    config: Annotated[Optional[Path], typer.Option(help="TOML file.")] = None,  # noqa: UP045
    debug: Debug = False,
) -> None:
    """Reconstruct one recorded scan through the daemon's own pipeline."""
    _logging(debug)
    from braggd.offline import reconstruct_file

    reconstruct_file(scan, output, load(config) if config else Config())


@app.command()
def watch(
    publish: Annotated[str, typer.Argument(help="Endpoint on which the daemon publishes.")] = "tcp://127.0.0.1:5556",
) -> None:
    """Show a running daemon in the terminal."""
    from braggd.watch import watch as show

    show(publish)


@bench_app.command("ingest")
def bench_ingest(
    detector: Annotated[str, typer.Option(help="Detector whose frames are sent.")] = "EIGER2 1M",
    frames: Annotated[int, typer.Option(help="Frames of a series.")] = 300,
    repeats: Annotated[int, typer.Option(help="Series for each receiver; the median counts.")] = 5,
) -> None:
    """Frame rate of the ingest against a bare loop that only receives and decompresses."""
    from braggd.bench import bench_ingest as measure

    measure(detector, frames, repeats)


@bench_app.command("phasing")
def bench_phasing(
    shape: Annotated[Optional[list[str]], typer.Option(help="Volume such as 118x180x230; may be given again.")] = None,  # noqa: UP045
    quick: Annotated[bool, typer.Option("--quick", help="One small volume, 64x64x64.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; the median counts.")] = 7,
    pynx: Annotated[str, typer.Option(help="Python that has PyNX; else this one and the system's are tried.")] = "",
    cohere: Annotated[str, typer.Option(help="Python that has cohere_core; else this one and the system's.")] = "",
    peers: Annotated[bool, typer.Option(help="Also time PyNX and cohere.")] = True,
    runs: Annotated[int, typer.Option(min=0, help="Also time so many whole runs; the thesis does 60.")] = 0,
) -> None:
    """Time of a phasing iteration against one forward and inverse FFT of the fastest library, and against peers."""
    from braggd.bench_phasing import bench_phasing as measure

    shapes = shape or (["64x64x64"] if quick else ["128x128x128", "118x180x230"])
    measure(shapes, repeats, pynx, cohere, peers=peers, runs=runs)


@bench_app.command("compare")
def bench_compare(
    scan: Annotated[str, typer.Argument(help="FILE[::DATASET], or 'example' for the shipped scan.")] = "example",
    runs: Annotated[int, typer.Option(min=1, help="Random starts of each engine.")] = 5,
    iterations: Annotated[float, typer.Option(min=0.001, help="Share of 400 HIO, 1000 RAAR and 300 ER.")] = 1.0,
    engine: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="pynx, pynx-psf, solver, solver-psf or braggd; may be given again; all unless told."),
    ] = None,
    edge: Annotated[int, typer.Option(min=32, help="Longest edge of the volume about the peak.")] = 128,
    pynx: Annotated[str, typer.Option(help="Python that has PyNX; else this one and the system's are tried.")] = "",
    keep: Annotated[Optional[Path], typer.Option(help="Folder for PyNX's results, which are used again.")] = None,  # noqa: UP045
) -> None:
    """Phase a measured scan with PyNX and with braggd, and judge both by the same free log-likelihood."""
    from braggd.bench_compare import bench_compare as compare
    from braggd.bench_engines import ENGINES

    compare(scan, runs, iterations, engine or list(ENGINES), shape=(edge, edge, edge), python=pynx, keep=keep)


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Show the version.")] = False) -> None:
    """Live Bragg coherent diffraction imaging."""
    if show:
        Console().print(f"braggd {__version__}", highlight=False)
        raise typer.Exit


def main() -> None:
    """Run a command."""
    run_commands(app)


def run_commands(commands: typer.Typer) -> None:
    """Run a command line; a failure becomes its sentence and exit code 1, a traceback only with `--debug`."""
    try:
        commands()
    except BraggdError as error:
        if "--debug" in sys.argv:
            raise
        _complain(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(1)


def _complain(sentence: str) -> None:
    errors.print(sentence, style="red", highlight=False, markup=False, soft_wrap=True)


def _overridden(config: Config, source: str, archive: str, results: str, http: str, tango: str) -> Config:
    replace = msgspec.structs.replace
    if source:
        config = replace(config, source=replace(config.source, endpoint=source))
    if archive:
        config = replace(config, archive=replace(config.archive, folder=archive))
    if results:
        config = replace(config, results=replace(config.results, publish=results))
    if http:
        host, colon, port = http.rpartition(":")
        if not colon or not port.isdigit() or int(port) > 65535:
            raise ConfigError(f"--http {http}: give HOST:PORT, as 127.0.0.1:8080")
        config = replace(config, http=replace(config.http, host=host, port=int(port)))
    if tango:
        config = replace(config, tango=replace(config.tango, device=tango))
    return config


def _pair(text: str, option: str) -> tuple[int, int]:
    row, comma, column = text.partition(",")
    if not comma or not row.strip().isdigit() or not column.strip().isdigit():
        raise ConfigError(f"{option} {text}: give ROW,COL, as 243,243")
    return int(row), int(column)


def _logging(debug: bool) -> None:
    handler: logging.Handler = logging.StreamHandler()
    if sys.stderr.isatty():
        handler = RichHandler(console=errors, show_path=False, rich_tracebacks=debug)
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.DEBUG if debug else logging.INFO, handlers=[handler], force=True)
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
