"""Layers that phase networks share."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional


def fold(volume: Tensor, by: int = 2) -> Tensor:
    """Blocks of by^3 voxels become channels: (batch, c, n, n, n) to (batch, c by^3, n/by, n/by, n/by)."""
    b, c, z, y, x = volume.shape
    split = volume.reshape(b, c, z // by, by, y // by, by, x // by, by)
    # the channels last in memory, as convolutions on a CPU like them
    last = split.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, z // by, y // by, x // by, c * by**3)
    return last.permute(0, 4, 1, 2, 3)


def unfold(volume: Tensor, by: int = 2) -> Tensor:
    """What `fold` did, undone."""
    b, c, z, y, x = volume.shape
    split = volume.permute(0, 2, 3, 4, 1).reshape(b, z, y, x, c // by**3, by, by, by)
    last = split.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(b, z * by, y * by, x * by, c // by**3)
    return last.permute(0, 4, 1, 2, 3)


class Residual(nn.Module):
    """Two convolutions beside the identity; the second begins at 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.one = nn.Conv3d(channels, channels, 3, padding=1)
        self.two = nn.Conv3d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.two.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, n, n, n), as it came in."""
        y: Tensor = self.two(active(self.one(active(x))))
        return x + y


class UNet(nn.Module):
    """A U-Net of residual blocks without norms, (batch, inputs, n, n, n) to (batch, outputs, n, n, n).

    widths: channels of the levels, from the finest; n must divide by 2 for each level but the first
    """

    def __init__(self, inputs: int, outputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.Conv3d(inputs, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv3d(a, b, 2, stride=2) for a, b in pairwise(widths))
        self.encode = nn.ModuleList(Residual(width) for width in widths)
        self.up = nn.ModuleList(nn.Conv3d(b, 8 * a, 1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(Residual(width) for width in widths[:-1])
        self.head = nn.Conv3d(widths[0], outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, inputs, n, n, n) to (batch, outputs, n, n, n)."""
        x = self.stem(x)
        kept = []
        for level, encode in enumerate(self.encode):
            x = encode(x if not level else self.down[level - 1](active(x)))
            kept.append(x)
        for level in range(len(self.decode) - 1, -1, -1):
            x = kept[level] + unfold(self.up[level](active(x)))
            x = self.decode[level](x)
        made: Tensor = self.head(active(x))
        return made


def active(x: Tensor) -> Tensor:
    """Leaky, so that no channel dies where there is no norm."""
    return functional.leaky_relu(x, 0.1)
