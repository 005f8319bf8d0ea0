"""Free log-likelihood: a few measured voxels are withheld from the fit, and say afterwards whether it was honest.

A support that is too large fits noise: the log-likelihood of the fitted voxels falls, that of the withheld ones rises.

Favre-Nicolin, Leake & Chushkin, Sci. Rep. 10, 2664 (2020), doi:10.1038/s41598-020-57561-2
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braggd.errors import PhasingError
from braggd.phasing.projections import misfit

_LARGEST_FRACTION = 0.2
_TRIES = 20  # places tried per cluster that is wanted

Bool3 = NDArray[np.bool_]


def free_voxels(
    valid: Bool3,
    fraction: float = 0.05,
    seed: int = 0,
    *,
    radius: int = 3,
    centre: float = 0.05,
    peak: tuple[int, ...] | None = None,
) -> Bool3:
    """Choose the voxels to withhold: whole balls that do not overlap, at random places, the same for the same seed.

    Neighbouring voxels of an oversampled pattern are correlated, a single one withheld would be known from those
    around it; hence clusters. The middle of the peak stays in the fit: without it, there is little to fit.

    valid: (z, y, x) bool, True where measured, zero frequency at n // 2
    fraction: of the measured voxels to withhold, up to 0.2; met to within one cluster where there is room
    radius: of a cluster, voxels
    centre: semi-axes of the ellipsoid about the peak that no cluster reaches into, as a share of each axis' length
    peak: index of the peak per axis, n // 2 unless told
    Returns bool, (z, y, x), True only at measured voxels. Withhold them from the mask that is phased with
    (`valid & ~free`) and from anything that holds their counts, as an inpainted guess does.

    Raises PhasingError where the fraction is out of range, or the volume has no room for a single cluster.
    """
    if not 0 < fraction <= _LARGEST_FRACTION:
        raise PhasingError(f"a free fraction of {fraction} is not in 0..{_LARGEST_FRACTION}; 0.05 is usual")
    wanted = fraction * int(valid.sum())
    ball = _ball(radius)
    places = np.flatnonzero(_places(valid, radius, centre, peak or tuple(n // 2 for n in valid.shape)))
    random = np.random.default_rng(seed)
    tries = min(places.size, _TRIES * (1 + int(wanted / ball.sum())))
    free, blocked, chosen = np.zeros_like(valid), np.zeros_like(valid), 0
    for flat in random.choice(places, tries, replace=False):
        if chosen >= wanted:
            break
        place = tuple(int(i) for i in np.unravel_index(flat, valid.shape))
        if not blocked[place]:
            window = tuple(slice(i - radius, i + radius + 1) for i in place)
            cluster = ball & valid[window]
            free[window] |= cluster
            chosen += int(cluster.sum())
            _block(blocked, place, 2 * radius)
    if chosen == 0:
        raise PhasingError(
            f"no free voxels fit into a volume of shape {valid.shape} with {int(valid.sum())} measured voxels; "
            "phase a larger one, or without the free log-likelihood"
        )
    return free


def log_likelihoods(
    intensity_calculated: NDArray[np.float32], counts: NDArray[np.float32], valid: Bool3, free: Bool3
) -> tuple[float, float]:
    """Poisson log-likelihood per voxel of the fitted and of the free voxels; the smaller, the better.

    Each is `mean(calculated - counts + counts log(counts / calculated))`: the logarithm of how much more probable the
    counts would be if each were expected. So it is 0 for a calculated intensity equal to the counts, about 1/2 for
    the true one where there are many photons, and less where there are few. A voxel without counts adds its
    calculated intensity. An intensity below 1e-6 photons is taken as 1e-6: a photon there costs 13, not infinity.

    intensity_calculated: (z, y, x) float32, photons, blurred where the beam is partially coherent
    counts: float32, photons, undefined where not valid
    valid: bool, True where measured; free: those of them that were withheld
    Returns (llk, free_llk); NaN where there is no such voxel.
    """
    # The published form has a Gamma function of the counts, which leaves with the subtraction of the perfect fit.
    amplitude = np.sqrt(np.where(valid, counts, 0), dtype=np.float32)
    calculated = np.ascontiguousarray(intensity_calculated, np.float32)
    fitted, withheld = (_likelihood(calculated, amplitude, chosen) for chosen in (valid & ~free, valid & free))
    return fitted, withheld


def _likelihood(calculated: NDArray[np.float32], amplitude: NDArray[np.float32], chosen: Bool3) -> float:
    if not chosen.any():
        return float("nan")
    return misfit(calculated, np.where(chosen, amplitude, np.float32(-1)))[0]


def _ball(radius: int) -> Bool3:
    z, y, x = np.ogrid[-radius : radius + 1, -radius : radius + 1, -radius : radius + 1]
    return np.asarray(z**2 + y**2 + x**2 <= radius**2)


def _places(valid: Bool3, radius: int, centre: float, peak: tuple[int, ...]) -> Bool3:
    """Where the middle of a cluster may be: the cluster inside the volume, and outside the middle of the peak."""
    distance = np.zeros((1, 1, 1))
    inside = np.zeros_like(valid)
    inside[tuple(slice(radius, n - radius) for n in valid.shape)] = True
    for axis, (size, top) in enumerate(zip(valid.shape, peak, strict=True)):
        scaled = ((np.arange(size) - top) / (centre * size + radius)) ** 2
        distance = distance + np.expand_dims(scaled, tuple(a for a in range(3) if a != axis))
    return inside & valid & (distance > 1)


def _block(blocked: Bool3, place: tuple[int, ...], radius: int) -> None:
    """No other cluster's middle within that distance."""
    window = tuple(slice(max(0, i - radius), i + radius + 1) for i in place)
    cut = tuple(
        slice(max(0, radius - i), max(0, radius - i) + n) for i, n in zip(place, blocked[window].shape, strict=True)
    )
    blocked[window] |= _ball(radius)[cut]
