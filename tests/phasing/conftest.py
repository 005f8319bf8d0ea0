"""Crystals whose truth is known: polyhedra with a smooth phase, and their patterns."""

from types import SimpleNamespace

import numpy as np
import pytest

NORMALS = np.array(
    [
        (1, 0, 0),
        (-1, 0, 0),
        (0, 1, 0),
        (0, -1, 0),
        (0, 0, 1),
        (0, 0, -1),
        (1, 1, 1),
        (-1, 1, 1),
        (1, -1, 1),
        (1, 1, -1),
    ],
    float,
)
NORMALS /= np.linalg.norm(NORMALS, axis=1, keepdims=True)


def faceted(edge, *, radius, phase=1.0, seed=0):
    """A convex, non-centrosymmetric crystal in a cube of that edge, and its support; its middle at edge // 2.

    phase: range of the phase inside, rad
    """
    random = np.random.default_rng(seed)
    distance = radius * random.uniform(0.7, 1.2, len(NORMALS))
    z, y, x = np.meshgrid(*[np.arange(edge) - edge // 2] * 3, indexing="ij")
    at = np.stack([z, y, x], -1)
    support = np.all(at @ NORMALS.T <= distance, axis=-1)
    bump = np.exp(-np.sum((at - random.uniform(-0.4, 0.4, 3) * radius) ** 2, -1) / (2 * (0.6 * radius) ** 2))
    return (support * np.exp(1j * phase * bump)).astype(np.complex64), support


def wave_of(density):
    """Its wave, zero frequency at n // 2."""
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(density)))


def noisy_counts(density, brightest, seed=0):
    """Poisson counts of its pattern, the brightest voxel at that many photons."""
    intensity = np.abs(wave_of(density)) ** 2
    return np.random.default_rng(seed).poisson(intensity * (brightest / intensity.max())).astype(np.float32)


@pytest.fixture
def crystals():
    """Crystals and their patterns: faceted, wave_of, noisy_counts."""
    return SimpleNamespace(faceted=faceted, wave_of=wave_of, noisy_counts=noisy_counts)
