"""Losses of networks that predict the phase.

Shapes: volumes are (batch, ...) with any number of axes after the batch; phases are in rad, float32.

Equations after Masto, PhD thesis, Univ. Grenoble Alpes, chapter 4; the sign ambiguity after Zhang et al.,
arXiv:2203.14962.
"""

from __future__ import annotations

import torch
from torch import Tensor

from braggd_models.phasing import fourier


def coherent(weights: Tensor, phasor: Tensor, truth: Tensor) -> Tensor:
    """|sum_k w_k exp(i (truth - phase))|, (batch,) from 0 to 1, with the weights brought to a sum of 1.

    weights: (batch, ...) float32, magnitudes; phasor: complex64 of modulus 1, exp(i phase); truth: complex64, likewise
    """
    total = weights.flatten(1).sum(1).clamp_min(1e-12)
    return (weights * truth * phasor.conj()).flatten(1).sum(1).abs() / total


def wca(phase: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Weighted coherent average of the better sign of the true phase, (batch,): eqs. 4.3 and 4.4."""
    return torch.minimum(wca_one_sign(phase, truth, weights), wca_one_sign(phase, -truth, weights))


def wca_one_sign(phase: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Weighted coherent average, (batch,): eq. 4.3, for where the sign is known."""
    return 1 - coherent(weights, _turned(phase), _turned(truth))


def phasor_wca(phasor: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """`wca` of exp(i phase), (batch,), complex64: no phase has to be unwrapped or be taken from an angle."""
    return 1 - torch.maximum(coherent(weights, phasor, truth), coherent(weights, phasor, truth.conj()))


def real_space_mse(phase: Tensor, wave: Tensor) -> Tensor:
    """Mean squared error of the object, (batch,): eq. 4.2; the better of the truth and its twin is not looked for.

    phase: (batch, n, n, n) rad, reciprocal-space phase; wave: complex64, the true wave, whose modulus is taken as known
    """
    edge = wave.shape[-1]
    error = fourier.inverse(torch.polar(wave.abs(), phase) - wave, edge)
    return error.abs().square().flatten(1).mean(1)


def object_loss(density: Tensor, truth: Tensor) -> Tensor:
    """1 - accuracy (eq. 4.5) of an object against the better of the truth and its twin, (batch,), from 0 to 1.

    density, truth: (batch, n, n, n) complex64; the middle of an odd or even array is n // 2, and the twin is inverted
    through it. Both must be in place: no shift is looked for.
    """
    return torch.minimum(_off(density, truth), _off(density, twin(truth)))


def twin(density: Tensor) -> Tensor:
    """Conjugated, and inverted through the voxel n // 2 of the last three axes."""
    axes = (-3, -2, -1)
    flipped = density.flip(axes).conj()
    return flipped if density.shape[-1] % 2 else flipped.roll((1, 1, 1), axes)


def _off(density: Tensor, truth: Tensor) -> Tensor:
    modulus = (density.real.square() + density.imag.square() + 1e-8).sqrt()
    true = truth.abs()
    agree = (density * unit(truth).conj()).sum((1, 2, 3)).abs() / modulus.sum((1, 2, 3))
    a, b = (volume - volume.mean((1, 2, 3), keepdim=True) for volume in (modulus, true))
    norm = (a.square().sum((1, 2, 3)) * b.square().sum((1, 2, 3))).sqrt().clamp_min(1e-12)
    return 1 - 0.5 * (agree + (a * b).sum((1, 2, 3)) / norm)


def unit(field: Tensor) -> Tensor:
    """A complex field brought to modulus 1, also where it is nearly 0."""
    return field / (field.real.square() + field.imag.square() + 1e-12).sqrt()


def _turned(phase: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(phase), phase)
