"""The projections of phase retrieval, in place, by the kernels that fit: compiled, plain, or a GPU's for its arrays.

Arrays are (z, y, x), C-contiguous, with the zero frequency at [0, 0, 0]. A `target` (float32) says what was measured:
the amplitude where it is >= 0, and where it is negative, that the wave is free up to a modulus of -target.
A masked voxel is so never a measured zero.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.phasing import plain
from braggd.phasing.arrays import namespace, to_host

kernels: ModuleType
try:
    from braggd.phasing import compiled

    kernels = compiled
except ImportError:  # no numba
    kernels = plain

# Outside the support, density = keep * density + feedback * projected; beta = 0.9.
MIXTURES: dict[str, tuple[float, float]] = {
    "ER": (0.0, 0.0),
    "HIO": (1.0, -0.9),
    "RAAR": (0.9, -0.8),
    "SF": (0.0, -1.0),
}
"""(keep, feedback) by name, for the algorithms that only differ in what they do outside the support.

ER, HIO: Fienup, Appl. Opt. 21, 2758 (1982), doi:10.1364/AO.21.002758, eqs. 15, 44
RAAR: Luke, Inverse Probl. 21, 37 (2005), doi:10.1088/0266-5611/21/1/004: keep = beta, feedback = 1 - 2 beta
SF, solvent flipping: Abrahams & Leslie, Acta Cryst. D 52, 30 (1996), doi:10.1107/S0907444995008754; as the reflector
    (2 P_support - 1) P_modulus in Marchesini, Rev. Sci. Instrum. 78, 011301 (2007), doi:10.1063/1.2403783, table I
"""

Kernels = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""One symmetric one-dimensional kernel of odd length per axis, z, y, x, each of sum 1."""

ALGORITHMS: tuple[str, ...] = (*MIXTURES, "CF", "DM", "ML")
"""Names in a recipe: also `charge_flip`, `difference_map`, and `braggd.phasing.likelihood`."""

BETA = 0.9
_FLIP_BELOW = 0.6  # of the projected object's root mean square within the support


def free_target(
    amplitude: NDArray[np.float32], valid: NDArray[np.bool_], bound: NDArray[np.float32]
) -> NDArray[np.float32]:
    """The target of measured amplitudes, with free voxels up to a bound.

    amplitude: sqrt(photons), undefined where not valid; bound: largest modulus of a free voxel
    """
    return np.where(valid, amplitude, -np.maximum(bound, np.float32(1e-3))).astype(np.float32)


def project_modulus(
    wave: NDArray[np.complex64], target: NDArray[np.float32], calculated: NDArray[np.float32] | None = None
) -> None:
    """Give the wave the measured modulus; free voxels keep theirs, up to the bound.

    calculated: the wave's intensity as a partially coherent beam shows it, None for a coherent one
    """
    if calculated is None:
        kernels_for(wave).project_modulus(flat(wave), flat(target))
    else:
        kernels_for(wave).project_blurred(flat(wave), flat(target), flat(calculated))


def pull(
    wave: NDArray[np.complex64], places: NDArray[np.int64], amplitudes: NDArray[np.float32], weight: float
) -> None:
    """Draw the modulus towards what is expected of voxels that were not measured, in place; the phase stays.

    places: flat indices of them, each once; amplitudes: expected there; both where the wave is
    weight: 0..1; the modulus becomes (1 - weight) |wave| + weight * amplitude
    """
    kernels_for(wave).pull(flat(wave), places, amplitudes, weight)


def within_phase(projected: NDArray[np.complex64], support: NDArray[np.bool_], limit: float) -> NDArray[np.bool_]:
    """Where the support's voxels have a phase no farther than the limit from their mean phase.

    limit: rad, up to pi; 0 stands for positivity, which is pi/2: the real part, at mean phase 0, is not negative
    The mean phase is that of the sum over the support.

    Harder, Liang, Sun, Xia & Robinson, New J. Phys. 12, 035019 (2010), doi:10.1088/1367-2630/12/3/035019
    """
    inside = np.empty_like(support)
    total = kernels_for(projected).total(flat(projected), flat(support))
    kernels_for(projected).within(
        flat(projected), flat(support), total, math.cos(limit) if limit > 0 else 0.0, flat(inside)
    )
    return inside


def update(
    density: NDArray[np.complex64], projected: NDArray[np.complex64], support: NDArray[np.bool_], algorithm: str
) -> None:
    """The real-space half of an iteration: `projected` inside the support, the algorithm's mixture outside.

    density may be projected where `keep` is 0
    algorithm: a key of MIXTURES
    """
    if density is projected and MIXTURES[algorithm] == (0.0, 0.0):
        kernels_for(density).clear(flat(density), flat(support))
    else:
        kernels_for(density).update(flat(density), flat(projected), flat(support), *MIXTURES[algorithm])


