"""Phases of strained crystals in batches: Gaussians, cosines, random fields and mixtures of them.

Kinds and their free parameters as in `braggd_models.simulate.strain`, after Masto, PhD thesis, sections 3.3.1 and 4.3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from braggd_models.phasing import fourier

KINDS = ("gaussians", "cosines", "random", "mixed")
_SHARES = (0.27, 0.27, 0.34, 0.12)
_PERIOD = 4.0
_MODES = 14  # on either side of 0, what a correlation length of a quarter of the half width needs


def draw(
    modulus: Tensor, line: Tensor, half: Tensor, phase_range: Tensor, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The phase, (batch, n, n, n) rad, and its kind, (batch,) index into `KINDS`.

    modulus: (batch, n, n, n), of the crystal about the origin; line: (n,) places along every axis
    half: (batch, 3) half widths of the crystal; phase_range: (batch,) rad, peak to peak within it

    The plane of best fit is taken off, which would only move the peak.
    """
    kind = torch.multinomial(torch.tensor(_SHARES, device=rng.device), len(half), replacement=True, generator=rng)
    places = [line / half[:, axis, None] for axis in range(3)]
    made = torch.empty_like(modulus)
    fields = (_gaussians, _cosines, _random_field)
    for number, field in enumerate(fields):
        ours = (kind == number).nonzero()[:, 0]
        if len(ours):
            made[ours] = field([place[ours] for place in places], rng)
    mixed = (kind == len(fields)).nonzero()[:, 0]
    if len(mixed):
        at = [place[mixed] for place in places]
        weight = 0.2 + 0.8 * torch.rand(len(mixed), 1, 1, 1, generator=rng, device=rng.device)
        first, second = (fields[n] for n in torch.randperm(3, generator=rng, device=rng.device)[:2].tolist())
        made[mixed] = _even(first(at, rng)) + weight * _even(second(at, rng))
    return scaled(made, modulus, places, phase_range), kind


def scaled(phase: Tensor, modulus: Tensor, places: list[Tensor], phase_range: Tensor) -> Tensor:
    """Without its plane of best fit, and with that range, within the crystal."""
    weights = (modulus > 0.5).to(phase.dtype)
    axes = [place.reshape(len(place), *(-1 if a == b else 1 for b in range(3))) for a, place in enumerate(places)]
    total = weights.sum((1, 2, 3)).clamp_min(1)

    def mean(volume: Tensor) -> Tensor:
        return (weights * volume).sum((1, 2, 3)) / total

    means = torch.stack([mean(axis) for axis in axes], 1)
    offsets = [axis - means[:, a, None, None, None] for a, axis in enumerate(axes)]
    phase = phase - mean(phase)[:, None, None, None]
    moments = torch.stack([torch.stack([mean(a * b) for b in offsets], 1) for a in offsets], 1)
    slopes = torch.linalg.solve(
        moments + 1e-6 * torch.eye(3, device=phase.device), torch.stack([mean(a * phase) for a in offsets], 1)
    )
    for a, axis in enumerate(offsets):
        phase = phase - slopes[:, a, None, None, None] * axis
    inside = weights > 0
    high = torch.where(inside, phase, -math.inf).amax((1, 2, 3))
    low = torch.where(inside, phase, math.inf).amin((1, 2, 3))
    return phase * (phase_range / (high - low).clamp_min(1e-6))[:, None, None, None]


def _even(phase: Tensor) -> Tensor:
    return phase / phase.std((1, 2, 3), keepdim=True).clamp_min(1e-6)


def _along(direction: Tensor, places: list[Tensor]) -> Tensor:
    z, y, x = (direction[:, axis, None] * place for axis, place in enumerate(places))
    return z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :]


def _gaussians(places: list[Tensor], rng: torch.Generator) -> Tensor:
    count, device = len(places[0]), rng.device
    total = torch.zeros(count, *(place.shape[1] for place in places), device=device)
    for _ in range(2):
        sign = torch.where(torch.rand(count, generator=rng, device=device) < 0.5, -1.0, 1.0)
        height = sign * (0.4 + 0.6 * torch.rand(count, generator=rng, device=device))
        centre = 1.6 * torch.rand(count, 3, generator=rng, device=device) - 0.8
        frame = torch.linalg.qr(torch.randn(count, 3, 3, generator=rng, device=device))[0]
        frame = frame / (0.3 + 0.7 * torch.rand(count, 3, 1, generator=rng, device=device))
        moved = [place - centre[:, axis, None] for axis, place in enumerate(places)]
        square = sum(_along(frame[:, row], moved).square() for row in range(3))
        total += height[:, None, None, None] * torch.exp(-0.5 * torch.as_tensor(square))
    return total


def _cosines(places: list[Tensor], rng: torch.Generator) -> Tensor:
    count, device = len(places[0]), rng.device
    total = torch.zeros(count, *(place.shape[1] for place in places), device=device)
    for _ in range(2):
        direction = torch.randn(count, 3, generator=rng, device=device)
        length = math.pi * (0.5 + 1.5 * torch.rand(count, 1, generator=rng, device=device))
        offset = 2 * math.pi * torch.rand(count, 1, 1, 1, generator=rng, device=device)
        amplitude = 0.4 + 0.6 * torch.rand(count, 1, 1, 1, generator=rng, device=device)
        wave = length * direction / direction.norm(dim=1, keepdim=True)
        total += amplitude * torch.cos(_along(wave, places) + offset)
    return total


def _random_field(places: list[Tensor], rng: torch.Generator) -> Tensor:
    """A Gaussian random field with Gaussian correlation of 0.25 to 1 half widths."""
    count, device = len(places[0]), rng.device
    correlation = torch.exp(math.log(0.25) * torch.rand(count, generator=rng, device=device))
    reach = math.ceil(0.84 * _PERIOD / float(correlation.min()))
    modes = torch.arange(-reach, reach + 1, dtype=torch.float32, device=device)
    fall = torch.exp(-0.25 * (2 * math.pi / _PERIOD * modes * correlation[:, None]) ** 2)
    weights = fall[:, :, None, None] * fall[:, None, :, None] * fall[:, None, None, :]
    field = torch.randn(*weights.shape, 2, generator=rng, device=device)
    lines = [fourier.matrix(place, -modes, _PERIOD) for place in places]
    return fourier.separable(torch.view_as_complex(field) * weights, *lines).real
