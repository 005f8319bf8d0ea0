"""The trivial symmetries of phase retrieval: two objects brought onto each other, and one brought into a fixed pose.

A shift, a global phase, a phase ramp (a shift of the pattern) and the twin (the conjugate, inverted object) leave a
diffraction pattern as it is, or only move it. Objects are (z, y, x) complex64 with their middle near the array's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from braggd.phasing.support import middle


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Aligned:
    """An object laid over a reference.

    density: complex64, the aligned object
    correlation: Pearson correlation of both moduli over the whole volume
    twin: True where the object was conjugated and inverted
    """

    density: NDArray[np.complex64]
    correlation: float
    twin: bool


def twin_of(density: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """The twin: conjugated, and inverted through the voxel n // 2 of each axis."""
    even = tuple(axis for axis, size in enumerate(density.shape) if size % 2 == 0)
    inverted = np.roll(density[::-1, ::-1, ::-1], (1,) * len(even), axis=even)
    return np.conj(inverted).astype(np.complex64)


def align(reference: NDArray[np.complex64], other: NDArray[np.complex64]) -> Aligned:
    """Lay `other` over `reference`: the better twin, shifted by fractions of a voxel, ramp and phase removed.

    Where `other` was empty it stays so: between the voxels, what is cut off sharply would ring through the volume.
    """
    # Moduli alone do not tell the twins of a nearly centrosymmetric crystal apart: the whole object has to agree.
    straight, twin = (_laid_over(reference, candidate) for candidate in (other, twin_of(other)))
    swapped = _overlap(reference, twin) > _overlap(reference, straight)
    density = twin if swapped else straight
    return Aligned(density=density, correlation=correlation(reference, density), twin=swapped)


def correlation(one: NDArray[np.complex64], other: NDArray[np.complex64]) -> float:
    """Pearson correlation of the moduli, over the whole volume."""
    a, b = (np.abs(x).astype(np.float64) for x in (one, other))
    a, b = a - a.mean(), b - b.mean()
    norm = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
    return float(np.sum(a * b)) / norm if norm > 0 else 0.0


def accuracy(predicted: NDArray[np.complex64], truth: NDArray[np.complex64]) -> float:
    """How well an aligned object agrees with the truth, percent: mean of the moduli's PCC and the phases' WCA.

    Masto, PhD thesis, Univ. Grenoble Alpes, eq. 4.5; WCA weighted by the predicted modulus
    """
    weights = np.abs(predicted).astype(np.float64)
    difference = np.angle(predicted) - np.angle(truth)
    coherent = abs(np.sum(weights * np.exp(1j * difference))) / max(float(weights.sum()), 1e-30)
    return 50 * (correlation(predicted, truth) + float(coherent))


