"""Phase retrieval by gradient descent: a homogeneous, convex, faceted crystal is fitted to the pattern.

Few numbers describe the surface, none the modulus inside: where the projections of `braggd.phasing.retrieve` get lost,
this finds an object nevertheless, or a start for them. Masto, PhD thesis, Univ. Grenoble Alpes, chapter 5; the
gradients are written out in `braggd.phasing.objective`, so no machine-learning library is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from braggd.errors import PhasingError
from braggd.phasing.adam import Adam
from braggd.phasing.align import posed
from braggd.phasing.halfspaces import spread_normals, tangential, unit
from braggd.phasing.objective import Loss, Objective, Parameters, Phase
from braggd.phasing.pattern import prepare

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class DescentConfig:
    """How the descent goes.

    half_spaces: planes that cut the crystal out; too many do no harm
    softness: width of the support's border, voxels; 0.4 to 0.8
    radius: of the first support, in units of the object grid's smallest side (which is half the pattern's)
    phase: `angle`, a grid of angles; `phasor`, of cosines and sines; `displacement`, of displacements along Q
    scattering_vector: |Q|, 1/angstrom, used with `displacement` only (which is then in angstrom)
    roughness: standard deviation of the first phase, rad
    loss: `mae`, relative to the photons; `poisson`, per voxel
    smoothness: weight of the phase's total variation
    compactness: weight of the support's share of the object grid
    noise: added to the gradients, in units of their root mean square; falls with the learning rate
    learning_rate: first step of Adam; voxels, rad
    decay: factor on the learning rate every `decay_every` steps
    starts: of which the one with the smallest loss is kept
    steps: of each start
    seed: the same seed gives the same result

    Raises PhasingError where a value is out of range.
    """

    half_spaces: int = 64
    softness: float = 0.6
    radius: float = 0.25
    phase: Phase = "angle"
    scattering_vector: float = 1.0
    roughness: float = 0.1
    loss: Loss = "mae"
    smoothness: float = 0.0
    compactness: float = 0.0
    noise: float = 0.0
    learning_rate: float = 0.05
    decay: float = 0.9
    decay_every: int = 500
    starts: int = 4
    steps: int = 5000
    seed: int = 1

    def __post_init__(self) -> None:
        limits = {
            "half_spaces": (self.half_spaces >= 4, "at least 4"),
            "softness": (self.softness >= 0.2, "at least 0.2 voxels"),
            "radius": (0 < self.radius <= 0.5, "above 0 and at most 0.5"),
            "phase": (self.phase in get_args(Phase), f"one of {', '.join(get_args(Phase))}"),
            "scattering_vector": (self.scattering_vector > 0, "positive"),
            "roughness": (self.roughness >= 0, "0 or positive"),
            "loss": (self.loss in get_args(Loss), f"one of {', '.join(get_args(Loss))}"),
            "smoothness": (self.smoothness >= 0, "0 or positive"),
            "compactness": (self.compactness >= 0, "0 or positive"),
            "noise": (self.noise >= 0, "0 or positive"),
            "learning_rate": (self.learning_rate > 0, "positive"),
            "decay": (0 < self.decay <= 1, "above 0 and at most 1"),
            "decay_every": (self.decay_every >= 1, "at least 1"),
            "starts": (self.starts >= 1, "at least 1"),
            "steps": (self.steps >= 1, "at least 1"),
        }
        for name, (fine, allowed) in limits.items():
            if not fine:
                raise PhasingError(f"the descent's {name} is {getattr(self, name)!r}; it has to be {allowed}")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Descended:
    """What the descent found.

    density: (z, y, x) complex64 with the pattern's shape, 0 outside the support, its middle at n // 2, mean phase 0;
        `fftshift(fftn(ifftshift(density)))` is the coherent wave, whose modulus is sqrt(photons); together with its
        support it can start `braggd.phasing.solver.Solver`
    support: bool, where the soft support is above a half
    losses: the smallest loss of each start, infinite where it diverged
    start: index of the start that won
    history: float64, the loss of that start at each step
    """

    density: NDArray[np.complex64]
    support: NDArray[np.bool_]
    losses: tuple[float, ...]
    start: int
    history: NDArray[np.float64]


def descend(
    amplitude: NDArray[np.float32],
    valid: NDArray[np.bool_],
    config: DescentConfig,
    *,
    progress: Callable[[float, str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Descended:
    """Phase a diffraction pattern.

    amplitude: (z, y, x) float32, sqrt(photons), zero frequency at n // 2, undefined where not valid
    valid: bool, True where measured; no other voxel enters
    progress: told the share done, 0..1, and what is being done; stop: asked at every step whether to give up

    Raises PhasingError where there is nothing to phase, every start diverges, or `stop` said so.
    """
    pattern = prepare(amplitude, valid, None)
    # the pattern's peak is brought to the zero frequency: else the phase would first have to become a ramp
    offset = tuple(peak - n // 2 for peak, n in zip(pattern.peak, pattern.target.shape, strict=True))
    target = np.roll(pattern.target, tuple(-o for o in offset), axis=(0, 1, 2))
    objective = _objective(target, config)

    def check(index: int, step: int) -> None:
        if stop is not None and stop():
            raise PhasingError("the phasing was stopped before its end; reprocess the scan to begin anew")
        if progress is not None:
            share = (index * config.steps + step) / (config.starts * config.steps)
            progress(share, f"descent {index + 1} of {config.starts}")

    runs = []
    for index in range(config.starts):
        runs.append(_run(objective, config, index, check))
        _log.debug("descent %d: loss %.4g", index, runs[-1][0])
    losses = tuple(loss for loss, _, _ in runs)
    best = int(np.argmin(losses))
    if not np.isfinite(losses[best]):
        raise PhasingError(
            f"every descent diverged; take a smaller learning_rate than {config.learning_rate:g}, or less compactness"
        )
    density, support = _placed(objective, runs[best][1], offset)
    return Descended(density=density, support=support, losses=losses, start=best, history=runs[best][2])


def _objective(target: NDArray[np.float32], config: DescentConfig) -> Objective:
    return Objective(
        target * target,
        target >= 0,
        loss=config.loss,
        phase=config.phase,
        scattering_vector=config.scattering_vector,
        softness=config.softness,
        smoothness=config.smoothness,
        compactness=config.compactness,
    )


def _first(objective: Objective, config: DescentConfig, random: np.random.Generator) -> Parameters:
    """A ball, cut by planes all round, with a faint random phase."""
    angle = random.normal(scale=config.roughness, size=objective.box)
    phase = angle
    if config.phase == "phasor":
        phase = np.stack([np.cos(angle), np.sin(angle)])
    elif config.phase == "displacement":
        phase = angle / config.scattering_vector
    return {
        "normals": spread_normals(config.half_spaces, random),
        "distances": np.full(config.half_spaces, config.radius * min(objective.box)),
        "phase": phase.astype(objective.counts.dtype),
    }


def _run(
    objective: Objective, config: DescentConfig, index: int, check: Callable[[int, int], None]
) -> tuple[float, Parameters, NDArray[np.float64]]:
    """One start: its smallest loss, the parameters that had it, and the loss at each step."""
    random = np.random.default_rng([config.seed, index])
    parameters = _first(objective, config, random)
    adam = Adam(parameters)
    best, kept = np.inf, parameters
    history = np.full(config.steps, np.nan)
    for step in range(config.steps):
        loss, gradients = objective(parameters)
        if not np.isfinite(loss) or not np.isfinite(gradients["distances"]).all():
            _log.warning("descent %d diverged at step %d", index + 1, step + 1)
            return np.inf, parameters, history
        history[step] = loss
        if loss < best:
            best, kept = loss, {name: value.copy() for name, value in parameters.items()}
        rate = config.decay ** (step // config.decay_every)
        if config.noise:
            gradients = {name: _noisy(g, config.noise * rate, random) for name, g in gradients.items()}
        gradients["normals"] = tangential(gradients["normals"], parameters["normals"])
        adam.step(parameters, gradients, config.learning_rate * rate)
        parameters["normals"] = unit(parameters["normals"])
        check(index, step + 1)
    return float(best), kept, history


def _noisy(gradient: NDArray[Any], level: float, random: np.random.Generator) -> NDArray[Any]:
    size = level * float(np.sqrt(np.mean(gradient * gradient, dtype=np.float64)))
    return np.asarray(gradient + size * random.standard_normal(gradient.shape), gradient.dtype)


def _placed(
    objective: Objective, parameters: Parameters, offset: tuple[int, ...]
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """The object in the pattern's volume, with the ramp that brings the peak to where it was measured."""
    shape = objective.counts.shape
    cut = tuple(slice(n // 2 - b // 2, n // 2 - b // 2 + b) for n, b in zip(shape, objective.box, strict=True))
    density, support = np.zeros(shape, np.complex64), np.zeros(shape, np.bool_)
    density[cut] = objective.density(parameters)
    support[cut] = objective.support(parameters) > 0.5
    if not support.any():
        raise PhasingError("the descent shrank the crystal to nothing; take a larger radius or less compactness")
    # the phase of the border's outer half is hardly bound by anything; its photons go to the rest
    whole = float(np.linalg.norm(density))
    density *= support
    density *= np.float32(whole / max(float(np.linalg.norm(density)), 1e-30))
    for axis, (n, shift) in enumerate(zip(shape, offset, strict=True)):
        ramp = np.exp(2j * np.pi * shift * (np.arange(n) - n // 2) / n).astype(np.complex64)
        density *= np.expand_dims(ramp, tuple(a for a in range(3) if a != axis))
    return posed(density, support)
