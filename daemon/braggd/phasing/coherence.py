"""Partial coherence: the pattern seen is the coherent one, blurred by a Gaussian whose widths are fitted.

Clark et al., Nat. Commun. 3, 993 (2012), doi:10.1038/ncomms1994
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braggd.phasing.projections import blur, misfit

Widths = tuple[float, float, float]

START: Widths = (0.4, 0.4, 0.4)
_NARROWEST, _WIDEST = 0.2, 1.2  # voxels
_STEP = 1.15
_WINDOW = 48  # edge of the middle of the pattern that decides; farther out there are too few photons


def fit_widths(calculated: NDArray[np.float32], target: NDArray[np.float32], widths: Widths) -> Widths:
    """Improve the widths of the blur by one step per axis, towards the larger likelihood.

    calculated: (z, y, x) float32, intensity of the coherent wave of the object within its support
    target: as `braggd.phasing.projections` has it; both with the zero frequency at [0, 0, 0]
    widths: standard deviations, voxels
    """
    window = np.ix_(*(_middle(size) for size in target.shape))
    near, seen = np.ascontiguousarray(calculated[window]), np.ascontiguousarray(target[window])
    blurred = np.empty_like(near)
    best = list(widths)
    for axis in range(3):
        scores = {}
        for width in (best[axis] / _STEP, best[axis], best[axis] * _STEP):
            trial = [*best]
            trial[axis] = min(max(width, _NARROWEST), _WIDEST)
            blur(near, blurred, (trial[0], trial[1], trial[2]))
            scores[trial[axis]] = misfit(blurred, seen)[0]
        best[axis] = min(scores, key=lambda width: scores[width])
    return best[0], best[1], best[2]


def _middle(size: int) -> NDArray[np.intp]:
    edge = min(size, _WINDOW)
    return np.sort(np.arange(-(edge // 2), edge - edge // 2) % size)
