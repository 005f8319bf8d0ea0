"""`braggd bench compare`: braggd and PyNX phase the same measured scan, and are judged by one and the same measure.

All see the same voxels, the same free ones are withheld from all, and every run of one seed begins with the same random
object inside the same support, the autocorrelation's, and goes through as many iterations. How the support is updated
and the coherence is fitted is each engine's own.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from braggd.bench_engines import ENGINES, Task, recipe, task_from
from braggd.config import PhasingConfig
from braggd.errors import BraggdError
from braggd.peers.interpreter import PYNX, locate
from braggd.peers.pynx_exchange import Found
from braggd.phasing import fourier
from braggd.phasing.align import align
from braggd.phasing.free import log_likelihoods
from braggd.phasing.retrieve import warm_up

_BEST = 5  # runs whose agreement is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """How well an object explains the counts, smaller is better; see `braggd.phasing.free.log_likelihoods`.

    llk, free_llk: with the blur that was fitted, if one was; coherent_llk, coherent_free_llk: without
    support_voxels: size of its support
    """

    llk: float
    free_llk: float
    coherent_llk: float
    coherent_free_llk: float
    support_voxels: int


def bench_compare(
    spec: str,
    runs: int,
    share: float,
    engines: Sequence[str],
    *,
    shape: tuple[int, int, int] = (128, 128, 128),
    python: str = "",
    keep: Path | None = None,
) -> None:
    """Phase a recorded scan `runs` times by each engine, and print a table.

    spec: `FILE`, `FILE::DATASET` or `example`; shape: largest volume, cropped about the peak
    share: of the full number of iterations, for a trial
    engines: names, of ENGINES; python: an interpreter with PyNX; keep: a folder for PyNX's results, used again

    Raises BraggdError.
    """
    unknown = [name for name in engines if name not in ENGINES]
    if unknown:
        raise BraggdError(f"there is no engine '{unknown[0]}'; take one of {', '.join(ENGINES)}")
    console, task = Console(), task_from(spec, shape, share)
    installed = locate(PYNX, python)
    warm_up(PhasingConfig())
    done: dict[str, list[tuple[Found, Score]]] = {}
    for name in engines:
        if name.startswith("pynx") and installed is None:
            console.print(f"{name}: PyNX is not installed; --pynx names an interpreter that has it", highlight=False)
            continue
        engine = ENGINES[name](installed, keep)
        done[name] = []
        for seed in range(1, runs + 1):
            with console.status(f"{name}, run {seed} of {runs}"):
                found = engine(task, seed)
                done[name].append((found, evaluate(found, task.counts, task.valid, task.free)))
    console.print(_table(done), soft_wrap=True)
    for name, results in done.items():
        console.print(_summary(name, results), highlight=False, soft_wrap=True)
    console.print(_about(task), highlight=False, soft_wrap=True)


def evaluate(found: Found, counts: NDArray[np.float32], valid: NDArray[np.bool_], free: NDArray[np.bool_]) -> Score:
    """Judge an object, whatever engine it comes from and in whatever scale.

    counts, valid, free: (z, y, x), as `Task` has them
    The calculated intensity is scaled to as many photons as there are in the voxels that were seen, which is the scale
    of the largest likelihood.
    """
    wave = scipy.fft.fftn(np.where(found.support, found.density, 0).astype(np.complex128), workers=fourier.cores())
    coherent = fourier.centre(np.abs(wave) ** 2)
    seen = valid & ~free

    def likelihoods(intensity: NDArray[np.float64]) -> tuple[float, float]:
        total = float(intensity[seen].sum())
        scale = float(counts[seen].sum(dtype=np.float64)) / total if total > 0 else 0.0
        return log_likelihoods((scale * intensity).astype(np.float32), counts, valid, free)

    plain = likelihoods(coherent)
    llk, free_llk = plain if found.psf is None else likelihoods(_blurred(coherent, found.psf))
    return Score(
        llk=llk,
        free_llk=free_llk,
        coherent_llk=plain[0],
        coherent_free_llk=plain[1],
        support_voxels=int(found.support.sum()),
    )


def repeatability(densities: Sequence[NDArray[np.complex64]]) -> list[float]:
    """Correlation of the moduli of each pair, after the one is aligned to the other."""
    return [align(one, other).correlation for one, other in itertools.combinations(densities, 2)]


def _blurred(intensity: NDArray[np.float64], psf: NDArray[np.floating]) -> NDArray[np.float64]:
    kernel = scipy.fft.rfftn(fourier.corner(psf).astype(np.float64), workers=fourier.cores())
    blurred = scipy.fft.irfftn(scipy.fft.rfftn(intensity, workers=fourier.cores()) * kernel, intensity.shape)
    return np.maximum(blurred, 0)


def _table(done: dict[str, list[tuple[Found, Score]]]) -> Table:
    table = Table(box=None, header_style="bold")
    table.add_column("run")
    for column in ("LLK", "free LLK", "coherent LLK", "coherent free", "support", "seconds"):
        table.add_column(column, justify="right")
    for name, results in done.items():
        for seed, (found, score) in enumerate(results, 1):
            figures = (score.llk, score.free_llk, score.coherent_llk, score.coherent_free_llk)
            fault = f"  ({found.fault})" if found.fault else ""
            table.add_row(
                f"{name} {seed}{fault}",
                *(f"{figure:.4f}" for figure in figures),
                str(score.support_voxels),
                f"{found.seconds:.1f}",
            )
    return table


def _summary(name: str, results: list[tuple[Found, Score]]) -> str:
    ranked = sorted(results, key=lambda result: result[1].free_llk)[:_BEST]
    best = ranked[0][1]
    said = f"{name}: best free LLK {best.free_llk:.4f} (LLK {best.llk:.4f})"
    pairs = repeatability([found.density for found, _ in ranked])
    if not pairs:
        return said
    return f"{said}; the {len(ranked)} best correlate by {np.mean(pairs):.3f} on average, {min(pairs):.3f} at least"


def _about(task: Task) -> str:
    z, y, x = task.counts.shape
    return (
        f"{z} x {y} x {x} voxels, {task.free.sum() / task.valid.sum():.1%} of the measured ones free; "
        f"{recipe(task.counted)}, first support {int(task.support.sum())} voxels; "
        f"{fourier.cores()} threads, load {os.getloadavg()[0]:.1f}"
    )
