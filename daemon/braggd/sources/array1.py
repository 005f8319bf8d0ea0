"""PSI's `array-1.0`: a JSON header and a blob; no start, no end, and one unending series per source.

Older senders write `htype` as a list, and the shape reversed, [x, y].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from braggd import compression
from braggd.data import Corrupt, Event, Frame
from braggd.errors import StreamError
from braggd.sources import fields
from braggd.sources.simplon_v1 import Part

HTYPE: Final = "array-1.0"
_ENCODINGS: Final = {"": "none", "raw": "none", "bitshuffle_lz4": "bslz4"}


def is_array1(header: Mapping[str, Any]) -> bool:
    """Whether a JSON header announces such an array."""
    htype = header.get("htype")
    return htype == HTYPE or (isinstance(htype, list) and HTYPE in htype)


def decode(header: Mapping[str, Any], parts: Sequence[Part]) -> Event:
    """The frame of a message; what breaks the protocol becomes a Corrupt event."""
    series = fields.text(header.get("series")) or fields.text(header.get("source")) or "0"
    try:
        if type(header.get("series")) is int:
            series = fields.series(header, "series")
        return _frame(header, parts, series)
    except StreamError as error:
        return Corrupt(reason=str(error), series=series, index=_index(header))


def _frame(header: Mapping[str, Any], parts: Sequence[Part], series: str) -> Frame:
    if len(parts) < 2:
        raise StreamError("an array needs 2 parts, and 1 came")
    encoding = fields.text(header.get("encoding"))
    encoding = _ENCODINGS.get(encoding, encoding)
    if not compression.is_known(encoding):
        raise StreamError(f"encoding {fields.shown(header.get('encoding'))} is unknown")
    sides = header.get("shape")
    if isinstance(header.get("htype"), list) and isinstance(sides, list):
        sides = sides[::-1]
    return Frame(
        series=series,
        index=fields.integer(header, "frame"),
        shape=fields.shape(sides),
        dtype=fields.pixel_type(header.get("type"), ">" if header.get("endianness") == "big" else "<"),
        encoding=encoding,
        payload=parts[1],
    )


def _index(header: Mapping[str, Any]) -> int | None:
    try:
        return fields.optional_integer(header, "frame")
    except StreamError:
        return None
