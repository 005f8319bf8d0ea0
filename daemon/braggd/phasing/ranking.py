"""Which of several runs is the best: by log-likelihood, among those that look like one crystal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braggd.phasing.support import LARGEST_SHARE, components

_SMALLEST = 64  # voxels: less is no object but a spot, as noise gives it
_FRAGMENTED = 0.9  # of the support has to be in one piece


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How good a run is.

    llk: Poisson log-likelihood per measured voxel, the smaller the better
    r_factor: sum of amplitude errors over sum of amplitudes
    support_voxels: size of the support
    components: pieces it falls into
    largest_share: of the support that is in the largest piece
    volume_share: of the volume that is in the support
    """

    llk: float
    r_factor: float
    support_voxels: int
    components: int
    largest_share: float
    volume_share: float

    @property
    def fault(self) -> str:
        """Why the run cannot be one crystal, "" where it can."""
        if not np.isfinite(self.llk):
            return "diverged"
        if self.support_voxels < _SMALLEST:
            return "collapsed"
        if self.volume_share >= 0.95 * LARGEST_SHARE:
            return "fills the volume"
        if self.largest_share < _FRAGMENTED:
            return "fell into pieces"
        return ""


def judge(llk: float, r_factor: float, support: NDArray[np.bool_]) -> Quality:
    """Put a run's figures together; support: (z, y, x), periodic."""
    number, largest = components(support)
    size = int(support.sum())
    return Quality(
        llk=llk,
        r_factor=r_factor,
        support_voxels=size,
        components=number,
        largest_share=float(largest.sum()) / max(1, size),
        volume_share=size / support.size,
    )


def choose(runs: Sequence[Quality]) -> int:
    """The index of the best run: without a fault if there is one, then of the smallest log-likelihood."""
    return min(
        range(len(runs)), key=lambda i: (bool(runs[i].fault), runs[i].llk if np.isfinite(runs[i].llk) else 1e300)
    )
