"""The engines that `braggd bench compare` sets side by side, and the task that all of them get."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from braggd.config import Config, PhasingConfig
from braggd.errors import BraggdError
from braggd.offline import load_scan
from braggd.peers.interpreter import Installed
from braggd.peers.pynx_exchange import Found, phase
from braggd.phasing import coherence, fourier
from braggd.phasing.free import free_voxels
from braggd.phasing.pattern import prepare
from braggd.phasing.projections import convolve
from braggd.phasing.recipe import ONE_RUN, parse
from braggd.phasing.retrieve import retrieve
from braggd.phasing.solver import Schedule, Solver
from braggd.phasing.support import first_support
from braggd.scan.region import selected

ITERATIONS = {block.algorithm: block.count for block in parse(ONE_RUN)}
"""By algorithm, of one run."""

_PERIOD, _SHORTEST = 50, 20  # iterations between two support updates: PyNX's default, and in a trial


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Task:
    """What is phased; (z, y, x), zero frequency at n // 2.

    counts: float32, photons, 0 where not valid
    valid: bool, True where measured; free: those of them that no engine sees
    support: bool, what all begin with, its middle at n // 2
    counted: iterations by algorithm, in their order
    """

    counts: NDArray[np.float32]
    valid: NDArray[np.bool_]
    free: NDArray[np.bool_]
    support: NDArray[np.bool_]
    counted: dict[str, int]

    def amplitude(self) -> NDArray[np.float32]:
        """Square root of the counts that are seen, 0 elsewhere."""
        return np.sqrt(np.where(self.fitted(), self.counts, 0), dtype=np.float32)

    def fitted(self) -> NDArray[np.bool_]:
        """The voxels that an engine sees."""
        return self.valid & ~self.free

    def start(self, seed: int) -> NDArray[np.complex64]:
        """A random object inside the support: amplitudes 0 to 1, any phase; as PyNX begins with unless told."""
        random = np.random.default_rng(seed)
        size = random.uniform(0, 1, self.support.shape) * self.support
        phase = np.exp(2j * np.pi * random.uniform(0, 1, size.shape))
        return np.asarray(size * phase, np.complex64)

    def period(self) -> int:
        """Iterations between two support updates; in a trial still enough for PyNX to fit its PSF in between."""
        return max(_SHORTEST, min(_PERIOD, _PERIOD * sum(self.counted.values()) // sum(ITERATIONS.values())))


Engine = Callable[[Task, int], Found]
"""Phases a task from the start of that seed."""


def task_from(spec: str, shape: tuple[int, int, int], share: float) -> Task:
    """The part of a scan that the pipeline would phase, and what all engines begin with.

    Raises BraggdError where there is nothing to phase.
    """
    scan = load_scan(spec, Config(), "compare")
    part = selected(scan.counts, scan.valid, shape)
    counts, valid = part.counts, part.valid
    pattern = prepare(np.sqrt(np.where(valid, counts, 0)), valid, None)
    free = free_voxels(valid, peak=pattern.peak)
    counted = {name: max(1, round(share * count)) for name, count in ITERATIONS.items()}
    task = Task(counts=counts, valid=valid, free=free, support=np.ones_like(valid), counted=counted)
    pattern = prepare(task.amplitude(), task.fitted(), None)  # without the free voxels
    return replace(task, support=fourier.centre(first_support(pattern.filled)[0]))


def problem_for_pynx(task: Task, seed: int, *, psf: bool) -> dict[str, NDArray[np.generic]]:
    """The task in PyNX's words and its order of the voxels, for `pynx_run.py`; the rest is its runner's default."""
    volumes = {"counts": task.counts, "mask": ~task.valid, "free": task.free, "support": task.support}
    problem = {name: fourier.corner(volume) for name, volume in volumes.items()}
    problem["start"] = fourier.corner(task.start(seed))
    numbers = {name.lower(): count for name, count in task.counted.items()}
    return problem | {
        name: np.asarray(value)
        for name, value in {**numbers, "period": task.period(), "threshold": 0.25, "psf": psf}.items()
    }


def point_spread(kernels: coherence.Kernels | None, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
    """What braggd's blur makes of a point at n // 2; None for a coherent beam."""
    if kernels is None:
        return None
    point, psf = np.zeros(shape, np.float32), np.empty(shape, np.float32)
    point[tuple(n // 2 for n in shape)] = 1
    convolve(point, psf, kernels)
    return psf


def recipe(counted: dict[str, int]) -> str:
    """Numbers of iterations as a recipe."""
    return " + ".join(f"{count}*{name}" for name, count in counted.items())


def _pynx(installed: Installed | None, keep: Path | None, *, psf: bool) -> Engine:
    def engine(task: Task, seed: int) -> Found:
        if installed is None:
            raise BraggdError("PyNX is not installed; name an interpreter that has it by --pynx")
        return phase(installed, problem_for_pynx(task, seed, psf=psf), keep)

    return engine


def _solver(installed: Installed | None, keep: Path | None, *, coherent: bool) -> Engine:
    """braggd's iterations from PyNX's beginning, with as many support updates."""

    def engine(task: Task, seed: int) -> Found:
        pattern = prepare(task.amplitude(), task.fitted(), None)
        density = fourier.corner(task.start(seed))
        photons = float(np.sum(np.square(task.amplitude(), dtype=np.float64)))
        density *= np.float32(np.sqrt(photons / density.size / np.sum(np.abs(density) ** 2, dtype=np.float64)))
        kernels = None if coherent else coherence.START
        solver = Solver(pattern.target, density, fourier.corner(task.support), kernels)
        before_er = task.counted["HIO"] + task.counted["RAAR"]
        schedule = Schedule(support_every=task.period(), smoothing=(2.0, 0.5), coherence_from=round(0.66 * before_er))
        begun = time.perf_counter()
        solver.run(parse(recipe(task.counted)), schedule, lambda _: None)
        solver.constrain()
        seconds = time.perf_counter() - begun
        return Found(
            density=fourier.centre(solver.density),
            support=fourier.centre(solver.support),
            psf=point_spread(solver.kernels, task.counts.shape),
            seconds=seconds,
        )

    return engine


def _retrieve(installed: Installed | None, keep: Path | None) -> Engine:
    """braggd as a user has it: its own search, and as many iterations as it takes."""

    def engine(task: Task, seed: int) -> Found:
        config = msgspec.structs.replace(PhasingConfig(), seed=seed, free_fraction=0.0)
        if sum(task.counted.values()) < sum(ITERATIONS.values()):  # a trial
            short = recipe(task.counted)
            config = msgspec.structs.replace(
                config, recipe=short, quick=short, seeded=short, refine=short, starts=1, prolong=""
            )
        begun = time.perf_counter()
        retrieved = retrieve(task.amplitude(), task.fitted(), config)
        seconds = time.perf_counter() - begun
        return Found(
            density=retrieved.density,
            support=retrieved.support,
            psf=point_spread(retrieved.kernels, task.counts.shape),
            seconds=seconds,
            fault=" ".join(retrieved.warnings),
        )

    return engine


ENGINES: dict[str, Callable[[Installed | None, Path | None], Engine]] = {
    "pynx": partial(_pynx, psf=False),
    "pynx-psf": partial(_pynx, psf=True),
    "solver": partial(_solver, coherent=True),
    "solver-psf": partial(_solver, coherent=False),
    "braggd": _retrieve,
}
"""What can phase a task, by name: PyNX, braggd's iterations from PyNX's beginning, braggd as a user has it."""
