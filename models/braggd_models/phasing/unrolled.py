"""Iterative phasing as layers without weights: a fixed number of projections behind a network, within its graph.

What a network predicts is a start that is right in the main and wrong in detail. Hybrid input-output and error
reduction on the same low-resolution grid mend what the measured moduli and a support that shrinks to the object can
mend, at less than a convolution costs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braggd_models.phasing import fourier
from braggd_models.phasing.losses import unit


class Unrolled(nn.Module):
    """Objects refined, (batch, n, n, n) complex64 in a box about the middle.

    recipe: (steps, feedback) of each part; feedback 0 is error reduction, above 0 hybrid input-output
    threshold: of the smoothed modulus, as a share of its rms inside the support; smoothing: sigma, voxels, first and last
    every: steps between two supports

    Fienup, Appl. Opt. 21, 2758 (1982), doi:10.1364/AO.21.002758; Marchesini et al., Phys. Rev. B 68, 140101 (2003),
    doi:10.1103/PhysRevB.68.140101
    """

    def __init__(
        self,
        recipe: tuple[tuple[int, float], ...] = ((40, 0.9), (10, 0.0)),
        threshold: tuple[float, float] = (0.2, 0.3),
        smoothing: tuple[float, float] = (1.0, 0.6),
        every: int = 10,
    ) -> None:
        super().__init__()
        self.betas = [beta for steps, beta in recipe for _ in range(steps)]
        self.threshold, self.smoothing, self.every = threshold, smoothing, every

    def forward(self, density: Tensor, amplitude: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """The object, and how much the last step misses the measured moduli, (batch,), 0 where it does not.

        density: (batch, n, n, n) complex64; amplitude, measured: (batch, m, m, m) float32, where zero frequency is at
        m // 2; amplitude in the unit of the density's wave
        """
        edge, box = amplitude.shape[-1], density.shape[-1]
        out = fourier.matrix(fourier.centred(edge, density.device), fourier.centred(box, density.device), edge)
        back = fourier.matrix(fourier.centred(box, density.device), -fourier.centred(edge, density.device), edge) / edge
        total = max(len(self.betas) - 1, 1)
        support = self._support(density, None, 0.0)
        inner = density * support
        wave = fourier.separable(inner, out, out, out)
        for step, beta in enumerate(self.betas):
            done = step / total
            wave = fourier.separable(density, out, out, out)
            fitted = fourier.separable(unit(wave) * amplitude * measured + wave * (1 - measured), back, back, back)
            if step and step % self.every == 0:
                support = self._support(fitted, support, done)
            inner = fitted * support
            density = inner + (density - beta * fitted) * (1 - support) if beta else inner
        density = inner
        wave = fourier.separable(density, out, out, out)
        missed = ((wave.abs() - amplitude) * measured).abs().sum((1, 2, 3))
        return density, missed / (amplitude * measured).sum((1, 2, 3)).clamp_min(1e-12)

    def _support(self, density: Tensor, before: Tensor | None, done: float) -> Tensor:
        box = density.shape[-1]
        sigma = self.smoothing[0] + (self.smoothing[1] - self.smoothing[0]) * done
        share = self.threshold[0] + (self.threshold[1] - self.threshold[0]) * done
        at = torch.arange(box, dtype=torch.float32, device=density.device)
        kernel = torch.exp(-0.5 * ((at[:, None] - at[None]) / sigma) ** 2)
        kernel = kernel / kernel.sum(1, keepdim=True)
        smooth = fourier.separable(density.abs(), kernel, kernel, kernel)
        inside = torch.ones_like(smooth) if before is None else before
        square = (smooth.square() * inside).sum((1, 2, 3), keepdim=True) / inside.sum((1, 2, 3), keepdim=True)
        if before is None:  # nearly empty outside: the rms of all says little
            return (smooth > share * smooth.amax((1, 2, 3), keepdim=True)).float()
        return (smooth > share * square.sqrt()).float()
