"""The projections of phase retrieval, in place, on whichever kernels this machine has.

Arrays are (z, y, x), C-contiguous, with the zero frequency at [0, 0, 0]. A `target` (float32) says what was measured:
the amplitude where it is >= 0, and where it is negative, that the wave is free up to a modulus of -target.
A masked voxel is so never a measured zero.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.phasing import plain

kernels: ModuleType
try:
    from braggd.phasing import compiled

    kernels = compiled
except ImportError:  # no numba
    kernels = plain

# Outside the support, density = keep * density + feedback * projected; beta = 0.9.
ALGORITHMS: dict[str, tuple[float, float]] = {"ER": (0.0, 0.0), "HIO": (1.0, -0.9), "RAAR": (0.9, -0.8)}
"""(keep, feedback) by name.

ER, HIO: Fienup, Appl. Opt. 21, 2758 (1982), doi:10.1364/AO.21.002758, eqs. 15, 44
RAAR: Luke, Inverse Probl. 21, 37 (2005), doi:10.1088/0266-5611/21/1/004: keep = beta, feedback = 1 - 2 beta
"""


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
        kernels.project_modulus(_flat(wave), _flat(target))
    else:
        kernels.project_blurred(_flat(wave), _flat(target), _flat(calculated))


def update(
    density: NDArray[np.complex64], projected: NDArray[np.complex64], support: NDArray[np.bool_], algorithm: str
) -> None:
    """The real-space half of an iteration: `projected` inside the support, the algorithm's mixture outside.

    algorithm: a key of ALGORITHMS
    """
    kernels.update(_flat(density), _flat(projected), _flat(support), *ALGORITHMS[algorithm])


def intensity(wave: NDArray[np.complex64], out: NDArray[np.float32]) -> None:
    """Write |wave|^2 into out."""
    kernels.square(_flat(wave), _flat(out))


def misfit(calculated: NDArray[np.float32], target: NDArray[np.float32]) -> tuple[float, float]:
    """Poisson log-likelihood per measured voxel, and R factor, of a calculated intensity.

    The likelihood is `mean(calculated - observed + observed log(observed / calculated))`, 0 where both agree.

    Favre-Nicolin, Leake & Chushkin, Sci. Rep. 10, 2664 (2020), doi:10.1038/s41598-020-57561-2
    """
    likelihood, residual, total, measured = kernels.misfit(_flat(calculated), _flat(target))
    return likelihood / max(1, measured), residual / max(total, 1e-30)


def blur(source: NDArray[np.float32], target: NDArray[np.float32], widths: tuple[float, float, float]) -> None:
    """Convolve with a Gaussian, periodically; target is not source.

    widths: standard deviation per axis, voxels
    """
    kernels.blur(source, target, *(_gaussian(width) for width in widths))


def _gaussian(width: float) -> NDArray[np.float32]:
    radius = int(np.ceil(3 * width)) if width > 0.15 else 0
    at = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (at / max(width, 1e-6)) ** 2)
    return np.asarray(kernel / kernel.sum(), np.float32)


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    if not array.flags.c_contiguous:  # reshape would hand out a copy, and what is done to it would be lost
        raise ValueError("an array that is projected in place has to be C-contiguous")
    return array.reshape(-1)
