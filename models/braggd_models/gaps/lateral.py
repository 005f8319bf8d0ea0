"""Wide context in a gap's plane: a small U-Net on what is known of every line.

Fringes and streaks cross a gap at a slant, so what lies in it is to be seen ten and more lines away, and where they
meet is the peak. Three levels of halved resolution see that far at little cost. There is no normalisation, and nothing
but position modulo STRIDE depends on where a plane begins.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 8
"""A plane's sides must be multiples of it."""

AROUND = 48
"""What lies farther away in a gap's plane has no influence on a line."""


class Lateral(nn.Module):
    """What is to be added to the state of every line.

    channels: of the state; widths: channels at a half, a quarter and an eighth of the resolution
    conditions: channels of what opens and closes its channels
    An untrained one adds nothing.
    """

    def __init__(self, channels: int, conditions: int, widths: tuple[int, int, int]) -> None:
        super().__init__()
        steps = (channels, *widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(steps))
        self.before = nn.ModuleList(Residual(width, conditions) for width in widths)
        self.after = nn.ModuleList(Residual(width, conditions) for width in widths[:-1])
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in itertools.pairwise(steps))
        for parameter in self.up[0].parameters():
            nn.init.zeros_(parameter)

    def forward(self, state: Tensor, conditions: Tensor) -> Tensor:
        """(n, channels, u, v), u and v multiples of STRIDE; conditions: (n, conditions)."""
        found, x = [], state
        for down, block in zip(self.down, self.before, strict=True):
            x = block(down(functional.leaky_relu(x, 0.1)), conditions)
            found.append(x)
        for level in (2, 1):
            x = found[level - 1] + functional.pixel_shuffle(self.up[level](functional.leaky_relu(x, 0.1)), 2)
            x = self.after[level - 1](x, conditions)
        return functional.pixel_shuffle(self.up[0](functional.leaky_relu(x, 0.1)), 2)


class Residual(nn.Module):
    """Two convolutions whose sum with what came in goes on; conditions shift and scale what is between them."""

    def __init__(self, channels: int, conditions: int) -> None:
        super().__init__()
        self.inner = nn.Conv2d(channels, channels, 3, padding=1)
        self.outer = nn.Conv2d(channels, channels, 3, padding=1)
        self.opened = nn.Linear(conditions, 2 * channels)
        for parameter in (*self.outer.parameters(), *self.opened.parameters()):
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor, conditions: Tensor) -> Tensor:
        """(n, channels, u, v) both; conditions: (n, conditions)."""
        inner = self.inner(functional.leaky_relu(x, 0.1))
        scale, shift = self.opened(conditions).to(inner.dtype)[:, :, None, None].chunk(2, dim=1)
        return torch.as_tensor(x + self.outer(functional.leaky_relu(inner * (1 + scale) + shift, 0.1)))
