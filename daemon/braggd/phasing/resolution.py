"""How fine the details of a retrieved object are: by the phases that several runs agree on, or by withheld voxels.

For a single run the phase retrieval transfer function says nothing: its modulus was made to fit, so that the function
is about 1 everywhere, however wrong the phases are. Its resolution is taken from the free voxels instead.

Frequencies are |q| = 2 pi / period, 1/nm, where the size of the object's voxels is known, else shares of the Nyquist
frequency. A resolution is half a period, the width of the narrowest line that is told from its neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from braggd.errors import PhasingError
from braggd.phasing import fourier

PRTF_LEVEL = math.exp(-1)
"""Chapman et al., J. Opt. Soc. Am. A 23, 1179 (2006), doi:10.1364/JOSAA.23.001179"""

FREE_LEVEL = 0.5
"""Where as much of the detail is foretold as is not: a signal as large as the noise."""

_FEWEST = 20  # free voxels in a cluster, and in a shell

Complex3 = NDArray[np.complex64]
Float3 = NDArray[np.float32]
Bool3 = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Curve:
    """A figure of merit against |q|.

    frequency: float64, mean of each shell, rising; 1/nm or shares of the Nyquist frequency, see `per_nm`
    value: float64, 1 where all agrees, 0 where nothing does
    level: what the value falls below where the resolution ends
    per_nm: True for 1/nm
    """

    frequency: NDArray[np.float64]
    value: NDArray[np.float64]
    level: float
    per_nm: bool

    @property
    def resolution(self) -> float:
        """Half the period where the value first falls below the level; nm, or voxels if not `per_nm`.

        The last shell's where it never does, the data ending before the details; inf where it is below from the
        first shell on.
        """
        below = np.flatnonzero(~(self.value >= self.level))
        if below.size == 0:
            return self._half_period(float(self.frequency[-1]))
        after = int(below[0])
        if after == 0:
            return math.inf
        (f0, f1), (v0, v1) = self.frequency[after - 1 : after + 1], self.value[after - 1 : after + 1]
        return self._half_period(float(f0 + (f1 - f0) * (v0 - self.level) / (v0 - v1)))

    def _half_period(self, frequency: float) -> float:
        return (math.pi if self.per_nm else 1.0) / frequency


def prtf(
    densities: Sequence[Complex3],
    amplitude: Float3,
    valid: Bool3,
    *,
    voxel_nm: ArrayLike | None = None,
    peak: tuple[int, ...] | None = None,
    shells: int = 32,
) -> Curve:
    """Phase retrieval transfer function of several aligned runs: the share of the measured wave on which they agree.

    The published function, |mean over N runs of the wave| / amplitude, is 1 / sqrt(N) where phases are random: with
    7 runs or fewer it never falls to 1/e. What each run contributes by itself is left out here, so that it is the
    published one of infinitely many runs. Per shell of |q|, with the waves w_i:

        value^2 = sum over q, i != j of Re(w_i conj(w_j)) / (N (N - 1)) / sum over q of amplitude^2

    sums over measured voxels. Means of amplitudes would not do: sqrt(counts) is too small where photons are few.

    densities: two or more, (z, y, x) complex64, their middle at n // 2, as `braggd.phasing.modes.aligned` gives them
    amplitude: float32, sqrt(photons), zero frequency at n // 2, undefined where not valid
    valid: bool, True where measured
    voxel_nm: size of the object's voxels: one, one per axis, or (3, 3), rows the edges along the array's axes
    peak: index of the peak per axis, where |q| = 0; n // 2 unless told
    shells: number up to the Nyquist frequency of the finest axis

    Raises PhasingError for a single run, for shapes that differ, and for impossible voxels.
    """
    _check(densities, amplitude, valid)
    number = len(densities)
    if number < 2:
        raise PhasingError("one run has no phase retrieval transfer function; take two runs or more, or free voxels")
    total, own = np.zeros(amplitude.shape, np.complex64), np.zeros(amplitude.shape, np.float32)
    for density in densities:
        wave = _wave(density)
        total += wave
        own += _squared(wave)
    common = (_squared(total) - own) / (number * (number - 1))
    index, frequency = _shells(amplitude.shape, voxel_nm, peak, shells, valid)
    agreed, measured = (_sums(values[valid], index, shells) for values in (common, np.square(amplitude)))
    share = np.divide(agreed, measured, out=np.zeros(shells), where=measured > 0)
    filled = np.isfinite(frequency)
    value = np.sqrt(np.maximum(share, 0))[filled]
    return Curve(frequency=frequency[filled], value=value, level=PRTF_LEVEL, per_nm=voxel_nm is not None)


def free_detail(
    intensity_calculated: Float3,
    amplitude: Float3,
    valid: Bool3,
    free: Bool3,
    *,
    voxel_nm: ArrayLike | None = None,
    peak: tuple[int, ...] | None = None,
    shells: int = 16,
) -> Curve:
    """The share of the detail in the withheld voxels that one run foretells, by |q|.

    Detail is how the amplitude a varies within a cluster of free voxels, about that cluster's mean m. Per shell, over
    its free voxels, with the calculated intensity I:

        value = 1 - sum (sqrt(I) - a)^2 / (m^2 + 1) / sum (a - m)^2 / (m^2 + 1), but not less than 0

    It is 1 for amplitudes foretold exactly, and 1/2 where what is left, be it photon noise or a wrong object, varies
    as much as what was foretold. Photon noise lowers it, so that a resolution is what the object and these counts
    together bear out. A plain correlation per shell would not do: the streaks of the facets are in the same place
    for any object of about that shape, and give wrong phases 0.8 and more. The division makes a cluster on a streak
    count as much as one beside it, the added photon keeps those without counts from counting. What shows only near
    the peak, as a smooth phase that is wrong inside the right facets, escapes it: nothing is withheld there.

    Clusters and shells of fewer than 20 free voxels are left out, as shells at the peak are.

    intensity_calculated: (z, y, x) float32, photons, of an object retrieved with the mask `valid & ~free`, blurred
        where the beam is partially coherent; zero frequency at n // 2
    free: bool, clusters, see `braggd.phasing.free`
    The other arguments as `prtf` has them.

    Raises PhasingError for shapes that differ, impossible voxels, and where no shell has enough free voxels.
    """
    _check([intensity_calculated], amplitude, valid)
    labels, _ = ndimage.label(valid & free)
    chosen = (labels > 0) & (np.bincount(labels.ravel()) >= _FEWEST)[labels]
    index, frequency = _shells(amplitude.shape, voxel_nm, peak, shells, chosen)
    enough = _sums(np.ones(index.size), index, shells) >= _FEWEST
    if not enough.any():
        raise PhasingError(f"{int(chosen.sum())} voxels in free clusters give no resolution; withhold more of them")
    cluster, measured = labels[chosen], amplitude[chosen].astype(np.float64)
    mean = (np.bincount(cluster, measured) / np.maximum(np.bincount(cluster), 1))[cluster]
    weight = 1 / (mean**2 + 1)
    left = np.sqrt(intensity_calculated[chosen].astype(np.float64)) - measured
    wrong, detail = (_sums(weight * x**2, index, shells) for x in (left, measured - mean))
    value = 1 - np.divide(wrong, detail, out=np.ones(shells), where=detail > 0)
    return Curve(
        frequency=frequency[enough],
        value=np.maximum(value[enough], 0),
        level=FREE_LEVEL,
        per_nm=voxel_nm is not None,
    )


def resolution_nm(
    densities: Sequence[Complex3],
    amplitude: Float3,
    valid: Bool3,
    voxel_nm: ArrayLike,
    *,
    free: Bool3 | None = None,
    intensity_calculated: Float3 | None = None,
    peak: tuple[int, ...] | None = None,
) -> float:
    """Half-period resolution, nm: of several aligned runs by `prtf`, of a single one by `free_detail`.

    intensity_calculated: of a single run, the coherent one of its object unless told
    The other arguments as there. NaN for a single run without free voxels: nothing is left that could say.
    """
    if len(densities) > 1:
        return prtf(densities, amplitude, valid, voxel_nm=voxel_nm, peak=peak).resolution
    if not densities or free is None or not free.any():
        return math.nan
    calculated = _squared(_wave(densities[0])) if intensity_calculated is None else intensity_calculated
    return free_detail(calculated, amplitude, valid, free, voxel_nm=voxel_nm, peak=peak).resolution


def _wave(density: Complex3) -> Complex3:
    """Zero frequency at n // 2."""
    wave = fourier.corner(density.astype(np.complex64, copy=False))
    fourier.forward(wave, wave)
    return np.asarray(fourier.centre(wave), np.complex64)


