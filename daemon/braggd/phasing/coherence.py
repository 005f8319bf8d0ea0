"""Partial coherence: the pattern seen is the coherent one, convolved with a point-spread function that is fitted.

The function is the product of one symmetric kernel of free form per axis, so that tails heavier than a Gaussian's have
a place. Each kernel is found from the counts by the multiplicative update of Richardson and Lucy, which is the
expectation-maximisation of Poisson statistics and keeps it positive.

Clark et al., Nat. Commun. 3, 993 (2012), doi:10.1038/ncomms1994, who fit a function of free form likewise;
Shepp & Vardi, IEEE Trans. Med. Imaging 1, 113 (1982), doi:10.1109/TMI.1982.4307558, for the Poisson update
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.phasing import projections
from braggd.phasing.arrays import namespace, to_host
from braggd.phasing.projections import Kernels as Kernels
from braggd.phasing.projections import convolve

RADIUS = 4
"""Voxels that a kernel reaches to either side at most."""

WIDEST = 1.5
"""Largest standard deviation, voxels: what is wider belongs to the object."""

_WINDOW = 48  # edge of the middle of the pattern that decides; farther out there are too few photons
_UPDATES = 30  # of one kernel per fit
_POWER = (
    1.8  # of the update: the fixed point is the same, and it is reached in about half the steps; below 2 it is stable
)
_LEAST = 1e-4  # weight that a tail begins a fit with, since nothing grows from 0; what ends below it is cut off
_DARK = 1e-6  # photons
_TINY = 1e-30


def fit_kernels(calculated: NDArray[np.float32], target: NDArray[np.float32], kernels: Kernels) -> Kernels:
    """Improve the kernels, one axis after the other, towards the larger Poisson likelihood.

    calculated: (z, y, x) float32, intensity of the coherent wave of the object within its support
    target: as `braggd.phasing.projections` has it; both with the zero frequency at [0, 0, 0]. Only measured voxels of
        the middle of the pattern count
    kernels: those to begin with; a kernel is symmetric, its sum is 1, and its standard deviation at most WIDEST

    A flat background and the scale of `calculated` are fitted along with each kernel, and forgotten: else, the tails
    would take them up.
    """
    xp = namespace(target)
    window = xp.ix_(*(xp.asarray(_middle(size)) for size in target.shape))
    near, seen = xp.ascontiguousarray(calculated[window]), target[window]
    measured = (seen >= 0).astype(np.float32)
    for axis, (size, cut) in enumerate(zip(target.shape, seen.shape, strict=True)):
        if cut < size:  # what lies beyond the window's edges, which meet there, is not known
            measured.swapaxes(0, axis)[cut - cut // 2 - RADIUS : cut - cut // 2 + RADIUS] = 0
    found = [xp.pad(xp.asarray(kernel), RADIUS - kernel.size // 2) for kernel in kernels]
    delta = np.ones(1, np.float32)
    others = xp.empty_like(near)
    for axis in range(3):
        z, y, x = (delta if a == axis else found[a] for a in range(3))
        convolve(near, others, (z, y, x))
        found[axis] = _fitted(others, seen * seen * measured, measured, found[axis], axis)
    z, y, x = (_trimmed(kernel) if xp is np else kernel for kernel in found)  # on a GPU it would have to be waited for
    return z, y, x


def widths(kernels: Kernels) -> tuple[float, float, float]:
    """The standard deviation of each kernel, voxels."""
    z, y, x = (float(np.sqrt(_variance(to_host(kernel).astype(np.float64)))) for kernel in kernels)
    return z, y, x


def _fitted(
    others: NDArray[np.float32],
    counts: NDArray[np.float32],
    measured: NDArray[np.float32],
    kernel: NDArray[np.float32],
    axis: int,
) -> NDArray[np.float32]:
    """The kernel of that axis, the intensity being convolved with those of the others."""
    xp, on = namespace(others), projections.kernels_for(others)
    pairs = (xp.roll(others, s, axis) + xp.roll(others, -s, axis) for s in range(RADIUS + 1))
    parts = xp.stack([part.reshape(-1) for part in (*(0.5 * measured * pair for pair in pairs), measured)])
    totals = xp.maximum(parts.sum(axis=1, dtype=np.float64), _DARK)
    observed = counts.reshape(-1)
    photons = observed.sum(dtype=np.float64)
    tails = xp.maximum(kernel[RADIUS:].astype(np.float64), _LEAST)
    tails[1:] *= 2
    weights = xp.append(tails * (photons / xp.sum(tails * totals[:-1])), _LEAST * photons / totals[-1:])
    for _ in range(_UPDATES):
        weights *= (on.explained(parts, observed, weights) / totals) ** _POWER
        weights *= photons / xp.maximum(xp.sum(weights * totals), _TINY)
    weights[0] += _TINY  # without a photon, the beam is coherent
    half = weights[:-1] / weights[:-1].sum()
    half[1:] /= 2
    return _narrowed(xp.concatenate([half[:0:-1], half]))


def _narrowed(kernel: NDArray[np.float64]) -> NDArray[np.float32]:
    """No wider than WIDEST: with so much of it taken back to the middle."""
    share = namespace(kernel).minimum(1.0, WIDEST**2 / (_variance(kernel) + _TINY))
    narrowed = kernel * share
    narrowed[kernel.size // 2] += 1 - share
    result: NDArray[np.float32] = narrowed.astype(np.float32)
    return result


def _variance(kernel: NDArray[Any]) -> Any:
    at = namespace(kernel).arange(kernel.size) - kernel.size // 2
    return (kernel * at**2).sum() / kernel.sum()


def _trimmed(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """Without the ends that add nothing; they cost time."""
    reach = int(np.max(np.abs(np.flatnonzero(kernel > _LEAST) - RADIUS), initial=0))
    cut = kernel[RADIUS - reach : RADIUS + reach + 1]
    return np.ascontiguousarray(cut / cut.sum())


def _middle(size: int) -> NDArray[np.intp]:
    edge = min(size, _WINDOW)
    return np.sort(np.arange(-(edge // 2), edge - edge // 2) % size)


def _start() -> Kernels:
    """Slopes of an exponential: no tail is too faint to grow."""
    kernel = 0.1 ** np.abs(np.arange(-RADIUS, RADIUS + 1))
    normal = np.asarray(kernel / kernel.sum(), np.float32)
    return normal, normal, normal


START: Kernels = _start()
"""Kernels to begin with, half a voxel wide."""
