"""From the phased object to the crystal in the laboratory frame: shape, displacement and strain.

Sign: with q = k_out - k_in the wave scattered by atoms at R + u is the sum over exp(-i q·(R + u)), which is numpy's
FFT of |rho| exp(-i q·u). The displacement along q is therefore -phase / |q|, and a positive strain means planes
further apart than on average. Intensities alone cannot tell an object from its twin, the conjugate inverted through
a point: both have the same strain at opposite places.

Robinson & Harder, Nature Mater. 8, 291 (2009), doi:10.1038/nmat2400
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.restoration import unwrap_phase

from braggd.crystal.geometry import direct_basis, scattering_vector
from braggd.data import Crystal, Geometry
from braggd.errors import GeometryError

Bool3 = NDArray[np.bool_]
Float3 = NDArray[np.float32]
Complex3 = NDArray[np.complex64]

_LARGEST_GRID = 256
_MARGIN = 3


def crystal_from(density: Complex3, support: Bool3, geometry: Geometry) -> Crystal:
    """Bring the object into the laboratory frame and measure its displacement and strain along q.

    density: (z, y, x) complex64 in the detector frame, its FFT the measured wave (numpy's sign)
    support: (z, y, x) bool

    The result's axes are the laboratory's z (downstream), y (up) and x; the grid is a cube of cubic voxels about the
    support, a voxel as fine as the finest of the detector frame. The mean phase gradient is taken off, so that the
    mean strain is zero; the mean phase is zero. Voxels at the surface have one-sided differences.

    Raises GeometryError where the geometry is incomplete or impossible, or the support is empty.
    """
    if density.shape != support.shape or density.ndim != 3:
        raise GeometryError(f"density {density.shape} and support {support.shape} are not volumes of one shape")
    if not support.any() or not np.abs(density[support]).max() > 0:
        raise GeometryError("the support is empty; there is no crystal to bring into the laboratory frame")
    q_centre = scattering_vector(geometry)
    edges = direct_basis(geometry, _shape3(density))
    flat = without_ramp(density, support)
    moved, inside, voxel_size = _in_laboratory(flat, support, edges)

    phase = unwrapped(moved, inside)
    length = float(np.linalg.norm(q_centre))
    along_q = (q_centre / length)[::-1]
    gradient = _slope_along(moved, inside, along_q) / (voxel_size * 10.0)
    strain = np.where(inside, -gradient / length, 0.0)
    strain -= np.where(inside, strain[inside].mean(), 0.0)
    # A spline overshoots at sharp faces; no voxel is denser than what was phased.
    modulus = np.minimum(np.abs(moved), np.abs(density[support]).max())
    return Crystal(
        modulus=(modulus / modulus.max()).astype(np.float32),
        phase=phase.astype(np.float32),
        displacement=(-phase / length).astype(np.float32),
        strain=strain.astype(np.float32),
        support=inside,
        voxel_size_nm=voxel_size,
        q_centre=(float(q_centre[0]), float(q_centre[1]), float(q_centre[2])),
    )


def strain_rms(crystal: Crystal) -> float:
    """Root mean square strain, without the outermost layer of voxels, where half of a voxel is empty."""
    bulk = ndimage.binary_erosion(crystal.support)
    values = crystal.strain[bulk if bulk.any() else crystal.support].astype(np.float64)
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0


def without_ramp(density: Complex3, support: Bool3) -> Complex3:
    """The object with its mean phase gradient and mean phase taken off.

    density: complex64 of any dimension; support: bool. A ramp is where the peak lies in the array, not strain.
    The mean is over neighbours inside the support, weighted with the product of their moduli.
    """
    ramp = np.zeros(density.shape, np.float32)
    for axis, length in enumerate(density.shape):
        ratio, both = _neighbours(density, support, axis)
        slope = np.angle(np.sum(ratio[both], dtype=np.complex128))
        steps = np.arange(length) - (length - 1) / 2
        ramp += (slope * steps).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(density.ndim)])
    flat = density * np.exp(-1j * ramp)
    mean = np.sum(flat[support], dtype=np.complex128)
    flattened: Complex3 = (flat * np.exp(-1j * np.angle(mean))).astype(np.complex64)
    return flattened


def unwrapped(density: Complex3, support: Bool3) -> NDArray[np.float64]:
    """Phase without jumps inside the support, 0 outside and on average, rad.

    density: (z, y, x) complex; support: bool. Parts that do not touch each other are shifted by whole turns so that
    their means lie next to that of the largest one, as their true offset cannot be known.

    Abdul-Rahman et al., Appl. Opt. 46, 6623 (2007), doi:10.1364/AO.46.006623, as scikit-image has it
    """
    wrapped = np.ma.masked_array(np.angle(density), ~support)
    continuous = unwrap_phase(wrapped, rng=0)  # type: ignore[no-untyped-call]
    phase = np.asarray(np.ma.filled(continuous, 0.0), np.float64)
    parts, count = ndimage.label(support, np.ones((3,) * support.ndim))
    means = ndimage.mean(phase, parts, np.arange(1, count + 1))
    sizes = np.bincount(parts.ravel())[1:]
    turns = np.round((means - means[int(np.argmax(sizes))]) / (2 * np.pi))
    phase -= 2 * np.pi * np.concatenate([[0.0], turns])[parts]
    phase[support] -= phase[support].mean()
    return phase


def _in_laboratory(density: Complex3, support: Bool3, edges: NDArray[np.float64]) -> tuple[Complex3, Bool3, float]:
    """Object and support on a cubic grid along the laboratory's (z, y, x), and the voxel's edge in nm.

    edges: voxel edges of the detector frame, rows by array axis, columns (x, y, z), nm
    """
    window = ndimage.find_objects(support.astype(np.int8))[0]
    around = tuple(
        slice(max(0, s.start - _MARGIN), min(n, s.stop + _MARGIN)) for s, n in zip(window, support.shape, strict=True)
    )
    density, support = density[around], support[around]
    to_laboratory = edges[:, ::-1].T
    corners = to_laboratory @ np.argwhere(support).T
    low, high = corners.min(axis=1), corners.max(axis=1)
    voxel = float(np.linalg.norm(edges, axis=1).min())
    extent = float((high - low).max())
    size = int(np.ceil(extent / voxel)) + 2 * _MARGIN
    if size > _LARGEST_GRID:
        voxel, size = extent / (_LARGEST_GRID - 2 * _MARGIN), _LARGEST_GRID
    size += size % 2

    # Voxel n of the new grid lies at centre + (n - size/2) voxel; affine_transform wants that as an array index.
    to_index = np.linalg.inv(to_laboratory)
    matrix = to_index * voxel
    offset = to_index @ ((low + high) / 2) - matrix @ np.full(3, size / 2)
    options = {"offset": offset, "output_shape": (size,) * 3, "mode": "constant", "cval": 0.0}
    moved = np.empty((size,) * 3, np.complex64)
    moved.real = ndimage.affine_transform(density.real, matrix, order=3, **options)
    moved.imag = ndimage.affine_transform(density.imag, matrix, order=3, **options)
    inside = ndimage.affine_transform(support.astype(np.float32), matrix, order=1, **options) > 0.5
    return moved, inside, voxel


def _slope_along(density: Complex3, support: Bool3, direction: NDArray[np.float64]) -> NDArray[np.float64]:
    """Phase gradient along a direction, rad per voxel, from ratios of neighbours: phases need no unwrapping."""
    slope = np.zeros(density.shape, np.float64)
    for axis, share in enumerate(direction):
        ratio, both = _neighbours(density, support, axis)
        step = np.where(both, np.angle(ratio), 0.0)
        here = [slice(None)] * 3
        there = [slice(None)] * 3
        here[axis], there[axis] = slice(None, -1), slice(1, None)
        total, count = np.zeros(density.shape), np.zeros(density.shape)
        for side in (tuple(here), tuple(there)):
            total[side] += step
            count[side] += both
        slope += share * total / np.maximum(count, 1)
    return slope


def _neighbours(density: Complex3, support: Bool3, axis: int) -> tuple[NDArray[np.complex64], Bool3]:
    """conj(here) times next along an axis, and where both lie inside."""
    count = density.shape[axis]
    here, after = (np.take(density, np.arange(start, count - 1 + start), axis) for start in (0, 1))
    inside, beyond = (np.take(support, np.arange(start, count - 1 + start), axis) for start in (0, 1))
    return after * here.conj(), inside & beyond


def _shape3(array: Complex3) -> tuple[int, int, int]:
    z, y, x = array.shape
    return z, y, x
