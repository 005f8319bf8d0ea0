"""Classical ways to fill a gap, to be compared with: along the lines across it, and braggd's own interpolation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from braggd.inference.interpolate import interpolate

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Filler = Callable[[Floats, Bools], Floats]

# A spline is steered by what is near.
_NEAR = 12


def fillers() -> dict[str, Filler]:
    """All of them by name; each takes counts (step, row, column) and pixels (row, column) bool, True where measured."""
    found: dict[str, Filler] = {"linear, all axes, log": _everywhere}
    for kind in ("linear", "cubic", "nearest"):
        found[f"{kind}, counts"] = _along(kind, logs=False)
        found[f"{kind}, log"] = _along(kind, logs=True)
    return found


def _everywhere(counts: Floats, pixels: Bools) -> Floats:
    return interpolate(counts, np.broadcast_to(pixels, counts.shape))


def _along(kind: str, *, logs: bool) -> Filler:
    def fill(counts: Floats, pixels: Bools) -> Floats:
        values = np.log1p(counts) if logs else counts.astype(np.float32)
        rows, columns = (np.asarray(~pixels.any(axis=axis)) for axis in (1, 0))
        by_rows = _across(values, rows, 1, kind)
        by_columns = _across(values, columns, 2, kind)
        # where gaps cross, each gap is first crossed by the other's lines
        crossed = np.add(_across(by_columns, rows, 1, kind), _across(by_rows, columns, 2, kind)) / 2
        filled = np.where(rows[:, None], by_rows, by_columns)
        filled = np.where(rows[:, None] & columns, crossed, filled)
        filled = np.maximum(np.expm1(filled) if logs else filled, 0)
        return np.where(pixels, counts, filled).astype(np.float32)

    return fill


def _across(values: Floats, missing: Bools, axis: int, kind: str) -> Floats:
    """Values with the missing planes along an axis filled from the others."""
    filled = values.copy()
    view = np.moveaxis(filled, axis, 0)
    places = np.flatnonzero(missing)
    for run in np.split(places, np.flatnonzero(np.diff(places) > 1) + 1) if places.size else []:
        known = np.flatnonzero(~missing)
        below, above = known[known < run[0]], known[known > run[-1]]
        if not (below.size and above.size):
            edge = below[-1] if below.size else above[0]
            view[run] = view[edge]
        elif kind == "nearest":
            view[run] = view[np.where(run - below[-1] <= above[0] - run, below[-1], above[0])]
        elif kind == "linear":
            share = ((run - below[-1]) / (above[0] - below[-1])).astype(np.float32)[:, None, None]
            view[run] = view[below[-1]] * (1 - share) + view[above[0]] * share
        else:
            near = np.concatenate([below[-_NEAR:], above[:_NEAR]])
            view[run] = CubicSpline(near, view[near])(run)
    return filled
