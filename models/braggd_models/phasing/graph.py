"""`SeedNet` in real numbers, as ONNX wants it: every complex volume is a pair of a real and an imaginary part."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braggd_models.phasing import fourier
from braggd_models.phasing.crystals import EDGE
from braggd_models.phasing.layers import fold, unfold
from braggd_models.phasing.seednet import BOX, DARK, FILL, SeedNet, bright

Pair = tuple[Tensor, Tensor]


class Graph(nn.Module):
    """What is exported: `intensity`, `measured` to `wave`, (batch, 2, EDGE, EDGE, EDGE), and `misfit`, (batch,)."""

    out_real: Tensor
    out_imag: Tensor
    back_real: Tensor
    back_imag: Tensor
    start_real: Tensor
    start_imag: Tensor

    def __init__(self, net: SeedNet) -> None:
        super().__init__()
        self.net, self.steps = net.net, net.steps
        out = fourier.matrix(fourier.centred(EDGE), fourier.centred(BOX), EDGE)
        back = fourier.matrix(fourier.centred(BOX), -fourier.centred(EDGE), EDGE) / EDGE
        for name, values in {
            "out_real": out.real,
            "out_imag": out.imag,
            "back_real": back.real,
            "back_imag": back.imag,
            "start_real": net.start.cos(),
            "start_imag": net.start.sin(),
        }.items():
            self.register_buffer(name, values.contiguous())

    def forward(self, intensity: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """As `SeedNet.forward`, float32 throughout."""
        counts = intensity * measured
        power = counts.sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
        squared = counts * (FILL * EDGE**6 / power)
        amplitude = squared.sqrt()
        correlated = self._length(self._inverse((squared, torch.zeros_like(squared))))
        share = correlated / correlated.amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        correlated = 1 - share.clamp_min(DARK).log() / torch.tensor(DARK).log()
        density = _normalised(self._inverse((amplitude * self.start_real, amplitude * self.start_imag)))
        for _ in range(self.steps):
            fitted = self._fitted(density, amplitude, measured)
            change = unfold(self.net(fold(torch.stack([*density, *fitted, correlated], 1))))
            density = _normalised((fitted[0] + change[:, 0], fitted[1] + change[:, 1]))
        real, imag = self._fitted(density, amplitude, measured)
        inside = bright(self._length((real, imag)))
        cut = self._forward((real * inside, imag * inside))
        missed = ((self._length(cut) - amplitude) * measured).abs().sum((1, 2, 3))
        return torch.stack(self._forward(density), 1), missed / amplitude.sum((1, 2, 3)).clamp_min(1e-12)

    def _fitted(self, density: Pair, amplitude: Tensor, measured: Tensor) -> Pair:
        real, imag = self._forward(density)
        factor = amplitude * measured / (real.square() + imag.square() + 1e-12).sqrt() + (1 - measured)
        return self._inverse((real * factor, imag * factor))

    def _forward(self, density: Pair) -> Pair:
        return _separable(density, (self.out_real, self.out_imag))

    def _inverse(self, wave: Pair) -> Pair:
        return _separable(wave, (self.back_real, self.back_imag))

    def _length(self, volume: Pair) -> Tensor:
        return (volume[0].square() + volume[1].square()).sqrt()


def _normalised(density: Pair) -> Pair:
    mean = (density[0].square() + density[1].square()).mean((1, 2, 3), keepdim=True)
    factor = ((FILL * EDGE**3 / BOX**3) / (mean + 1e-12)).sqrt()
    return density[0] * factor, density[1] * factor


def _separable(volume: Pair, matrix: Pair) -> Pair:
    """A matrix along each of the last three axes; the axes turn, and are back after three."""
    real, imag = volume
    first, second = matrix[0].T, matrix[1].T
    for _ in range(3):
        real, imag = real @ first - imag @ second, real @ second + imag @ first
        real, imag = real.permute(0, 3, 1, 2), imag.permute(0, 3, 1, 2)
    return real, imag
