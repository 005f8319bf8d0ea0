"""`braggd bench phasing`: an iteration against the bound, one forward and inverse transform of the fastest library."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from braggd.errors import BraggdError
from braggd.phasing import fourier, projections
from braggd.phasing.recipe import Block
from braggd.phasing.solver import Schedule, Solver
from braggd.phasing.support import shrink_wrap

_BLOCK = 4  # iterations that are timed together
_PEERS = {"PyNX": "pynx", "cohere": "cohere_core"}
_Rows = dict[str, Callable[[], object]]


def bench_phasing(shapes: Sequence[str], repeats: int) -> None:
    """Time transforms and iterations in turns, and print their medians and ratios to the fastest pair of transforms.

    shapes: such as `118x180x230`; repeats: rounds, in each of which everything runs once

    Raises BraggdError where a shape cannot be read.
    """
    edges = [_edges(shape) for shape in shapes]
    console = Console()
    for shape in edges:
        with console.status(f"measuring {_named(shape)}"):
            times = _measure(_rows(shape), repeats)
        console.print(_table(shape, times))
        console.print()
    for peer, module in _PEERS.items():
        console.print(f"{peer}: {_peer(module)}", highlight=False)
    console.print(
        f"{repeats} rounds, {fourier.cores()} threads, load {os.getloadavg()[0]:.1f}, "
        f"kernels {projections.kernels.__name__.rpartition('.')[2]}, {platform.machine()}",
        highlight=False,
    )


def _measure(rows: _Rows, repeats: int) -> dict[str, float]:
    """Median milliseconds by name; in turns, so that what else the machine does falls on all of them."""
    times: dict[str, list[float]] = {name: [] for name in rows}
    for repeat in range(repeats + 1):
        for name, run in rows.items():
            begun = time.perf_counter()
            run()
            if repeat:  # the first round compiles and plans
                times[name].append(1e3 * (time.perf_counter() - begun))
    return {
        name: statistics.median(taken) / (_BLOCK if name.endswith("iteration") else 1) for name, taken in times.items()
    }


def _table(shape: tuple[int, ...], times: dict[str, float]) -> Table:
    bound = min(taken for name, taken in times.items() if name.startswith("FFT"))
    table = Table(box=None, header_style="bold", title=_named(shape), title_justify="left")
    table.add_column("step")
    table.add_column("ms, median", justify="right")
    table.add_column("of the fastest FFT pair", justify="right")
    for name, taken in times.items():
        table.add_row(name, f"{taken:.2f}", f"{taken / bound:.2f}")
    return table


def _rows(shape: tuple[int, ...]) -> _Rows:
    """What is timed, by name; an iteration as a block of several."""
    target, density, support = _problem(shape)
    rows: _Rows = {}
    for name, library in fourier.LIBRARIES.items():
        rows[f"FFT pair, {name}"] = _pair(library, density, in_place=False)
        rows[f"FFT pair, {name}, in place"] = _pair(library, density, in_place=True)
    rows |= _other_pairs(density)
    solver = Solver(target, density, support, None)
    for algorithm in projections.ALGORITHMS:
        rows[f"{algorithm} iteration"] = _iterations(solver, algorithm)
    rows["shrink-wrap update"] = _shrink_wrap(density, support)
    return rows | _cohere(target)


def _problem(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.complex64], NDArray[np.bool_]]:
    """An ellipsoid half as wide as the volume: target, density, support, their middles at [0, 0, 0]."""
    z, y, x = np.meshgrid(*((np.arange(n) - n // 2) / (n / 4) for n in shape), indexing="ij", sparse=True)
    support = fourier.corner(z * z + y * y + x * x <= 1)
    density = support.astype(np.complex64)
    wave = np.empty_like(density)
    fourier.forward(density, wave)
    target = np.abs(wave).astype(np.float32)
    target[len(target) // 3] = -1  # a gap
    return target, density, support


def _iterations(solver: Solver, algorithm: str) -> Callable[[], None]:
    recipe, schedule = (Block(_BLOCK, algorithm),), Schedule(support_every=0)
    return lambda: solver.run(recipe, schedule, lambda _: None)


def _shrink_wrap(density: NDArray[np.complex64], support: NDArray[np.bool_]) -> Callable[[], None]:
    array, modulus = density.copy(), np.empty(density.shape, np.float32)

    def update() -> None:
        projections.intensity(array, modulus)
        shrink_wrap(np.sqrt(modulus, out=modulus), (1.0, 1.0, 1.0), 0.15, support)

    return update


def _pair(library: fourier.Transform, volume: NDArray[np.complex64], *, in_place: bool) -> Callable[[], None]:
    array = volume.copy()
    other = array if in_place else np.empty_like(volume)

    def pair() -> None:
        library(array, other, False)
        library(other, array, True)

    return pair


def _other_pairs(volume: NDArray[np.complex64]) -> _Rows:
    """Libraries that braggd does not use, where they are installed."""
    rows: _Rows = {"FFT pair, numpy": lambda: np.fft.ifftn(np.fft.fftn(volume))}
    if importlib.util.find_spec("pyfftw"):
        pyfftw = importlib.import_module("pyfftw")
        source, target = (pyfftw.empty_aligned(volume.shape, "complex64") for _ in range(2))
        plans = [
            pyfftw.FFTW(*arrays, axes=(0, 1, 2), direction=direction, threads=fourier.cores())
            for arrays, direction in (((source, target), "FFTW_FORWARD"), ((target, source), "FFTW_BACKWARD"))
        ]
        source[...] = volume
        rows["FFT pair, pyfftw"] = lambda: [plan.execute() for plan in plans]
    if importlib.util.find_spec("torch"):
        torch = importlib.import_module("torch")
        tensor = torch.from_numpy(volume.copy())
        rows["FFT pair, torch"] = lambda: torch.fft.ifftn(torch.fft.fftn(tensor))
    return rows


def _cohere(target: NDArray[np.float32]) -> _Rows:
    """ER and HIO of cohere_core with numpy, where it is installed; its setting up is not timed."""
    if not importlib.util.find_spec("cohere_core"):
        return {}
    phasing = importlib.import_module("cohere_core.controller.phasing")
    rows: _Rows = {}
    for algorithm in ("ER", "HIO"):
        with tempfile.TemporaryDirectory(prefix="braggd-bench-") as folder, contextlib.redirect_stdout(io.StringIO()):
            path = Path(folder) / "data.npy"
            np.save(path, np.maximum(fourier.centre(target), 0))
            parameters = {"algorithm_sequence": f"{_BLOCK}*{algorithm}"}
            rec = phasing.create_rec(parameters, str(path), "np", -1, debug=True)
        rows[f"cohere_core {algorithm} iteration"] = partial(_quietly, rec.iterate)
    return rows


def _quietly(run: Callable[[], object]) -> None:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        run()


def _peer(module: str) -> str:
    if not importlib.util.find_spec(module):
        return "not installed"
    version = importlib.metadata.version(module)
    return f"{version}, measured above" if module == "cohere_core" else f"{version}, not measured by this command"


def _edges(shape: str) -> tuple[int, ...]:
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+)", shape)
    edges = tuple(int(edge) for edge in found.groups()) if found else ()
    if not edges or min(edges) < 8:
        raise BraggdError(f"the shape '{shape}' is not of the form 118x180x230, each edge at least 8; correct it")
    return edges


def _named(shape: tuple[int, ...]) -> str:
    return " x ".join(str(edge) for edge in shape)
