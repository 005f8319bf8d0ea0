"""An object from elsewhere, as the network's, and what a few quick starts make of it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from braggd.config import PhasingConfig
from braggd.phasing import fourier
from braggd.phasing.ensemble import Seed, measured, solver_for
from braggd.phasing.pattern import prepare, withheld_voxels
from braggd.phasing.ranking import Quality, choose
from braggd.phasing.search import settled


def improved(
    density: NDArray[np.complex64],
    support: NDArray[np.bool_],
    amplitude: NDArray[np.float32],
    valid: NDArray[np.bool_],
    config: PhasingConfig,
    guess: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.complex64], NDArray[np.bool_], Quality]:
    """The object after quick starts at low resolution, or as it was where that fits the pattern better; its figures.

    density, support: (z, y, x) complex64 and bool, their middle at n // 2
    amplitude, valid, guess: as `braggd.phasing.retrieve.retrieve` takes them; the same voxels are withheld
    The figures are those of a coherent beam.

    Raises PhasingError where there is nothing to compare with.
    """
    withheld = withheld_voxels(amplitude, valid, config.free_fraction, config.seed)
    whole = prepare(amplitude, valid, guess, withheld)

    def figures(density: NDArray[np.complex64], support: NDArray[np.bool_]) -> Quality:
        solver = solver_for(whole, fourier.corner(density), fourier.corner(support), None, config)
        solver.constrain()
        return measured(solver, whole)

    found = settled(Seed(name="", density=np.where(support, density, 0)), whole, config)
    objects = [(density, support), *([found] if found is not None else [])]
    qualities = [figures(*one) for one in objects]
    best = choose(qualities)
    return *objects[best], qualities[best]
