"""What `braggd bench phasing` times: transforms, braggd's iterations, those of its peers, and a GPU's."""

from __future__ import annotations

import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.errors import PhasingError
from braggd.peers.interpreter import COHERE, PYNX, Installed, Peer, Stopwatch
from braggd.phasing import arrays, fourier, projections
from braggd.phasing.recipe import Block, parse
from braggd.phasing.solver import Schedule, Solver
from braggd.phasing.support import shrink_wrap

BLOCK = 4  # iterations that are timed together
_PEER_STEPS = {PYNX: ("ER", "HIO", "RAAR", "support"), COHERE: ("ER", "HIO", "RAAR")}
_SHRINK_WRAP = "shrink-wrap update"

Run = Callable[[], float]
"""Does something and returns the seconds it took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A row of the table.

    name: as it is printed
    run: takes its time, raises BraggdError where it fails; None where it cannot be run here
    why_not: what is said then
    count: iterations in one run
    bound: whether it is a pair of transforms, the fastest of which bounds all others on its device
    device: `CPU` or `GPU`
    peer: the package whose step it is, "" where it is no peer's
    same_as: name of braggd's step that does the same, for a peer's
    """

    name: str
    run: Run | None
    why_not: str = ""
    count: int = 1
    bound: bool = False
    device: str = "CPU"
    peer: str = ""
    same_as: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Problem:
    """An object and its pattern; (z, y, x), their middles at [0, 0, 0].

    target: float32, as `braggd.phasing.projections` has it; density: complex64; support: bool
    """

    target: NDArray[np.float32]
    density: NDArray[np.complex64]
    support: NDArray[np.bool_]

    def for_peers(self) -> dict[str, NDArray[Any]]:
        """What the peers' scripts read."""
        return {
            "counts": np.maximum(self.target, 0) ** 2,
            "mask": self.target < 0,
            "free": np.zeros_like(self.support),
            "support": self.support,
            "start": self.density,
        }


@contextmanager
def steps(shape: tuple[int, ...], peers: Mapping[Peer, Installed | None]) -> Iterator[list[Step]]:
    """Everything there is to time at a shape; the peers run in processes of their own until the context ends."""
    problem = _ellipsoid(shape)
    with ExitStack() as stack:
        rows = [*_pairs(problem), *_iterations(problem)]
        for peer, installed in peers.items():
            stopwatch = stack.enter_context(Stopwatch(installed, problem.for_peers())) if installed else None
            rows += _peer_steps(peer, stopwatch)
        yield [*rows, *_gpu_steps(problem)]


def whole_runs(shape: tuple[int, ...], number: int, recipe: str) -> tuple[float, str]:
    """Seconds that so many random starts take from beginning to end, support updates included, and what did them.

    They are done on the shape that is fast to transform, as the daemon crops it, on the GPU where there is one.
    """
    problem, device = _ellipsoid(fourier.good_shape(shape)), arrays.choose("auto")
    target, support = (arrays.to_device(array, device) for array in (problem.target, problem.support))
    blocks, random = parse(recipe), np.random.default_rng(0)

    def phase(blocks: tuple[Block, ...]) -> None:
        start = problem.density * np.exp(2j * np.pi * random.random(problem.density.shape, np.float32))
        solver = Solver(target, arrays.to_device(start.astype(np.complex64), device), support, None)
        solver.run(blocks, Schedule(), lambda _: None)

    phase(tuple(Block(Schedule().support_every, block.algorithm) for block in blocks))  # compiles and plans
    begun = time.perf_counter()
    for _ in range(number):
        phase(blocks)
    if device == "cuda":
        arrays.wait()
    return time.perf_counter() - begun, arrays.device_name(device)


