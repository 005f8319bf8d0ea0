"""Networks of others that give the object itself, to be compared with.

Two decoders, unsupervised: Y. Yao et al., AutoPhaseNN, npj Comput. Mater. 8, 124 (2022),
doi:10.1038/s41524-022-00803-w. Complex-valued U-Net: X. Yu et al., npj Comput. Mater. 10, 293 (2024), after the
thesis's section 4.11, which took it to three dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from braggd_models.gaps.thesis import ALL
from braggd_models.phasing import fourier
from braggd_models.phasing.crystals import Crystals
from braggd_models.phasing.seednet import normalised


class TwoDecoders(nn.Module):
    """One encoder, and decoders for modulus (sigmoid) and phase (pi tanh) of an object half the pattern's size."""

    plain = ALL

    def __init__(self, sizes: Sequence[int] = (32, 64, 128, 256)) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(_pair(a, b) for a, b in zip((1, *sizes), sizes, strict=False))
        self.middle = _pair(sizes[-1], sizes[-1])
        # the object's box is half as wide: the decoders end one level early
        wide = list(reversed(sizes))
        self.modulus = nn.ModuleList(_pair(a, b) for a, b in pairwise(wide))
        self.phase = nn.ModuleList(_pair(a, b) for a, b in pairwise(wide))
        self.last = nn.ModuleList(nn.Conv3d(sizes[0], 1, 3, padding=1) for _ in range(2))

    def forward(self, amplitude: Tensor) -> Tensor:
        """Amplitudes scaled to 0..1, (batch, n, n, n), to an object, (batch, n/2, n/2, n/2) complex64."""
        x = amplitude[:, None]
        for block in self.encoder:
            x = functional.max_pool3d(block(x), 2)
        x = self.middle(x)
        made = []
        for decoder, last in zip((self.modulus, self.phase), self.last, strict=True):
            y = x
            for block in decoder:
                y = block(functional.interpolate(y, scale_factor=2.0))
            made.append(last(y)[:, 0].float())
        return torch.polar(torch.sigmoid(made[0]), math.pi * torch.tanh(made[1]))


def unsupervised(density: Tensor, batch: Crystals) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Mean absolute error of the amplitudes where measured, as a share of them; the truth is not looked at."""
    edge = batch.intensity.shape[-1]
    made = fourier.forward(density, edge).abs() * batch.measured
    amplitude = batch.intensity.sqrt() * batch.measured
    scale = (made * amplitude).sum((1, 2, 3)) / made.square().sum((1, 2, 3)).clamp_min(1e-12)
    missed = (made * scale[:, None, None, None] - amplitude).abs().sum((1, 2, 3))
    return (missed / amplitude.sum((1, 2, 3)).clamp_min(1e-12)).mean(), {}


class ComplexConv(nn.Module):
    """A convolution with complex weights; complex volumes are pairs of real ones in the channels."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        self.real = nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2)
        self.imag = nn.Conv3d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, 2 inputs, ...) to (batch, 2 outputs, ...)."""
        a, b = x.chunk(2, 1)
        return torch.cat([self.real(a) - self.imag(b), self.real(b) + self.imag(a)], 1)


class ComplexUNet(nn.Module):
    """A complex-valued U-Net, from amplitudes to the object; 36.0 million real parameters, as in the thesis."""

    plain = ALL

    def __init__(self, sizes: Sequence[int] = (28, 56, 112, 224, 448)) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(ComplexConv(a, b) for a, b in zip((1, *sizes), sizes, strict=False))
        self.second = nn.ModuleList(ComplexConv(size, size) for size in sizes)
        wide = list(reversed(sizes))
        self.decoder = nn.ModuleList(ComplexConv(a + b, b) for a, b in pairwise(wide))
        self.after = nn.ModuleList(ComplexConv(size, size) for size in wide[1:])
        self.last = ComplexConv(sizes[0], 1, 1)

    def forward(self, amplitude: Tensor) -> Tensor:
        """Amplitudes scaled to 0..1, (batch, n, n, n), to an object, (batch, n, n, n) complex64."""
        x = torch.stack([amplitude, torch.zeros_like(amplitude)], 1)
        skips: list[Tensor] = []
        for level, (one, two) in enumerate(zip(self.encoder, self.second, strict=True)):
            x = _bent(two(_bent(one(x if not level else functional.avg_pool3d(x, 2)))))
            skips.append(x)
        for level, (one, two) in enumerate(zip(self.decoder, self.after, strict=True), 2):
            parts = [volume.chunk(2, 1) for volume in (functional.interpolate(x, scale_factor=2.0), skips[-level])]
            real, imag = (torch.cat([a, b], 1) for a, b in zip(*parts, strict=True))
            x = _bent(two(_bent(one(torch.cat([real, imag], 1)))))
        x = self.last(x).float()
        return torch.complex(x[:, 0], x[:, 1])


def object_loss(density: Tensor, batch: Crystals) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Squared error of the object, both brought to the same power and phase; of the twins the better one."""
    edge = batch.wave.shape[-1]
    made = _even(density)
    found = []
    for wave in (batch.wave, batch.wave.conj()):
        true = _even(fourier.inverse(wave, edge))
        found.append(2 - 2 * (made * true.conj()).sum((1, 2, 3)).abs())
    return torch.minimum(*found).mean(), {}


def _even(density: Tensor) -> Tensor:
    made = normalised(density)
    return made / made.abs().square().sum((1, 2, 3), keepdim=True).clamp_min(1e-12).sqrt()


def _pair(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(inputs, outputs, 3, padding=1),
        nn.LeakyReLU(0.01),
        nn.Conv3d(outputs, outputs, 3, padding=1),
        nn.LeakyReLU(0.01),
    )


def _bent(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.1)