def posed(
    density: NDArray[np.complex64], support: NDArray[np.bool_]
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """The object and its support in a pose that does not depend on where the retrieval began.

    Its middle is put onto the array's by whole voxels, its mean phase to 0, and of the two twins always the same
    one is taken. A phase ramp stays: its Fourier transform has to remain the measured wave.
    """
    inside = np.abs(density) * support
    shift = tuple(n // 2 - round(m) for n, m in zip(density.shape, middle(inside), strict=True))
    density, support = np.roll(density, shift, axis=(0, 1, 2)), np.roll(support, shift, axis=(0, 1, 2))
    if _handedness(density * support) < 0:
        density, support = twin_of(density), np.real(twin_of(support.astype(np.complex64))) > 0.5
    density = density * np.exp(-1j * np.angle(np.sum(density[support], dtype=np.complex128)))
    return density.astype(np.complex64), support


def _handedness(density: NDArray[np.complex64]) -> float:
    """A number that changes its sign with the twin.

    The third moments of the modulus do (inversion), and so does any even moment of the phase (conjugation). Each
    alone is near zero for some crystals: a nearly centrosymmetric one, or one without strain.
    """
    modulus = np.abs(density).astype(np.float64)
    total = max(float(modulus.sum()), 1e-30)
    scaled = []
    for axis, size in enumerate(modulus.shape):
        profile = modulus.sum(axis=tuple(a for a in range(3) if a != axis))
        at = np.arange(size, dtype=np.float64)
        mean = np.sum(profile * at) / total
        width = np.sqrt(np.sum(profile * (at - mean) ** 2) / total)
        scaled.append((at - mean) / max(float(width), 1e-6))
    z, y, x = np.meshgrid(*scaled, indexing="ij", sparse=True)
    skewness = float(np.sum(modulus * (z + y + x) ** 3) / total)
    phase = np.angle(density * np.exp(-1j * np.angle(np.sum(density, dtype=np.complex128))))
    weights = modulus**2
    bending = float(np.sum(weights * phase * (2 * z**2 - y**2 - x**2)) / max(float(weights.sum()), 1e-30))
    return bending + skewness


def _laid_over(reference: NDArray[np.complex64], other: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Shifted, without the ramp (which is a shift of the Fourier transform) and without the phase between both."""
    density = _without_ramp(reference, _shifted_onto(reference, other))
    return np.asarray(density * np.exp(-1j * np.angle(np.vdot(reference, density))), np.complex64)


def _overlap(one: NDArray[np.complex64], other: NDArray[np.complex64]) -> float:
    return float(abs(np.vdot(one, other)))


def _shifted_onto(reference: NDArray[np.complex64], other: NDArray[np.complex64]) -> NDArray[np.complex64]:
    one, two = (scipy.fft.fftn(np.abs(x).astype(np.float32)) for x in (reference, other))
    shift = _peak(np.real(scipy.fft.ifftn(one * np.conj(two))))
    return _moved(other, shift)


def _without_ramp(reference: NDArray[np.complex64], other: NDArray[np.complex64]) -> NDArray[np.complex64]:
    slope = _peak(np.abs(scipy.fft.fftn(reference * np.conj(other))))
    ramp = np.ones((1, 1, 1), np.complex64)
    for axis, (size, s) in enumerate(zip(other.shape, slope, strict=True)):
        factor = np.exp(2j * np.pi * s * np.arange(size) / size).astype(np.complex64)
        ramp = ramp * np.expand_dims(factor, tuple(a for a in range(3) if a != axis))
    return other * ramp


def _peak(volume: NDArray[np.floating]) -> tuple[float, float, float]:
    """Where a periodic volume is largest, by a parabola through its neighbours per axis; from -n/2 to n/2."""
    top = np.unravel_index(int(np.argmax(volume)), volume.shape)
    found = []
    for axis, size in enumerate(volume.shape):
        index = list(top)
        values = []
        for step in (-1, 0, 1):
            index[axis] = (top[axis] + step) % size
            values.append(float(volume[tuple(index)]))
        bend = values[0] - 2 * values[1] + values[2]
        place = int(top[axis]) + (0.5 * (values[0] - values[2]) / bend if bend < 0 else 0.0)
        found.append(place - size if place > size / 2 else place)
    return found[0], found[1], found[2]


def _moved(density: NDArray[np.complex64], shift: tuple[float, float, float]) -> NDArray[np.complex64]:
    wave = scipy.fft.fftn(density)
    for axis, (size, s) in enumerate(zip(density.shape, shift, strict=True)):
        factor = np.exp(-2j * np.pi * s * scipy.fft.fftfreq(size)).astype(np.complex64)
        wave *= np.expand_dims(factor, tuple(a for a in range(3) if a != axis))
    moved = np.asarray(scipy.fft.ifftn(wave), np.complex64)
    there = density != 0
    return moved if there.all() else np.where(_shifted_share(there, shift) >= 0.5, moved, np.complex64(0))


def _shifted_share(there: NDArray[np.bool_], shift: tuple[float, float, float]) -> NDArray[np.float32]:
    """How much of each voxel is covered by shifted ones, linearly."""
    share = there.astype(np.float32)
    for axis, s in enumerate(shift):
        whole = int(np.floor(s))
        share = (1 - (s - whole)) * np.roll(share, whole, axis) + (s - whole) * np.roll(share, whole + 1, axis)
    return share