def _ellipsoid(shape: tuple[int, ...]) -> Problem:
    """Half as wide as the volume."""
    z, y, x = np.meshgrid(*((np.arange(n) - n // 2) / (n / 4) for n in shape), indexing="ij", sparse=True)
    support = fourier.corner(z * z + y * y + x * x <= 1)
    density = support.astype(np.complex64)
    wave = np.empty_like(density)
    fourier.forward(density, wave)
    target = np.abs(wave).astype(np.float32)
    target[len(target) // 3] = -1  # a gap
    return Problem(target=target, density=density, support=support)


def _pairs(problem: Problem) -> Iterator[Step]:
    """One forward and one inverse transform; of libraries that braggd does not use, where they are installed."""
    volume = problem.density
    for name, library in fourier.LIBRARIES.items():
        for in_place in (False, True):
            run = _pair(library, volume, in_place=in_place)
            yield Step(name=f"FFT pair, {name}{', in place' * in_place}", run=run, bound=True)
    yield Step(name="FFT pair, numpy", run=_timed(lambda: np.fft.ifftn(np.fft.fftn(volume))), bound=True)
    if importlib.util.find_spec("pyfftw"):
        pyfftw = importlib.import_module("pyfftw")
        source, target = (pyfftw.empty_aligned(volume.shape, "complex64") for _ in range(2))
        plans = [
            pyfftw.FFTW(*arrays, axes=(0, 1, 2), direction=direction, threads=fourier.cores())
            for arrays, direction in (((source, target), "FFTW_FORWARD"), ((target, source), "FFTW_BACKWARD"))
        ]
        source[...] = volume
        yield Step(name="FFT pair, pyfftw", run=_timed(lambda: [plan.execute() for plan in plans]), bound=True)
    if importlib.util.find_spec("torch"):
        torch = importlib.import_module("torch")
        tensor = torch.from_numpy(volume.copy())
        yield Step(name="FFT pair, torch", run=_timed(lambda: torch.fft.ifftn(torch.fft.fftn(tensor))), bound=True)


def _pair(library: fourier.Transform, volume: NDArray[np.complex64], *, in_place: bool) -> Run:
    array = volume.copy()
    other = array if in_place else np.empty_like(volume)

    def pair() -> None:
        library(array, other, False)
        library(other, array, True)

    return _timed(pair)


def _iterations(problem: Problem) -> Iterator[Step]:
    """Where the problem's arrays are."""
    gpu = not isinstance(problem.target, np.ndarray)
    device, mark = ("GPU", ", GPU") if gpu else ("CPU", "")
    finish: Callable[[Callable[[], None]], Run] = _finished if gpu else _timed
    solver = Solver(problem.target, problem.density.copy(), problem.support, None)
    for name in projections.ALGORITHMS:
        recipe, schedule = (Block(BLOCK, name),), Schedule(support_every=0)
        run = finish(partial(solver.run, recipe, schedule, lambda _: None))
        yield Step(name=f"{name} iteration{mark}", run=run, count=BLOCK, device=device)
    array, modulus = problem.density.copy(), arrays.namespace(problem.target).empty_like(problem.target)

    def update() -> None:
        projections.intensity(array, modulus)
        shrink_wrap(np.sqrt(modulus, out=modulus), (1.0, 1.0, 1.0), 0.15, problem.support)

    yield Step(name=f"{_SHRINK_WRAP}{mark}", run=finish(update), device=device)


def _peer_steps(peer: Peer, stopwatch: Stopwatch | None) -> Iterator[Step]:
    for algorithm in _PEER_STEPS[peer]:
        wrap = algorithm == "support"
        count = 1 if wrap else BLOCK
        same_as = _SHRINK_WRAP if wrap else f"{algorithm} iteration"
        yield Step(
            name=f"{peer.name} {same_as}",
            run=partial(stopwatch.seconds, algorithm, count) if stopwatch else None,
            why_not="not installed",
            count=count,
            peer=peer.name,
            same_as=same_as,
        )


def _gpu_steps(problem: Problem) -> Iterator[Step]:
    """A GPU's transforms, in place and by a plan that is kept, and braggd's iterations on it."""
    try:
        arrays.choose("cuda")
    except PhasingError:
        for name in ("FFT pair, cuFFT", *(f"{name} iteration, GPU" for name in ("ER", "HIO", "RAAR"))):
            yield Step(name=name, run=None, why_not="not measured", device="GPU")
        return
    target, density, support = (
        arrays.to_device(array, "cuda") for array in (problem.target, problem.density, problem.support)
    )
    cuda = importlib.import_module("braggd.phasing.cuda")
    nothing = density * 0  # which the missing factor leaves as it is

    def transform() -> None:
        cuda.transform(nothing, nothing, back=False, scaled=False)
        cuda.transform(nothing, nothing, back=True, scaled=False)

    yield Step(name="FFT pair, cuFFT", run=_finished(transform), bound=True, device="GPU")
    yield from _iterations(Problem(target=target, density=density, support=support))


def _finished(run: Callable[[], None]) -> Run:
    """And the GPU has done it all."""

    def finish() -> None:
        run()
        arrays.wait()

    return _timed(finish)


def _timed(run: Callable[[], object]) -> Run:
    def timed() -> float:
        begun = time.perf_counter()
        run()
        return time.perf_counter() - begun

    return timed
