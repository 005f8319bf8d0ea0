"""The networks and the loss of the thesis, to be compared with.

M. Masto, PhD thesis, Univ. Grenoble Alpes: Table 3.1 for the 2D networks, Fig. 3.10 for the 3D patch network. They see
log(1 + counts) scaled to 0..1, with the gap at zero and no mask, and give the whole image on the same scale. Table 3.1
prints kernels of 5 and 3 in the last layers; with 3 (MSD-Net: 1) the numbers of parameters are exactly as it states.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = nn.Module

ALL = ("",)
"""For a network's `plain`: AdamW has every parameter, since the thesis trained with Adam, and to make the matrices of
30 million parameters orthogonal takes ten times as long as a step."""


def _conv(dimensions: int, inputs: int, outputs: int, kernel: int = 3, dilation: int = 1) -> Layer:
    kind = nn.Conv2d if dimensions == 2 else nn.Conv3d
    return kind(inputs, outputs, kernel, padding="same", dilation=dilation)


def _bent(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


class Up(nn.Module):
    """A transposed convolution that doubles every side."""

    def __init__(self, dimensions: int, inputs: int, outputs: int, kernel: int = 3) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if dimensions == 2 else nn.ConvTranspose3d
        self.conv = kind(inputs, outputs, kernel, stride=2, padding=1, output_padding=1 if kernel == 3 else 0)

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, ...) to (n, outputs, twice ...)."""
        return _bent(self.conv(x))


