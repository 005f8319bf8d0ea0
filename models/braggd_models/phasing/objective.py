"""What phase networks are trained for: losses of a batch of simulated crystals, and how they do on held-out ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from braggd_models.phasing.accuracy import accuracy
from braggd_models.phasing.crystals import Crystals, Ranges, draw
from braggd_models.phasing.losses import coherent, phasor_wca, unit
from braggd_models.phasing.strained import KINDS

HELD_SEED = 770_000
"""Of the crystals that networks are watched on while they train, and are never trained on."""

Waves = tuple[Tensor, Tensor]
_SPREAD = 0.1  # how much the mean of all guesses counts beside the best


def weights(batch: Crystals) -> Tensor:
    """Of the voxels in the loss, (batch, n, n, n), of sum 1: half by magnitude as in eq. 4.3, half by log counts.

    By magnitude alone the fringes, where the shape is, count for little.
    """
    amplitude = batch.wave.abs()
    logs = torch.log1p(amplitude.square() * batch.photons[:, None, None, None])
    return 0.5 * (_normalised(amplitude) + _normalised(logs))


def seed_loss(waves: Waves, batch: Crystals) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Of `seednet.SeedNet`: of the best guess, a little of all guesses, and of every answer."""
    guesses, answers = waves
    truth, weight = unit(batch.wave), weights(batch)
    losses = torch.stack([phasor_wca(unit(guess), truth, weight) for guess in guesses.unbind(1)], 1)
    steps = torch.stack([phasor_wca(unit(answer), truth, weight) for answer in answers.unbind(1)], 1)
    guess = (1 - _SPREAD) * losses.amin(1) + _SPREAD * losses.mean(1)
    total = (0.5 * guess + steps.sum(1)).mean()
    return total, {"guess": losses.amin(1).mean().detach(), "answer": steps[:, -1].mean().detach()}


def wave_loss(waves: Waves, batch: Crystals) -> tuple[Tensor, Mapping[str, Tensor]]:
    """WCA of the last answer alone, for networks that have no others."""
    return phasor_wca(unit(waves[1][:, -1]), unit(batch.wave), weights(batch)).mean(), {}


def checker(
    apply: Callable[[nn.Module, Crystals], Waves], device: torch.device, count: int = 128, edge: int = 32
) -> Callable[[nn.Module], Mapping[str, float]]:
    """Scores of crystals of 2 pi to 5 pi that are never trained on: accuracy in percent, by kind of strain."""
    generator = torch.Generator(device).manual_seed(HELD_SEED)
    held = draw(count, generator, Ranges(phase_range=(2 * math.pi, 5 * math.pi)), edge)

    def check(net: nn.Module) -> Mapping[str, float]:
        found, agree = [], []
        for part in _parts(held, 16):
            answer = apply(net, part)[1][:, -1]
            phasor, amplitude = unit(answer.to(torch.complex64)), part.wave.abs()
            truth = unit(part.wave)
            found.append(accuracy(phasor * amplitude, part.wave))
            agree.append(
                torch.maximum(coherent(amplitude, phasor, truth), coherent(amplitude, phasor, truth.conj()))
            )
        scores = torch.cat(found)
        kinds = {KINDS[k]: scores[held.kind == k].mean().item() for k in range(len(KINDS))}
        return {"accuracy": scores.mean().item(), **kinds, "coherent": torch.cat(agree).mean().item()}

    return check


def _parts(batch: Crystals, size: int) -> list[Crystals]:
    names = Crystals.__slots__
    return [
        Crystals(*(getattr(batch, name)[start : start + size] for name in names)) for start in range(0, len(batch), size)
    ]


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
