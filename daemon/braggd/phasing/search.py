"""Where an object is looked for: quickly at low resolution, then at full from what was found there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from braggd.bright import bright_piece
from braggd.config import PhasingConfig
from braggd.errors import PhasingError
from braggd.framing import EDGE
from braggd.phasing import fourier
from braggd.phasing.course import Course
from braggd.phasing.ensemble import Ensemble, Seed
from braggd.phasing.pattern import Pattern
from braggd.phasing.reduced import Reduced

_QUICK, _SECONDS = 16, 3  # random starts at low resolution at most; beside an object from elsewhere
_BLUR, _BRIGHT = 0.5, 0.1  # voxels at low resolution, and share of the maximum: where an object is shown


def search(
    whole: Pattern, config: PhasingConfig, seeds: Sequence[Seed], course: Course
) -> tuple[Reduced | None, Ensemble]:
    """Quick starts at low resolution, and those at full resolution, of which the best quick one begins the first.

    Full resolution is that of the pattern, but sampled as coarsely as the crystal allows where that saves something.
    Starts are done until two agree: one that was begun and one at random, or two at random.
    Returns what the starts at full resolution are made on (None: the whole pattern), and the starts.
    """
    found = [(seed.name, _checked(seed.density, whole)) for seed in seeds]
    low = Reduced.of(whole, EDGE, config.free_fraction, config.seed) if config.quick else None
    searched = 0
    if low is not None:
        given = [(name, low.lower(density)) for name, density in found]
        quick = Ensemble(low.pattern, config, given, recipe=config.quick, starts=_QUICK)
        course.until_settled(quick)
        searched, best = len(quick.runs), quick.best
        found = [(best.origin, low.lift(best.solver.density, best.solver.support)[0])]
    full = Reduced.full(whole, config.free_fraction, config.seed)
    ensemble = Ensemble(
        whole if full is None else full.pattern,
        config,
        [(name, density if full is None else full.lower(density)) for name, density in found],
        recipe=config.recipe,
        seeded=config.seeded,
        starts=config.starts,
        searched=searched,
    )
    course.until_settled(ensemble)
    return full, ensemble


def settled(
    seed: Seed, whole: Pattern, config: PhasingConfig
) -> tuple[NDArray[np.complex64], NDArray[np.bool_]] | None:
    """What an object from elsewhere becomes at low resolution; None where there is none.

    It begins the first of up to four quick starts, the others begin at random, until two agree.
    Returns the density and support of the best, (z, y, x) complex64 and bool, on the whole pattern's grid, their middle
    at n // 2.

    Raises PhasingError where the seed is of another shape.
    """
    density = _checked(seed.density, whole)
    low = Reduced.of(whole, EDGE, config.free_fraction, config.seed) if config.quick else None
    if low is None:
        return None
    ensemble = Ensemble(low.pattern, config, [(seed.name, low.lower(density))], recipe=config.quick, starts=_SECONDS)
    Course(None, None, 0.0).until_settled(ensemble)
    solver = ensemble.best.solver
    density, support = (fourier.centre(array) for array in low.lift(solver.density, solver.support))
    framing = low.framing
    widths = [_BLUR * n / (framing.edge * step) for n, step in zip(framing.shape, framing.step, strict=True)]
    support = bright_piece(np.abs(density) * support, widths, _BRIGHT)
    return np.where(support, density, 0).astype(np.complex64), support


def _checked(density: NDArray[np.complex64], whole: Pattern) -> NDArray[np.complex64]:
    """A seed, its middle at [0, 0, 0]."""
    if density.shape != whole.target.shape:
        raise PhasingError(
            f"a seed has the shape {density.shape}, the amplitudes {whole.target.shape}; make them equal"
        )
    return fourier.corner(density.astype(np.complex64))