class Plain(nn.Module):
    """An encoder block of one convolution."""

    def __init__(self, dimensions: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _conv(dimensions, inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """What is pooled and skipped on."""
        return _bent(self.conv(x))


class Dilated(nn.Module):
    """An encoder block that joins its input with convolutions of it at several dilations."""

    def __init__(self, dimensions: int, inputs: int, filters: int, rates: Sequence[int]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_conv(dimensions, inputs, filters // 4, dilation=rate) for rate in rates)

    def forward(self, x: Tensor) -> Tensor:
        """What is pooled and skipped on."""
        return torch.cat([x, *(_bent(conv(x)) for conv in self.convs)], dim=1)


class Encoder(nn.Module):
    """A U-Net: encoder blocks with pooling, a middle, decoder blocks with skips, and convolutions at the end.

    skip_first: the first block's output joins again before the last convolutions
    """

    plain = ALL

    def __init__(
        self,
        dimensions: int,
        blocks: Sequence[tuple[Layer, int]],
        middle: int,
        ups: Sequence[int],
        tail: Sequence[int],
        *,
        last_up: int = 3,
        skip_first: bool = False,
    ) -> None:
        super().__init__()
        self.dimensions, self.skip_first = dimensions, skip_first
        self.encoder = nn.ModuleList(block for block, _ in blocks)
        sizes = [size for _, size in blocks]
        self.middle = _conv(dimensions, sizes[-1], middle) if middle else None
        deep = middle or sizes[-1]
        decoders, channels = [], deep
        for number, outputs in enumerate(ups):
            kernel = last_up if number == len(ups) - 1 else 3
            decoders.append(Up(dimensions, channels, outputs, kernel))
            channels = outputs + sizes[-1 - number]
        self.decoder = nn.ModuleList(decoders)
        channels = ups[-1] + (sizes[0] if skip_first else 0)
        tails = []
        for outputs in (*tail, 1):
            tails.append(_conv(dimensions, channels, outputs))
            channels = outputs
        self.tail = nn.ModuleList(tails)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, ...) in 0..1 to the same; sides are multiples of 2 to the number of blocks."""
        pool = functional.max_pool2d if self.dimensions == 2 else functional.max_pool3d
        skips = []
        for block in self.encoder:
            x = block(x)
            skips.append(x)
            x = pool(x, 2)
        if self.middle is not None:
            x = _bent(self.middle(x))
        for number, up in enumerate(self.decoder):
            if number:
                x = torch.cat([x, skips[-number]], dim=1)
            x = up(x)
        if self.skip_first:
            x = torch.cat([x, skips[0]], dim=1)
        for conv in self.tail[:-1]:
            x = _bent(conv(x))
        return torch.sigmoid(self.tail[-1](x))


def unet() -> Encoder:
    """The 2D U-Net, 31 827 673 parameters."""
    sizes = (48, 96, 192, 384, 768)
    blocks = [(Plain(2, inputs, size), size) for inputs, size in zip((1, *sizes), sizes, strict=False)]
    return Encoder(2, blocks, 1536, (768, 384, 192, 96, 48), (24, 12, 6))


def modified_unet() -> Encoder:
    """The 2D U-Net whose first three blocks join dilated convolutions, 32 652 337 parameters in the thesis."""
    rates = ((16, 8, 4, 2), (10, 5, 3, 1), (5, 3, 2, 1))
    blocks: list[tuple[Layer, int]] = []
    channels = 1
    for filters, rate in zip((48, 96, 192), rates, strict=True):
        blocks.append((Dilated(2, channels, filters, rate), channels + filters))
        channels += filters
    blocks += [(Plain(2, channels, 384), 384), (Plain(2, 384, 768), 768)]
    return Encoder(2, blocks, 1536, (768, 384, 192, 96, 48), (24, 12, 6), last_up=4, skip_first=True)


class MSDNet(nn.Module):
    """The mixed-scale dense network: dilations 1 .. 32, every layer sees all before it; 322 458 parameters."""

    plain = ALL

    def __init__(self, blocks: int = 16) -> None:
        super().__init__()
        convs, channels, counted = [], 1, 1
        for block in range(blocks):
            counted += 2
            for dilation in (2 * block + 1, 2 * block + 2):
                convs.append(_conv(2, channels, counted // 2, dilation=dilation))
                channels += counted // 2
        self.convs = nn.ModuleList(convs)
        self.last = _conv(2, channels, 1, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        """(n, 1, row, column) in 0..1 to the same."""
        for conv in self.convs:
            x = torch.cat([_bent(conv(x)), x], dim=1)
        return torch.sigmoid(self.last(x))


def count(net: nn.Module) -> int:
    """Parameters of a network."""
    return sum(parameter.numel() for parameter in net.parameters())


def patch_net() -> Encoder:
    """The 3D network for patches of 32^3: four blocks down to 2^3 of 478 channels, 2.77 million parameters.

    The thesis states the sum, the deepest layer and the last ones; the sizes between are ours.
    """
    blocks: list[tuple[Layer, int]] = [
        (Dilated(3, 1, 32, (4, 3, 2, 1)), 33),
        (Dilated(3, 33, 64, (4, 3, 2, 1)), 97),
        (Plain(3, 97, 80), 80),
        (Plain(3, 80, 478), 478),
    ]
    return Encoder(3, blocks, 0, (64, 32, 24, 24), (24, 12, 6))


def thesis_loss(painted: Tensor, truth: Tensor, gap: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """MSE + (1 - SSIM) + MSE of the gradients, each over the gap only (section 3.3.2).

    painted, truth: (n, 1, ...) in 0..1; gap: the same shape, 1 where not measured
    """
    inside = gap.sum().clamp(min=1)
    terms = {
        "mse": (gap * (painted - truth) ** 2).sum() / inside,
        "ssim": (gap * (1 - ssim(painted, truth))).sum() / inside,
        "gradient": torch.zeros((), device=painted.device),
    }
    for axis in range(2, painted.ndim):
        size = painted.shape[axis] - 1
        off = painted - truth
        step = off.narrow(axis, 1, size) - off.narrow(axis, 0, size)
        weight = gap.narrow(axis, 1, size)
        terms["gradient"] = terms["gradient"] + (weight * step**2).sum() / weight.sum().clamp(min=1)
    return torch.stack(list(terms.values())).sum(), terms


def ssim(a: Tensor, b: Tensor, window: int = 7) -> Tensor:
    """Structural similarity of images in 0..1, voxel by voxel, with a flat window.

    Z. Wang et al., IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861
    """
    pool = functional.avg_pool2d if a.ndim == 4 else functional.avg_pool3d

    def mean(x: Tensor) -> Tensor:
        return pool(x, window, stride=1, padding=window // 2, count_include_pad=False)

    mean_a, mean_b = mean(a), mean(b)
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    both = mean(a * b) - mean_a * mean_b
    steady, steadier = 0.01**2, 0.03**2
    likeness = (2 * mean_a * mean_b + steady) * (2 * both + steadier)
    return likeness / ((mean_a**2 + mean_b**2 + steady) * (var_a + var_b + steadier))