def _squared(wave: Complex3) -> Float3:
    return np.asarray(wave.real**2 + wave.imag**2, np.float32)


def _shells(
    shape: tuple[int, ...], voxel_nm: ArrayLike | None, peak: tuple[int, ...] | None, shells: int, chosen: Bool3
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """The shell of each chosen voxel, `shells` for those beyond, and the mean |q| per shell, NaN for an empty one."""
    metric = _reciprocal(voxel_nm)
    top = peak or tuple(n // 2 for n in shape)
    share = [(np.arange(n) - p) / n for n, p in zip(shape, top, strict=True)]  # cycles per voxel
    z, y, x = np.meshgrid(*share, indexing="ij", sparse=True)
    square = np.zeros(shape)
    for axis in range(3):
        square += (metric[0, axis] * z + metric[1, axis] * y + metric[2, axis] * x) ** 2
    q = np.sqrt(square[chosen])
    edge = 0.5 * float(np.linalg.norm(metric, axis=1).max())
    index = np.minimum((q * (shells / edge)).astype(np.intp), shells)
    number = _sums(np.ones(q.size), index, shells)
    total = _sums(q, index, shells)
    return index, np.divide(total, number, out=np.full(shells, np.nan), where=number > 0)


def _reciprocal(voxel_nm: ArrayLike | None) -> NDArray[np.float64]:
    """|q| vectors of one cycle per voxel, rows the array's axes: 1/nm, or shares of Nyquist (half a cycle is 1)."""
    if voxel_nm is None:
        return 2 * np.eye(3)
    voxel = np.asarray(voxel_nm, np.float64)
    edges = np.diag(np.broadcast_to(voxel, 3)) if voxel.ndim < 2 and voxel.size in (1, 3) else voxel
    if edges.shape != (3, 3) or not np.isfinite(edges).all() or abs(np.linalg.det(edges)) <= 0:
        raise PhasingError(f"a voxel of {voxel.tolist()} nm is none; give a size, three sizes, or three edges")
    return np.asarray(2 * np.pi * np.linalg.inv(edges).T)


def _sums(values: NDArray[np.floating], index: NDArray[np.intp], shells: int) -> NDArray[np.float64]:
    """Sums per shell; what is beyond the last one is left out."""
    return np.bincount(index, weights=values, minlength=shells + 1)[:shells].astype(np.float64)


def _check(densities: Sequence[Complex3 | Float3], amplitude: Float3, valid: Bool3) -> None:
    for name, shape in (("mask", valid.shape), *(("object", density.shape) for density in densities)):
        if shape != amplitude.shape:
            raise PhasingError(f"the {name} has the shape {shape}, the amplitudes {amplitude.shape}; make them equal")
