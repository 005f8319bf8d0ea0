"""Which of several runs is the best: by free log-likelihood and evenness, among those that look like one crystal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from braggd.phasing import fourier
from braggd.phasing.support import LARGEST_SHARE, components, typical

BEHIND = "fell behind"
"""The fault of a run that fits worse than the best: the only one that is not its own."""

_SMALLEST = 64  # voxels: less is no object but a spot, as noise gives it
_FRAGMENTED = 0.9  # of the support has to be in one piece
_BEHIND = 1.5  # times the best log-likelihood: another object
_CLOSE = 1.2  # times the best rank: about as good
_SYMMETRIC = 0.8  # overlap of a run with its own twin from which it may be both twins at once
_LESS_SYMMETRIC = 0.1  # by how much the better run has to overlap less with its own
_UNEVEN = 0.18  # unevenness that makes the rank e times worse


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good a run is.

    llk: Poisson log-likelihood per fitted voxel, the smaller the better
    free_llk: the same of the voxels that were withheld from the fit; NaN where none were
    r_factor: sum of amplitude errors over sum of amplitudes
    support_voxels: size of the support
    components: pieces it falls into
    largest_share: of the support that is in the largest piece
    volume_share: of the volume that is in the support
    twin_overlap: of the object with its own twin, 0..1; 1 for a centrosymmetric crystal without strain
    unevenness: standard deviation of the modulus over its mean, of the object's solid part
    fault: why the run cannot be one crystal, "" where it can
    """

    llk: float
    free_llk: float
    r_factor: float
    support_voxels: int
    components: int
    largest_share: float
    volume_share: float
    twin_overlap: float
    unevenness: float
    fault: str = ""

    @property
    def rank(self) -> float:
        """What runs are ranked by, the smaller the better; infinite for one that diverged.

        The free log-likelihood, the worse the more uneven the object is. A crystal is about as dense everywhere; an
        object that is too large can explain a blur or another crystal's light, withheld voxels included, but only by
        an uneven modulus. Right objects were seen at 0.02 to 0.27, such ones at 0.28 and more.
        """
        value = self.free_llk if np.isfinite(self.free_llk) else self.llk
        value *= float(np.exp((self.unevenness / _UNEVEN) ** 2))
        return value if np.isfinite(self.llk) and np.isfinite(value) else float("inf")


def judge(
    llk: float, r_factor: float, density: NDArray[np.complex64], support: NDArray[np.bool_], free_llk: float = np.nan
) -> Quality:
    """Put a run's figures together; density and support: (z, y, x), periodic."""
    number, largest = components(support)
    size = int(np.count_nonzero(support))
    quality = Quality(
        llk=llk,
        free_llk=free_llk,
        r_factor=r_factor,
        support_voxels=size,
        components=number,
        largest_share=float(np.count_nonzero(largest)) / max(1, size),
        volume_share=size / support.size,
        twin_overlap=_twin_overlap(density),
        unevenness=_unevenness(density[support]),
    )
    return replace(quality, fault=_fault(quality))


def compare(runs: Sequence[Quality]) -> tuple[Quality, ...]:
    """The same runs, with the faults that only show beside the best of them."""
    best = runs[choose(runs)]
    return tuple(run if run.fault else replace(run, fault=_beside(run, best)) for run in runs)


def choose(runs: Sequence[Quality]) -> int:
    """The index of the best run: without a fault if there is one, then of the smallest rank."""
    return min(range(len(runs)), key=lambda i: (bool(runs[i].fault), runs[i].rank))


def simplest(runs: Sequence[Quality], tightness: Sequence[float]) -> int:
    """The index of the run with the tightest support among those that are about as good as the best.

    tightness: what each run's thresholds of the support were multiplied by

    A looser support always explains a little more, withheld voxels included, by what rings about a crystal. Where that
    is hardly anything, the smaller object is the better one: the rule of one standard error (Breiman, Friedman, Olshen
    & Stone, Classification and Regression Trees, 1984, section 3.4.3). Two starts of the same crystal differ by some
    10 % in rank; up to 20 % and more, the tighter one was nearer to the truth, for crystals of atoms more often than
    for those of voxels, where it made no difference.
    """
    best = choose(runs)
    close = [i for i, run in enumerate(runs) if not run.fault and run.rank <= _CLOSE * runs[best].rank]
    return max(close, key=lambda i: tightness[i], default=best)


def _fault(run: Quality) -> str:
    if not np.isfinite(run.llk):
        return "diverged"
    if run.support_voxels < _SMALLEST:
        return "collapsed"
    if run.volume_share >= 0.95 * LARGEST_SHARE:
        return "fills the volume"
    if run.largest_share < _FRAGMENTED:
        return "fell into pieces"
    return ""


def _beside(run: Quality, best: Quality) -> str:
    if run is best or run.rank <= _BEHIND * best.rank:
        return ""
    if run.twin_overlap > _SYMMETRIC and best.twin_overlap < run.twin_overlap - _LESS_SYMMETRIC:
        return "mixes both twins"
    return BEHIND


def _unevenness(inside: NDArray[np.complex64]) -> float:
    modulus = np.abs(inside)
    solid = modulus[modulus > 0.5 * typical(modulus)]
    return float(solid.std(dtype=np.float64) / solid.mean(dtype=np.float64)) if solid.size else 0.0


def _twin_overlap(density: NDArray[np.complex64]) -> float:
    """|<object, twin>| at the best shift, as a share of |object|^2.

    The twin is the conjugate, inverted object; its overlaps are so the convolution of the object with itself.
    """
    strength = float(np.vdot(density, density).real)
    if not np.isfinite(strength) or strength <= 0:
        return 0.0
    wave = np.empty_like(density)
    fourier.forward(density, wave)
    np.square(wave, out=wave)
    fourier.inverse(wave, wave)
    return float(np.abs(wave).max()) / strength
