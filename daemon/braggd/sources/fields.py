"""Values out of headers that others wrote: checked, converted to SI or to braggd's units, or refused in a sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from braggd.data import Geometry
from braggd.errors import StreamError

MAX_PIXELS: Final = 1 << 28
MAX_STEPS: Final = 1 << 20
_MAX_INTEGER: Final = (1 << 63) - 1
_MAX_NAME: Final = 100
_PIXEL_TYPES: Final = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float32", "float64")


def integer(header: Mapping[str, Any], name: str, lowest: int = 0) -> int:
    """A whole number of a header; raises StreamError where it is missing or anything else."""
    value = header.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= _MAX_INTEGER:
        raise StreamError(f"field {name!r} is {shown(value)} instead of a whole number of at least {lowest}")
    return value


def optional_integer(header: Mapping[str, Any], name: str, lowest: int = 0) -> int | None:
    """A whole number of a header, None where it is missing."""
    return None if header.get(name) is None else integer(header, name, lowest)


def number(value: Any) -> float | None:
    """A finite number, or a ratio written [numerator, denominator]; None for anything else."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes) and len(value) == 2:
        above, below = number(value[0]), number(value[1])
        return above / below if above is not None and below else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        value = float(value)
    except OverflowError:
        return None
    return value if math.isfinite(value) else None


def positive(value: Any) -> float | None:
    """A finite number above zero, None for anything else."""
    found = number(value)
    return found if found is not None and found > 0 else None


def series(header: Mapping[str, Any], name: str) -> str:
    """The number of a series, as text; raises StreamError where there is none."""
    value = header.get(name)
    if isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable():
        return value
    return str(integer(header, name))


def text(value: Any) -> str:
    """A short text, empty for anything else."""
    return value if isinstance(value, str) and len(value) <= _MAX_NAME and value.isprintable() else ""


def shape(sides: Any) -> tuple[int, int]:
    """(rows, columns) out of a list of two; raises StreamError where they cannot be those of a frame."""
    if not isinstance(sides, Sequence) or isinstance(sides, str | bytes) or len(sides) != 2:
        raise StreamError(f"shape is {shown(sides)} instead of two numbers")
    rows, columns = (integer({"shape": side}, "shape", 1) for side in sides)
    if rows * columns > MAX_PIXELS:
        raise StreamError(f"shape {rows} x {columns} is larger than any detector")
    return rows, columns


def pixel_type(name: Any, byte_order: str = "<") -> np.dtype[Any]:
    """A numpy type by its name; raises StreamError for what no detector sends."""
    if not isinstance(name, str) or name not in _PIXEL_TYPES:
        raise StreamError(f"pixel type {shown(name)} is unknown")
    return np.dtype(name).newbyteorder("<" if byte_order == "<" else ">")


def shown(value: Any) -> str:
    """A value of unknown size, for a sentence."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > _MAX_INTEGER:
        return "a huge number"
    if isinstance(value, bool | int | float | str | type(None)):
        found = repr(value)
        return found if len(found) <= 60 else f"{found[:60]}..."
    return f"a {type(value).__name__}"


def geometry(
    *,
    energy_ev: Any,
    distance_m: Any,
    pixel_y_m: Any,
    pixel_x_m: Any,
    axes: Mapping[str, tuple[Any, Any]],
    frames: int | None,
) -> Geometry:
    """What a header tells of the geometry; what it does not tell, or tells wrongly, stays unknown.

    axes: (start, increment) in degrees by motor; the one that moves (most, if several do) is the rocked one
    """
    energy, pitch = positive(energy_ev), (positive(pixel_y_m), positive(pixel_x_m))
    distance = number(distance_m)
    known = {
        text(name): (start, number(increment) or 0.0)
        for name, (first, increment) in axes.items()
        if text(name) and (start := number(first)) is not None
    }
    rocked = max(known, key=lambda name: abs(known[name][1]), default="")
    if not rocked or known[rocked][1] == 0:
        rocked = ""
    steps = range(frames) if rocked and frames is not None and frames <= MAX_STEPS else range(0)
    return Geometry(
        energy_kev=energy / 1000 if energy else None,
        distance_m=abs(distance) if distance else None,
        pixel_size_m=(pitch[0], pitch[1]) if pitch[0] and pitch[1] else None,
        angles_deg={name: start for name, (start, _) in known.items() if name != rocked},
        rocking_motor=rocked,
        rocking_deg=tuple(known[rocked][0] + step * known[rocked][1] for step in steps),
    )
