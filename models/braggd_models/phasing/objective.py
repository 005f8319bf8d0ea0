"""What phase networks are trained for: losses of a batch of simulated crystals, and how they do on held-out ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from braggd_models.phasing import fourier
from braggd_models.phasing.accuracy import accuracy
from braggd_models.phasing.crystals import EDGE, Crystals, Ranges, draw
from braggd_models.phasing.losses import object_loss, phasor_wca, real_space_mse, unit
from braggd_models.phasing.pool import Course
from braggd_models.phasing.strained import KINDS

HELD_SEED = 770_000
"""Of the crystals that networks are watched on while they train, and are never trained on."""


def weights(batch: Crystals) -> Tensor:
    """Of the voxels in the loss, (batch, n, n, n), of sum 1: half by magnitude as in eq. 4.3, half by log counts.

    By magnitude alone the fringes, where the shape is, count for little.
    """
    amplitude = batch.wave.abs()
    logs = torch.log1p(amplitude.square() * batch.photons[:, None, None, None])
    return 0.5 * (_normalised(amplitude) + _normalised(logs))


def course_loss(densities: Tensor, course: Course) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Of the objects, (steps, batch, n, n, n), after each step of a `SeedNet`: their waves' phases and themselves.

    The WCA alone leaves the modulus to chance: where the phase is still in doubt, that says least of the shape.
    """
    wave, weight = course.crystals.wave, weights(course.crystals)
    edge, box = wave.shape[-1], densities.shape[-1]
    true = fourier.inverse(wave, box)
    phases = [phasor_wca(unit(fourier.forward(one, edge)), unit(wave), weight).mean() for one in densities]
    objects = [object_loss(one, true).mean() for one in densities]
    total = torch.stack(phases).sum() + torch.stack(objects).sum()
    return total, {"phase": phases[-1].detach(), "object": objects[-1].detach()}


def wave_loss(wave: Tensor, batch: Crystals) -> tuple[Tensor, Mapping[str, Tensor]]:
    """WCA of a wave, (batch, n, n, n) complex64, of which only the phase counts."""
    return phasor_wca(unit(wave), unit(batch.wave), weights(batch)).mean(), {}


def mse_loss(wave: Tensor, batch: Crystals) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Mean squared error of the object, eq. 4.2, over the object's mean square, of a wave of which the phase counts."""
    true = fourier.inverse(batch.wave, batch.wave.shape[-1]).abs().square().mean((1, 2, 3))
    return (real_space_mse(wave.angle(), batch.wave) / true.clamp_min(1e-12)).mean(), {}


def checker(
    predict: Callable[[nn.Module, Crystals], Tensor], device: torch.device, count: int = 96, edge: int = EDGE
) -> Callable[[nn.Module], Mapping[str, float]]:
    """Scores of crystals of 2 pi to 5 pi that are never trained on: accuracy in percent, by kind of strain.

    predict: the wave, (batch, n, n, n) complex64, that a network makes of a batch
    """
    generator = torch.Generator(device).manual_seed(HELD_SEED)
    held = draw(count, generator, Ranges(phase_range=(2 * math.pi, 5 * math.pi)), edge)

    def check(net: nn.Module) -> Mapping[str, float]:
        waves = torch.cat([predict(net, part) for part in _parts(held, 16)])
        scores = accuracy(waves, held.wave)
        kinds = {KINDS[k]: scores[held.kind == k].mean().item() for k in range(len(KINDS))}
        return {"accuracy": scores.mean().item(), **kinds}

    return check


def _parts(batch: Crystals, size: int) -> list[Crystals]:
    names = Crystals.__slots__
    return [
        Crystals(*(getattr(batch, name)[start : start + size] for name in names))
        for start in range(0, len(batch), size)
    ]


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
