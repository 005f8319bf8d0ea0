"""Two-dimensional patterns for the thesis's 2D networks: the central planes of simulated ones.

A plane through the middle of a pattern is that of the crystal's projection; and so a pattern in its own right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from braggd_models.phasing import fourier
from braggd_models.phasing.crystals import Crystals
from braggd_models.phasing.losses import wca


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """logs: (batch, 1, n, n) log counts scaled to 0..1; wave: (batch, n, n) complex64."""

    logs: Tensor
    wave: Tensor

    def to(self, device: torch.device) -> Planes:
        """The same on a device."""
        return Planes(*(getattr(self, f.name).to(device) for f in fields(self)))


def planes(fresh: Iterator[Crystals], size: int, rng: torch.Generator) -> Iterator[Planes]:
    """All three planes through the middle of every pattern."""
    for batch in fresh:
        middle = batch.wave.shape[-1] // 2
        logs = torch.cat([batch.intensity.select(axis, middle) for axis in (1, 2, 3)]).log1p()
        wave = torch.cat([batch.wave.select(axis, middle) for axis in (1, 2, 3)])
        yield Planes((logs / logs.amax((1, 2), keepdim=True).clamp_min(1e-6))[:, None], wave)


def plane_wca(phase: Tensor, batch: Planes) -> tuple[Tensor, Mapping[str, Tensor]]:
    """WCA, weighted by magnitude as in eq. 4.3."""
    return wca(phase[:, 0], batch.wave.angle(), batch.wave.abs()).mean(), {}


def plane_mse(phase: Tensor, batch: Planes) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Mean squared error of the object, eq. 4.2, over the mean square of the object; neither twin is preferred."""
    edge = batch.wave.shape[-1]
    line = fourier.matrix(fourier.centred(edge, phase.device), -fourier.centred(edge, phase.device), edge) / edge
    error = line @ (torch.polar(batch.wave.abs(), phase[:, 0]) - batch.wave) @ line.T
    true = line @ batch.wave @ line.T
    return (error.abs().square().sum((1, 2)) / true.abs().square().sum((1, 2)).clamp_min(1e-12)).mean(), {}
