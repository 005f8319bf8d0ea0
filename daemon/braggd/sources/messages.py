"""From the parts of a ZMQ message to events, whichever protocol they speak.

Each message is understood by itself, so that a client may start to listen midway.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import msgspec

from braggd.data import Corrupt, Event
from braggd.sources import array1, simplon_v1, simplon_v2

Part = simplon_v1.Part

_BROKEN: Final = (ArithmeticError, LookupError, TypeError, ValueError, RecursionError, MemoryError)
_log = logging.getLogger(__name__)


def decode(parts: Sequence[Part]) -> list[Event]:
    """The events of one message: SIMPLON v1 (JSON), SIMPLON v2 (CBOR) or array-1.0.

    Never raises: what breaks its protocol becomes a Corrupt event, with series and index where they can be read.
    """
    if not parts:
        return [Corrupt(reason="a message came without parts")]
    try:
        return _decode(parts)
    except _BROKEN as error:
        _log.debug("a message cannot be understood", exc_info=True)
        return [Corrupt(reason=f"the message cannot be understood ({type(error).__name__})")]


def _decode(parts: Sequence[Part]) -> list[Event]:
    if bytes(parts[0][:1]) != b"{":
        return [simplon_v2.decode(part) for part in parts]
    if len(parts) <= 2 and b"array-1.0" in bytes(parts[0][:4096]):
        try:
            header = msgspec.json.decode(parts[0])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return [Corrupt(reason="the header is not readable as JSON")]
        if array1.is_array1(header):
            return [array1.decode(header, parts)]
    return simplon_v1.decode(parts)
