"""Accuracy of many low-resolution objects at once, while training; `braggd.phasing.align` has the one for results."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(wave: Tensor, truth: Tensor) -> Tensor:
    """Percent, (batch,): the mean of the moduli's correlation and the phases' weighted coherent average.

    wave, truth: (batch, n, n, n) complex64, zero frequency at n // 2. The better twin is taken, and moved by whole
    voxels; half a voxel of shift remains, which costs a point or two.

    Masto, PhD thesis, Univ. Grenoble Alpes, eq. 4.5
    """
    true = _object(truth)
    straight, twin = (_compared(_object(one), true) for one in (wave, wave.conj()))
    return torch.maximum(straight, twin)


def _object(wave: Tensor) -> Tensor:
    density: Tensor = torch.fft.ifftn(torch.fft.ifftshift(wave, (1, 2, 3)), dim=(1, 2, 3))
    return density


def _compared(density: Tensor, truth: Tensor) -> Tensor:
    product = torch.fft.fftn(truth, dim=(1, 2, 3)) * torch.fft.fftn(density, dim=(1, 2, 3)).conj()
    top = torch.fft.ifftn(product, dim=(1, 2, 3)).abs().flatten(1).argmax(1)
    edge = truth.shape[-1]
    at = torch.arange(edge, device=truth.device)
    for axis in range(3):
        shift = top // edge ** (2 - axis) % edge
        shape = [len(truth), 1, 1, 1]
        shape[axis + 1] = edge
        index = ((at[None] - shift[:, None]) % edge).reshape(shape)
        density = torch.take_along_dim(density, index.expand_as(density), axis + 1)
    modulus, true = density.abs(), truth.abs()
    turned = density * truth.conj() / (modulus * true).clamp_min(1e-20)
    coherent = (modulus * turned).sum((1, 2, 3)).abs() / modulus.sum((1, 2, 3)).clamp_min(1e-20)
    a, b = (volume - volume.mean((1, 2, 3), keepdim=True) for volume in (modulus, true))
    norm = (a.square().sum((1, 2, 3)) * b.square().sum((1, 2, 3))).sqrt().clamp_min(1e-20)
    return 50 * (coherent + (a * b).sum((1, 2, 3)) / norm)
