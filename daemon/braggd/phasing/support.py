"""The support: where the object may be; its first guess from the autocorrelation, its updates by shrink-wrap.

Volumes are (z, y, x) with the zero frequency, and the middle of the object, at [0, 0, 0].
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from braggd.phasing import fourier
from braggd.phasing.projections import blur

_FILL = 2.0  # width of the Gaussian that fills masked voxels, voxels
_NEIGHBOURHOOD = 9  # edge of the box whose brightest voxel bounds a free one
_HEADROOM = 2.0  # how far above that a free amplitude may rise
LARGEST_SHARE = 0.3  # of the volume: a larger support constrains nothing


def fill_smoothly(amplitude: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Amplitudes with the masked voxels replaced by a local average of the measured ones, 0 where none is near.

    amplitude: (z, y, x) float32, undefined where not valid; any order of the frequencies
    """
    known = valid.astype(np.float32)
    weight, value = np.empty_like(known), np.empty_like(known)
    blur(known, weight, (_FILL,) * 3)
    blur(np.where(valid, amplitude, 0).astype(np.float32), value, (_FILL,) * 3)
    near = weight > 1e-3
    return np.where(valid, amplitude, np.where(near, value / np.where(near, weight, 1), 0)).astype(np.float32)


def free_bound(filled: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How large the modulus of a free voxel may become: twice the brightest one near, or anywhere if all near is dark.

    filled: amplitudes with the masked voxels filled
    """
    near = ndimage.maximum_filter(filled, _NEIGHBOURHOOD, mode="nearest")
    measured_near = ndimage.maximum_filter(valid.astype(np.uint8), _NEIGHBOURHOOD, mode="nearest") > 0
    bound = np.where(measured_near, np.maximum(near, 1), np.maximum(near, filled.max()))
    return (_HEADROOM * bound).astype(np.float32)


def from_autocorrelation(filled: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Where the autocorrelation of the object is above a share of its maximum.

    filled: amplitudes, masked voxels filled (zeros there would spread the autocorrelation)
    """
    wave = (filled * filled).astype(np.complex64)
    fourier.inverse(wave, wave)
    size = np.abs(wave)
    return _not_above(size, threshold * float(size.max()))


def shrink_wrap(
    modulus: NDArray[np.float32], widths: tuple[float, float, float], threshold: float, before: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """The support where the smoothed modulus is above a share of its maximum; it may grow as well as shrink.

    modulus: float32, of the object after the modulus projection; widths: of the Gaussian, voxels
    before: the present support, kept where the new one would have collapsed to less than a third of it

    Marchesini et al., Phys. Rev. B 68, 140101 (2003), doi:10.1103/PhysRevB.68.140101
    """
    smooth = np.empty_like(modulus)
    blur(modulus, smooth, widths)
    support = _not_above(smooth, threshold * float(smooth.max()))
    return before if 3 * support.sum() < before.sum() else support


def components(support: NDArray[np.bool_]) -> tuple[int, NDArray[np.bool_]]:
    """The number of pieces that touch by faces, edges or corners, and the largest of them; the volume is periodic."""
    centred = _unwrapped(support)
    labels, number = ndimage.label(centred[0], structure=np.ones((3, 3, 3)))
    if number <= 1:
        return number, support
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return number, np.roll(largest, tuple(-s for s in centred[1]), axis=(0, 1, 2))


def middle(weights: NDArray[np.floating] | NDArray[np.bool_]) -> tuple[float, float, float]:
    """The centre of mass of a periodic volume, index per axis.

    The circular mean says which way round; about that, the plain mean.
    """
    found = []
    for axis, size in enumerate(weights.shape):
        profile = weights.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
        at = np.arange(size)
        angle = np.angle(np.sum(profile * np.exp(2j * np.pi * at / size)))
        first = round(float(angle) * size / (2 * np.pi))
        offset = (at - first + size // 2) % size - size // 2
        found.append((first + float(np.sum(profile * offset) / max(float(profile.sum()), 1e-30))) % size)
    return found[0], found[1], found[2]


def _unwrapped(support: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], tuple[int, ...]]:
    """The support rolled so that its middle is the array's, and by how much."""
    shift = tuple(n // 2 - round(m) for n, m in zip(support.shape, middle(support), strict=True))
    return np.roll(support, shift, axis=(0, 1, 2)), shift


def _not_above(size: NDArray[np.float32], level: float) -> NDArray[np.bool_]:
    """Above the level, but never more than LARGEST_SHARE of the volume."""
    support = size > level
    most = int(LARGEST_SHARE * size.size)
    if support.sum() <= most:
        return support
    edge = float(np.partition(size, size.size - most - 1, axis=None)[size.size - most - 1])
    return size > edge
