"""The figures of an object that no run of ours has made, so that it can be ranked beside those."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braggd.config import PhasingConfig
from braggd.phasing import fourier
from braggd.phasing.ensemble import measured, solver_for
from braggd.phasing.pattern import prepare, withheld_voxels
from braggd.phasing.ranking import Quality


def appraise(
    density: NDArray[np.complex64],
    support: NDArray[np.bool_],
    amplitude: NDArray[np.float32],
    valid: NDArray[np.bool_],
    config: PhasingConfig,
) -> Quality:
    """How well an object explains a pattern; a coherent beam is assumed.

    density, support: (z, y, x) complex64 and bool, their middle at n // 2
    amplitude, valid: as `braggd.phasing.retrieve.retrieve` takes them; the same voxels are withheld

    Raises PhasingError where there is nothing to compare with.
    """
    withheld = withheld_voxels(amplitude, valid, config.free_fraction, config.seed)
    whole = prepare(amplitude, valid, None, withheld)
    inside = np.where(support, density, 0).astype(np.complex64)
    return measured(solver_for(whole, fourier.corner(inside), fourier.corner(support), None, config), whole)
