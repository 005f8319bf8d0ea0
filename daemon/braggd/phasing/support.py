"""The support: where the object may be; its first guess from the autocorrelation, its updates by shrink-wrap.

Volumes are (z, y, x) with the zero frequency, and the middle of the object, at [0, 0, 0]. `shrink_wrap`, `solid` and
`half` work where their arrays are, all else in main memory.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from braggd.phasing import fourier
from braggd.phasing.arrays import beside, namespace, to_host
from braggd.phasing.projections import blur

_FILL, _WIDEST_FILL = 2.0, 16.0  # width of the Gaussian that fills masked voxels, and at most, where none is near
_NEIGHBOURHOOD = 9  # edge of the box in which something has to be measured for a voxel to be known from it
_HEADROOM = 3.0  # how far above the local root mean square a free amplitude may rise
_PEAK_HEADROOM = 3.0  # so many times more where it is brightest: a gap may hide the peak itself
_DARKEST = 0.75  # amplitude that any free voxel may have
LARGEST_SHARE = 0.3  # of the volume: a larger support constrains nothing
_FAINTEST = 0.002  # of the autocorrelation's maximum: below are the tails of a partially coherent pattern
_SIGMAS = 5.0  # of the photons' noise in the autocorrelation, which is the root of their number
_SHRINK = 0.65  # of the autocorrelation's extents: half would just hold a centrosymmetric object
_VOXELS_PER_VOXEL = 7.5  # of the autocorrelation above its noise, per voxel of the object
_SPECK, _SPECK_LEVELS = 0.01, (0.1, 0.2, 0.3)  # of the largest piece's voxels; of the modulus' maximum
_DENSE = 0.35  # of the typical modulus: a crystal's surface is at half of it
# Of the smoothed modulus' root mean square within the support: voxels at the surface are only part crystal.
_SOLID = 1.0
_SOLID_BLUR = 1.5  # width of the Gaussian that smoothes it, voxels


def fill_smoothly(amplitude: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Amplitudes with the masked voxels replaced by a local average of the measured ones, 0 where none is near.

    amplitude: (z, y, x) float32, undefined where not valid; any order of the frequencies
    """
    known, measured = valid.astype(np.float32), np.where(valid, amplitude, 0).astype(np.float32)
    weight, value = np.empty_like(known), np.empty_like(known)
    filled, missing, width = measured.copy(), ~valid, _FILL
    while missing.any() and width <= _WIDEST_FILL:
        blur(known, weight, (width,) * 3)
        blur(measured, value, (width,) * 3)
        near = missing & (weight > 1e-3)
        filled[near] = value[near] / weight[near]
        missing &= ~near
        width *= 2
    return filled


