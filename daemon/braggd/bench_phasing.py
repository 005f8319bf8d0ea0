"""`braggd bench phasing`: an iteration against one FFT pair of the fastest library, and against PyNX and cohere."""

from __future__ import annotations

import os
import platform
import re
import statistics
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from braggd.bench_steps import Step, steps, whole_runs
from braggd.errors import BraggdError
from braggd.peers.interpreter import COHERE, PYNX, Installed, Peer, locate
from braggd.phasing import fourier, projections
from braggd.phasing.recipe import ONE_RUN

_Times = dict[Step, float | str]
"""Milliseconds of one iteration, or why there are none."""


def bench_phasing(
    shapes: Sequence[str], repeats: int, pynx: str = "", cohere: str = "", *, peers: bool = True, runs: int = 0
) -> None:
    """Time transforms and iterations in turns, and print their medians and ratios to the fastest pair of transforms.

    shapes: such as `118x180x230`; repeats: rounds, in each of which everything runs once
    pynx, cohere: interpreters that have them, where it is neither this one nor the system's
    peers: whether they are run at all; runs: starts of ONE_RUN to time from beginning to end at each shape

    Raises BraggdError where a shape cannot be read, or a named interpreter does not have its package.
    """
    edges = [edges_of(shape) for shape in shapes]
    found = {PYNX: locate(PYNX, pynx), COHERE: locate(COHERE, cohere)} if peers else {}
    console = Console()
    for shape in edges:
        with console.status(f"measuring {_named(shape)}"), steps(shape, found) as rows:
            times = _measure(rows, repeats)
        console.print(_table(shape, times), soft_wrap=True)
        if runs:
            seconds, device = whole_runs(shape, runs, ONE_RUN)
            console.print(f"{runs} runs of {ONE_RUN}: {seconds:.1f} s, {device}", highlight=False, soft_wrap=True)
        console.print()
    for peer, installed in found.items():
        console.print(_peer(peer, installed), highlight=False, soft_wrap=True)
    console.print(
        f"{repeats} rounds, {fourier.cores()} threads, load {os.getloadavg()[0]:.1f}, "
        f"kernels {projections.kernels.__name__.rpartition('.')[2]}, {platform.machine()}",
        highlight=False,
    )


def edges_of(shape: str) -> tuple[int, int, int]:
    """The edges that are written as `118x180x230`. Raises BraggdError where they are not."""
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", shape)
    z, y, x = (int(edge) for edge in found.groups()) if found else (0, 0, 0)
    if min(z, y, x) < 8:
        raise BraggdError(f"the shape '{shape}' is not of the form 118x180x230, each edge at least 8; correct it")
    return z, y, x


def _measure(rows: Sequence[Step], repeats: int) -> _Times:
    """In turns, so that what else the machine does falls on all of them."""
    taken: dict[Step, list[float]] = {row: [] for row in rows if row.run is not None}
    faults: dict[Step, str] = {}
    for repeat in range(repeats + 1):
        for row in taken:
            if row.run is None or row in faults:
                continue
            try:
                seconds = row.run()
            except BraggdError as error:  # a peer that fails does not keep the others from being measured
                faults[row] = str(error)
                continue
            if repeat:  # the first round compiles and plans
                taken[row].append(1e3 * seconds / row.count)
    return {
        row: row.why_not if row not in taken else faults[row] if row in faults else statistics.median(taken[row])
        for row in rows
    }


def _table(shape: tuple[int, ...], times: _Times) -> Table:
    table = Table(box=None, header_style="bold", title=_named(shape), title_justify="left")
    table.add_column("step")
    for column in ("median, ms", "of fastest pair", "braggd faster"):
        table.add_column(column, justify="right")
    own = {row.name: time for row, time in times.items()}
    for row, time in times.items():
        if isinstance(time, str):
            table.add_row(row.name, time)
            continue
        pairs = (other for step, other in times.items() if step.bound and step.device == row.device)
        bound = min(other for other in pairs if not isinstance(other, str))
        same = own.get(row.same_as)
        faster = f"{time / same:.1f} x" if isinstance(same, float) else ""
        table.add_row(row.name, f"{time:.2f}", f"{time / bound:.2f}", faster)
    return table


def _peer(peer: Peer, installed: Installed | None) -> str:
    if installed is None:
        return f"{peer.name}: not installed; --{peer.name.lower()} names an interpreter that has it"
    return f"{peer.name}: {installed.version}, {installed.python}"


def _named(shape: tuple[int, ...]) -> str:
    return " x ".join(str(edge) for edge in shape)