def charge_flip(density: NDArray[np.complex64], projected: NDArray[np.complex64], support: NDArray[np.bool_]) -> None:
    """CF: `density = projected where |projected| > delta, else -projected`; outside the support all is flipped.

    density may be projected; delta is 0.6 of the root mean square of what is projected into the support

    Oszlanyi & Suto, Acta Cryst. A 60, 134 (2004), doi:10.1107/S0108767303027569, whose density is real and positive:
    of a complex one the modulus is compared
    """
    on = kernels_for(density)
    strength = on.strength(flat(projected), flat(support))
    on.flip(flat(density), flat(projected), flat(support), _FLIP_BELOW * strength)


def relaxed(density: NDArray[np.complex64], support: NDArray[np.bool_], out: NDArray[np.complex64]) -> None:
    """DM's `(1 - 1/beta) P_support + 1/beta`, whose result its second projection onto the modulus begins with."""
    kernels_for(density).spread(flat(density), flat(support), 1 / BETA, flat(out))


def difference_map(
    density: NDArray[np.complex64],
    projected: NDArray[np.complex64],
    other: NDArray[np.complex64],
    support: NDArray[np.bool_],
) -> None:
    """DM: `density += beta P_s[(1 + 1/beta) P_m - 1/beta] density - beta P_m[(1 - 1/beta) P_s + 1/beta] density`.

    projected: P_m density; other: P_m of what `relaxed` gave; P_m onto the modulus, P_s onto the support; beta = 0.9

    Elser, J. Opt. Soc. Am. A 20, 40 (2003), doi:10.1364/JOSAA.20.000040, with gamma = -1/beta and 1/beta
    """
    kernels_for(density).difference(flat(density), flat(projected), flat(other), flat(support), BETA)


def supported(density: NDArray[np.complex64], support: NDArray[np.bool_], out: NDArray[np.complex64]) -> None:
    """Write the density into out, and 0 outside the support; out may be density."""
    if out is density:
        kernels_for(density).clear(flat(density), flat(support))
    else:
        kernels_for(density).spread(flat(density), flat(support), 0.0, flat(out))


def intensity(wave: NDArray[np.complex64], out: NDArray[np.float32]) -> None:
    """Write |wave|^2 into out."""
    kernels_for(wave).square(flat(wave), flat(out))


def misfit(calculated: NDArray[np.float32], target: NDArray[np.float32]) -> tuple[float, float]:
    """Poisson log-likelihood per measured voxel, and R factor, of a calculated intensity.

    The likelihood is `mean(calculated - observed + observed log(observed / calculated))`, 0 where both agree.

    Favre-Nicolin, Leake & Chushkin, Sci. Rep. 10, 2664 (2020), doi:10.1038/s41598-020-57561-2
    """
    sums = kernels_for(calculated).misfit(flat(calculated), flat(target))
    likelihood, residual, total, measured = (
        float(value) for value in (sums if isinstance(sums, tuple) else to_host(sums))
    )
    return likelihood / max(1, measured), residual / max(total, 1e-30)


def convolve(source: NDArray[np.float32], target: NDArray[np.float32], per_axis: Kernels) -> None:
    """Convolve with a kernel per axis, periodically; target is not source."""
    xp = namespace(source)
    kernels_for(source).blur(source, target, *(xp.asarray(kernel) for kernel in per_axis))


def blur(source: NDArray[np.float32], target: NDArray[np.float32], widths: tuple[float, float, float]) -> None:
    """Convolve with a Gaussian, periodically; target is not source.

    widths: standard deviation per axis, voxels
    """
    z, y, x = (gaussian(width) for width in widths)
    convolve(source, target, (z, y, x))


def gaussian(width: float) -> NDArray[np.float32]:
    """A kernel of that standard deviation in voxels, cut off after three of them."""
    radius = int(np.ceil(3 * width)) if width > 0.15 else 0
    at = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (at / max(width, 1e-6)) ** 2)
    return np.asarray(kernel / kernel.sum(), np.float32)


def kernels_for(array: NDArray[Any]) -> ModuleType:
    """The kernels that work where the array is."""
    return kernels if isinstance(array, np.ndarray) else importlib.import_module("braggd.phasing.cuda")


def flat(array: NDArray[Any]) -> NDArray[Any]:
    """A one-dimensional view, as the kernels take it.

    Raises ValueError where there is none.
    """
    if not array.flags.c_contiguous:  # reshape would hand out a copy, and what is done to it would be lost
        raise ValueError("an array that is projected in place has to be C-contiguous")
    return array.reshape(-1)