def free_bound(
    filled: NDArray[np.float32], local: NDArray[np.float32], valid: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """How large the modulus of a free voxel may become.

    filled: amplitudes with the masked voxels filled; local: their `local_level`
    Thrice the root mean square near it, twelve times at the brightest place, and what the whole pattern allows where
    nothing near was measured. Of the true intensity in gaps of 6 and 12 voxels beside the peak, measured and simulated,
    that cuts off 1 % at most, and a few percent where 6 voxels hide the peak. A looser bound (twice the brightest voxel
    near) let gaps of 12 voxels fill with light that no crystal gives.
    """
    highest = max(float(local.max()), 1e-30)
    bound = np.maximum(_HEADROOM * local * (1 + _PEAK_HEADROOM * local / highest), _DARKEST)
    return np.where(measured_near(valid), bound, np.maximum(bound, _HEADROOM * filled.max())).astype(np.float32)


def measured_near(valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where something was measured in the box of 9 voxels about a voxel."""
    return np.asarray(ndimage.maximum_filter(valid.astype(np.uint8), _NEIGHBOURHOOD, mode="nearest") > 0, np.bool_)


def local_level(amplitude: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean square of amplitudes, (z, y, x), near each voxel."""
    local = np.empty_like(amplitude)
    blur(amplitude * amplitude, local, (_FILL,) * 3)
    return np.asarray(np.sqrt(np.maximum(local, 0, out=local), out=local), np.float32)


def first_support(filled: NDArray[np.float32]) -> tuple[NDArray[np.bool_], float]:
    """Where the object may be to begin with, and about how many voxels it fills.

    filled: amplitudes, masked voxels filled (zeros there would spread the autocorrelation)
    Returns (support, voxels): a generous support about [0, 0, 0], and the number of voxels, within some 20 % for
    compact crystals; more where other crystals and background spread the autocorrelation.

    The autocorrelation of a compact object, down to its noise, has twice the object's extents and, for polyhedra, 7 to
    9 times its voxels. A threshold of some percent, as is usual, sees less the more the crystal is strained: its phases
    cancel in the autocorrelation's far parts.
    """
    wave = (filled * filled).astype(np.complex64)
    fourier.inverse(wave, wave)
    size = fourier.centre(np.abs(wave))
    photons = float(np.sum(np.square(filled, dtype=np.float64)))
    level = max(_FAINTEST, _SIGMAS / max(photons, 1.0) ** 0.5) * float(size.max())
    labels, _ = ndimage.label(size > level, structure=np.ones((3, 3, 3)))
    core = labels == labels[tuple(n // 2 for n in size.shape)]
    centre = np.array([n // 2 for n in size.shape])
    shrunk = ndimage.affine_transform(
        core.astype(np.float32), np.full(3, 1 / _SHRINK), centre * (1 - 1 / _SHRINK), order=1
    )
    return fourier.corner(shrunk > 0.5), max(float(core.sum()) / _VOXELS_PER_VOXEL, 1.0)


def shrink_wrap(
    modulus: NDArray[np.float32],
    widths: tuple[float, float, float],
    threshold: float,
    before: NDArray[np.bool_],
    *,
    relative: str = "rms",
    most: float = np.inf,
    border: int = 0,
) -> NDArray[np.bool_]:
    """The support where the smoothed modulus is above a level; it may grow as well as shrink.

    modulus: float32, of the object after the modulus projection, overwritten; widths: of the Gaussian, voxels
    threshold: level, as a share of the smoothed modulus' root mean square within the present support ("rms") or of its
        maximum ("max"); of the root mean square where the object is (see `typical`), as empty voxels in a support that
        is too large would otherwise lower it, and let it grow further
    before: the present support; kept where nothing is above the level
    most: voxels that the support may have; never more than LARGEST_SHARE of the volume
    border: only voxels that near to the border of the present support may change; 0: all

    Marchesini et al., Phys. Rev. B 68, 140101 (2003), doi:10.1103/PhysRevB.68.140101; relative to the root mean square
    as in Favre-Nicolin, Leake & Chushkin, Sci. Rep. 10, 2664 (2020), doi:10.1038/s41598-020-57561-2
    """
    smooth = namespace(modulus).empty_like(modulus)
    blur(modulus, smooth, widths)
    reference = typical(smooth[before]) if relative == "rms" else float(smooth.max())
    support = _not_above(smooth, threshold * reference, int(min(most, LARGEST_SHARE * smooth.size)), modulus)
    if border:
        support = namespace(support).where(_near_border(before, border), support, before)
    return support if support.any() else before


def solid(modulus: NDArray[np.float32], support: NDArray[np.bool_]) -> tuple[NDArray[np.int64], float]:
    """Where the object is solid rather than its blurred border or nothing, and how dense it is there.

    modulus: float32, of the object after the modulus projection
    Returns flat indices of the support's voxels whose smoothed modulus is at least its root mean square within the
    support, and the root mean square of the modulus there (0 where there are none).
    """
    smooth = namespace(modulus).empty_like(modulus)
    blur(modulus, smooth, (_SOLID_BLUR,) * 3)
    places = (support & (smooth >= _SOLID * _root_mean_square(smooth[support]))).reshape(-1).nonzero()[0]
    return places, _root_mean_square(modulus.reshape(-1)[places])


def typical(modulus: NDArray[np.float32]) -> float:
    """Root mean square of moduli, those below half of it left out: the density of an object about as dense everywhere.

    So neither a few bright voxels nor many empty ones change it much.
    """
    return _root_mean_square(modulus[modulus > 0.5 * _root_mean_square(modulus)])


def dense(density: NDArray[np.complex64], support: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The part of the support where there is matter; holes in it, as at a dislocation's core, belong to it.

    density: (z, y, x) complex64, its middle about n // 2
    A support reaches beyond the crystal by a faint shell, lest what is strained most be cut off; a phase says nothing
    there. All of the support where the object is empty.
    """
    modulus = np.where(support, np.abs(density), 0)
    inside = support & (modulus >= _DENSE * typical(modulus[support])) & (modulus > 0)
    return np.asarray(ndimage.binary_fill_holes(inside) & support, np.bool_) if inside.any() else support


def components(support: NDArray[np.bool_]) -> tuple[int, NDArray[np.bool_]]:
    """The number of pieces that touch by faces, edges or corners, and the largest of them; the volume is periodic."""
    centred = _unwrapped(support)
    labels, number = ndimage.label(centred[0], structure=np.ones((3, 3, 3)))
    if number <= 1:
        return number, support
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return number, np.roll(largest, tuple(-s for s in centred[1]), axis=(0, 1, 2))


def specks(modulus: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Small bright spots apart from the crystal, as noise leaves them in a support's faint shell.

    modulus: (z, y, x), periodic
    At each of some levels, the pieces that have less than a hundredth of the largest one's voxels.
    """
    found = np.zeros(modulus.shape, np.bool_)
    centred, shift = _unwrapped(modulus > 0)
    moved = np.roll(modulus, shift, axis=(0, 1, 2)) * centred
    for level in _SPECK_LEVELS:
        labels, number = ndimage.label(moved > level * moved.max())
        if number > 1:
            sizes = np.bincount(labels.ravel())
            small = sizes < _SPECK * sizes[1:].max()
            small[0] = False
            found |= small[labels]
    return np.roll(found, tuple(-s for s in shift), axis=(0, 1, 2))


def half(support: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The half of the support before its middle along the first axis; the volume is periodic."""
    size = support.shape[0]
    offset = (np.arange(size) - round(middle(to_host(support))[0]) + size // 2) % size - size // 2
    before: NDArray[np.bool_] = support & beside(offset < 0, support)[:, None, None]
    return before


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


def _root_mean_square(values: NDArray[np.float32]) -> float:
    return math.sqrt(float(namespace(values).dot(values, values)) / max(1, values.size))


def _not_above(size: NDArray[np.float32], level: float, most: int, spare: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Above the level, but never more than that many voxels; `spare` is overwritten."""
    xp, support = namespace(size), size > level
    if xp.count_nonzero(support) <= most:
        return support
    xp.copyto(spare, size)
    ordered = spare.reshape(-1)
    ordered.partition(size.size - most - 1)
    fewer: NDArray[np.bool_] = xp.greater(size, float(ordered[size.size - most - 1]), out=support)
    return fewer


def _near_border(support: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    """Within that many voxels, counted along the axes, of where the support begins; the volume is periodic."""
    return _dilated(support, steps) & _dilated(~support, steps)


def _dilated(mask: NDArray[np.bool_], steps: int) -> NDArray[np.bool_]:
    xp, grown = namespace(mask), mask
    for _ in range(steps):
        rolled = [xp.roll(grown, step, axis) for axis in range(3) for step in (-1, 1)]
        for other in rolled:
            grown = grown | other
    return grown
