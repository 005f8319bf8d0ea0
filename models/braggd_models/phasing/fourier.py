"""Small discrete Fourier transforms as matrix products: batched, differentiable, of parts of a grid.

The zero frequency and the object's middle lie at n // 2. `forward` sums over the voxels, `inverse` carries 1/N.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def matrix(frequencies: Tensor, places: Tensor, edge: float) -> Tensor:
    """exp(-2 pi i k x / edge), (..., k, x) complex64, of (..., k) frequencies and (..., x) places, voxels."""
    angle = -2 * math.pi / edge * frequencies[..., :, None] * places[..., None, :]
    return torch.polar(torch.ones_like(angle), angle)


def centred(count: int, device: torch.device | None = None) -> Tensor:
    """The places of `count` voxels with 0 at count // 2, float32."""
    return torch.arange(count, dtype=torch.float32, device=device) - count // 2


def separable(volume: Tensor, z: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Apply a matrix along each of the last three axes.

    volume: (..., a, b, c); z, y, x: (..., p, a), (..., q, b), (..., r, c), of the volume's dtype
    Returns (..., p, q, r).
    """
    a, b = volume.shape[-3:-1]
    lead = volume.shape[:-3]
    p, q, r = z.shape[-2], y.shape[-2], x.shape[-2]
    made = torch.matmul(volume.reshape(*lead, a * b, -1), x.transpose(-1, -2)).reshape(*lead, a, b, r)
    made = torch.matmul(y.unsqueeze(-3), made)
    return torch.matmul(z, made.reshape(*lead, a, q * r)).reshape(*lead, p, q, r)


def forward(density: Tensor, edge: int) -> Tensor:
    """The wave, (..., edge, edge, edge), of a density in a box about the middle, complex64 both."""
    lines = [matrix(centred(edge, density.device), centred(size, density.device), edge) for size in density.shape[-3:]]
    return separable(density, *lines)


def inverse(wave: Tensor, box: int) -> Tensor:
    """The density, (..., box, box, box), about the middle of the array whose FFT the wave is; complex64 both."""
    edge = wave.shape[-1]
    line = matrix(centred(box, wave.device), -centred(edge, wave.device), edge) / edge
    return separable(wave, line, line, line)
