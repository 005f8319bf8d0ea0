"""The thesis's networks that give the reciprocal-space phase itself: unwrapped, without an activation at the end.

M. Masto, PhD thesis, Univ. Grenoble Alpes: sections 4.4, 4.5 (two dimensions), 4.6 (patches), 4.8 and Fig. 4.30 (64^3).
The thesis states numbers of parameters, kernels and rates; the sizes between, where it does not say, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from braggd_models.gaps.thesis import ALL, Dilated, Plain, Up

_RATES = ((8, 5, 3, 1), (6, 4, 2, 1))


class RspNet(nn.Module):
    """Log counts scaled to 0..1, (batch, inputs, ...), to a phase in rad, (batch, 1, ...).

    dimensions: 2 or 3; sizes: channels of the encoder's blocks, from the finest; middle: of the deepest layer
    rates: dilations of the first blocks; sides must be multiples of 2 to the number of blocks
    """

    plain = ALL

    def __init__(
        self,
        dimensions: int,
        sizes: Sequence[int],
        middle: int,
        rates: Sequence[Sequence[int]] = (),
        inputs: int = 1,
    ) -> None:
        super().__init__()
        kind = nn.Conv2d if dimensions == 2 else nn.Conv3d
        self.pool = functional.max_pool2d if dimensions == 2 else functional.max_pool3d
        blocks: list[nn.Module] = []
        skips, channels = [], inputs
        for number, size in enumerate(sizes):
            dilated = number < len(rates)
            blocks.append(
                Dilated(dimensions, channels, size, rates[number]) if dilated else Plain(dimensions, channels, size)
            )
            channels = channels + size if dilated else size
            skips.append(channels)
        self.encoder = nn.ModuleList(blocks)
        self.middle = kind(channels, middle, 3, padding=1)
        self.halved = nn.ModuleList(kind(skip, size // 2, 1) for skip, size in zip(skips, sizes, strict=True))
        ups, channels = [], middle
        for size in reversed(sizes):
            ups.append(Up(dimensions, channels, size))
            channels = size + size // 2
        self.decoder = nn.ModuleList(ups)
        self.last = kind(channels, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The phase, rad."""
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = self.pool(x, 2)
        x = functional.leaky_relu(self.middle(x), 0.2)
        for up, halved, skip in zip(self.decoder, reversed(self.halved), reversed(skips), strict=True):
            x = torch.cat([up(x), halved(skip)], dim=1)
        phase: Tensor = self.last(x)
        return phase


def low_strain() -> RspNet:
    """Six blocks for 64 x 64, for little strain: a third of the other's parameters."""
    return RspNet(2, (16, 32, 64, 128, 256, 512), 512)


def high_strain() -> RspNet:
    """Six blocks for 64 x 64, for much strain; 27.5 million parameters in the thesis."""
    return RspNet(2, (28, 56, 112, 224, 448, 896), 928)


def volume() -> RspNet:
    """For 64^3, the first two blocks dilated: 161 million parameters; about 145 million in the thesis."""
    return RspNet(3, (32, 64, 128, 256, 512, 1024), 2048, _RATES)


def centre_patch() -> RspNet:
    """For the central 32^3 patch: five blocks down to 512 channels; 3.5 million parameters in the thesis."""
    return RspNet(3, (16, 32, 48, 64, 96), 512)


def outer_patch() -> RspNet:
    """For the patches around it: the same network, which also sees the phase of the overlap and its mask."""
    return RspNet(3, (16, 32, 48, 64, 96), 512, inputs=3)
