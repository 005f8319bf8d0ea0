"""What several runs have in common: their decomposition into orthogonal modes, the strongest being the merged object.

Favre-Nicolin, Leake & Chushkin, Sci. Rep. 10, 2664 (2020), doi:10.1038/s41598-020-57561-2
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from braggd.errors import PhasingError
from braggd.phasing.align import align

Complex3 = NDArray[np.complex64]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Modes:
    """Orthogonal modes of several runs, the strongest first.

    densities: (z, y, x) complex64 each; the sum of their |density|^2 is the mean of the runs' at every voxel, so
        that where all runs agree, the first one is the object, on its own scale
    weights: the share of the intensity that is in each mode, falling, sum 1; the first one says how well runs agree
    """

    densities: tuple[Complex3, ...]
    weights: tuple[float, ...]


def aligned(densities: Sequence[Complex3], reference: int = 0) -> tuple[Complex3, ...]:
    """Lay all runs over one of them: twins, shifts, phase ramps and global phases removed; the same order.

    densities: (z, y, x) complex64, the middle of each near the array's
    reference: index of the run that stays as it is, the best one

    Raises PhasingError where there are no runs, their shapes differ, or there is no such reference.
    """
    _check(densities, reference)
    over = densities[reference]
    return tuple(run if i == reference else align(over, run).density for i, run in enumerate(densities))


def decompose(densities: Sequence[Complex3], reference: int | None = 0) -> Modes:
    """Decompose runs into modes by the singular value decomposition of the matrix (runs, voxels).

    densities: (z, y, x) complex64, the middle of each near the array's
    reference: index of the run that the others are laid over; None where they are aligned already
    The phase of the first mode is that of the reference (of the first run for None).

    Raises PhasingError where there are no runs, their shapes differ, there is no such reference, or all are empty.
    """
    _check(densities, reference or 0)
    runs = densities if reference is None else aligned(densities, reference)
    # The Gram matrix of the few runs has the same modes as the matrix of all voxels, and no copy of these is needed.
    gram = np.array([[_inner(one, other) for other in runs] for one in runs])
    if not np.isfinite(gram).all() or np.trace(gram).real <= 0:
        raise PhasingError("the runs to be merged are empty or hold NaN; leave out those that diverged or collapsed")
    values, vectors = np.linalg.eigh(gram)
    order = np.argsort(values)[::-1]
    strengths = np.maximum(values[order], 0)
    modes = [_mixed(runs, vectors[:, k]) for k in order]
    overlap = _inner(runs[reference or 0], modes[0])
    modes[0] = (modes[0] * np.exp(-1j * np.angle(overlap))).astype(np.complex64)
    return Modes(densities=tuple(modes), weights=tuple(float(s) for s in strengths / strengths.sum()))


def _mixed(runs: Sequence[Complex3], coefficients: NDArray[np.complex128]) -> Complex3:
    """A unit vector's mixture of the runs; by 1 / sqrt(number), the modes have the intensity of one run together."""
    mixture = np.zeros(runs[0].shape, np.complex64)
    for run, coefficient in zip(runs, coefficients / np.sqrt(len(runs)), strict=True):
        mixture += np.complex64(coefficient) * run
    return mixture


def _inner(one: Complex3, other: Complex3) -> np.complex128:
    """The scalar product, conjugate-linear in `one`; float32 sums of many voxels would lose the weak modes."""
    return np.complex128(np.einsum("zyx,zyx->", one.conj(), other, dtype=np.complex128))


def _check(densities: Sequence[Complex3], reference: int) -> None:
    if not densities:
        raise PhasingError("there are no runs to merge; phase with one start at least")
    shapes = {run.shape for run in densities}
    if len(shapes) > 1:
        raise PhasingError(f"the runs to be merged have the shapes {sorted(shapes)}; phase all on the same grid")
    if not 0 <= reference < len(densities):
        raise PhasingError(f"run {reference} cannot be the reference of {len(densities)} runs; name one from 0 on")
