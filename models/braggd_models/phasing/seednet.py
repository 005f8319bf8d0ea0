"""The network that gives refinement its start: from the middle of a pattern to the object at low resolution.

Phase retrieval whose projection onto what crystals look like is learnt. As in iterative phasing, the wave of an object
gets the measured moduli, which gives an object again; but in place of a support, a small U-Net in real space, where a
crystal is compact and its phase smooth, makes the next object of both and of the autocorrelation. It begins with random
phases, and the same weights do every step. Masked voxels are free, and so are filled on the way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from braggd_models.phasing import fourier
from braggd_models.phasing.crystals import EDGE
from braggd_models.phasing.layers import UNet, fold, unfold
from braggd_models.phasing.losses import unit

BOX = 20
"""Voxels about the object's middle that are kept, along each axis."""

FILL = 0.05
"""Share of the volume that a crystal fills, about: sets the unit of objects."""

DARK = 1e-4
"""Where the logarithm of the autocorrelation ends, as a share of its middle."""

_SMOOTHING, _THRESHOLD = 0.7, 0.2


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """A pattern as the steps need it; float32 all.

    amplitude: (batch, EDGE, EDGE, EDGE), so scaled that objects have a modulus of about 1, 0 where not measured
    measured: likewise, 1 or 0
    correlated: (batch, BOX, BOX, BOX), logarithm of the autocorrelation's modulus, 0 to 1
    """

    amplitude: Tensor
    measured: Tensor
    correlated: Tensor

    @classmethod
    def of(cls, intensity: Tensor, measured: Tensor) -> Data:
        """Of photons and where they were measured, (batch, EDGE, EDGE, EDGE) float32 both."""
        counts = intensity * measured
        power = counts.sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
        amplitude = (counts * (FILL * EDGE**6 / power)).sqrt()
        correlated = fourier.inverse(torch.complex(amplitude.square(), torch.zeros_like(amplitude)), BOX).abs()
        share = correlated / correlated.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        return cls(amplitude, measured, 1 - share.clamp_min(DARK).log() / torch.tensor(DARK).log())

    def fitted(self, density: Tensor) -> Tensor:
        """The object whose wave has the measured moduli and else is that of `density`, (batch, BOX, BOX, BOX)."""
        wave = fourier.forward(density, EDGE)
        wave = unit(wave) * (self.amplitude * self.measured) + wave * (1 - self.measured)
        return fourier.inverse(wave, BOX)

    def begun(self, phase: Tensor) -> Tensor:
        """The object of the measured moduli with these phases, (batch or 1, EDGE, EDGE, EDGE) rad."""
        return normalised(fourier.inverse(torch.polar(self.amplitude, phase.expand_as(self.amplitude)), BOX))


class SeedNet(nn.Module):
    """Photons to a wave; see `forward`. widths: channels of the U-Net's levels; steps: that `forward` does."""

    plain = ("net.head",)  # left to AdamW by the optimiser
    start: Tensor

    def __init__(self, widths: tuple[int, ...] = (112, 320), steps: int = 12) -> None:
        super().__init__()
        self.steps = steps
        self.net = UNet(5 * 8, 2 * 8, widths)
        phases = 2 * torch.pi * torch.rand(1, EDGE, EDGE, EDGE, generator=torch.Generator().manual_seed(1))
        self.register_buffer("start", phases)

    def step(self, density: Tensor, data: Data) -> Tensor:
        """The next object, (batch, BOX, BOX, BOX) complex64."""
        fitted = data.fitted(density)
        seen = torch.stack([density.real, density.imag, fitted.real, fitted.imag, data.correlated], 1)
        change = unfold(self.net(fold(seen))).float()
        return normalised(fitted + torch.complex(change[:, 0], change[:, 1]))

    def forward(self, intensity: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """The wave of the object, (batch, EDGE, EDGE, EDGE) complex64, and its misfit, (batch,).

        intensity: (batch, EDGE, EDGE, EDGE) float32, photons, zero frequency at EDGE // 2; measured: float32, 1 or 0
        misfit: the share of the measured amplitude that the object with the measured moduli misses once it is cut to
            its bright part
        """
        data = Data.of(intensity, measured)
        density = data.begun(self.start)
        for _ in range(self.steps):
            density = self.step(density, data)
        fitted = data.fitted(density)
        wave = fourier.forward(fitted * bright(fitted), EDGE)
        missed = ((wave.abs() - data.amplitude) * measured).abs().sum((1, 2, 3))
        return fourier.forward(density, EDGE), missed / data.amplitude.sum((1, 2, 3)).clamp_min(1e-12)


def normalised(density: Tensor) -> Tensor:
    """Brought to the power that the measured moduli have."""
    power = density.real.square() + density.imag.square()
    mean = power.mean((1, 2, 3), keepdim=True)
    return density * ((FILL * EDGE**3 / BOX**3) / (mean + 1e-12)).sqrt()


def bright(density: Tensor) -> Tensor:
    """1 where the smoothed modulus is above a share of its maximum, else 0, float32."""
    at = torch.arange(density.shape[-1], dtype=torch.float32, device=density.device)
    kernel = torch.exp(-0.5 * ((at[:, None] - at[None]) / _SMOOTHING) ** 2)
    kernel = kernel / kernel.sum(1, keepdim=True)
    smooth = fourier.separable(density.abs(), kernel, kernel, kernel)
    return (smooth > _THRESHOLD * smooth.amax((1, 2, 3), keepdim=True)).float()
