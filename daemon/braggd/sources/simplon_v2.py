"""DECTRIS SIMPLON stream, version 2: one CBOR map per message.

Arrays are multi-dimensional (tag 40 row-major, 1040 column-major) around typed arrays (tags 64..87, RFC 8746) around
the bytes, which may be compressed (tag 56500: algorithm, element size, bytes). Shapes are [y, x].
Where a detector has several thresholds, the first is taken: threshold_1, or else the first in the message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import cbor2
import numpy as np
from numpy.typing import NDArray

from braggd import compression
from braggd.data import Corrupt, Event, Frame, SeriesEnd, SeriesStart
from braggd.errors import StreamError
from braggd.sources import fields
from braggd.sources.simplon_v1 import Part, from_base64

_CHANNEL: Final = "threshold_1"
_ROW_MAJOR, _COLUMN_MAJOR, _COMPRESSED, _SELF_DESCRIBED = 40, 1040, 56500, 55799
_MAX_DEPTH: Final = 32
_UNUSED_TAGS: Final = (0, 1, 4, 5, 30, 35, 36, 37, 100, 260, 261, 1004)
_AS_THEY_ARE: Final = {tag: lambda value, immutable: value for tag in _UNUSED_TAGS}


def decode(part: Part) -> Event:
    """The event of a message; what breaks the protocol becomes a Corrupt event."""
    message: Mapping[str, Any] = {}
    try:
        message = _map(part)
        return _decode_one(message)
    except StreamError as error:
        return Corrupt(reason=str(error), series=_series(message), index=_index(message))


def _map(part: Part) -> Mapping[str, Any]:
    try:
        found = cbor2.loads(part, semantic_decoders=_AS_THEY_ARE, max_depth=_MAX_DEPTH, strict_hashable_types=True)
    except (cbor2.CBORDecodeError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise StreamError(f"the message is not readable as CBOR ({fields.shown(str(error))})") from error
    if isinstance(found, cbor2.CBORTag) and found.tag == _SELF_DESCRIBED:
        found = found.value
    if not isinstance(found, Mapping):
        raise StreamError("the message is not a CBOR map")
    return found


def _decode_one(message: Mapping[str, Any]) -> Event:
    kind = message.get("type")
    if kind == "image":
        return _image(message)
    if kind == "start":
        return _start(message)
    if kind == "end":
        return SeriesEnd(series=fields.series(message, _series_field(message)))
    raise StreamError(f"type {fields.shown(kind)} is not one of a SIMPLON v2 stream")


def _image(message: Mapping[str, Any]) -> Event:
    channels = message.get("data")
    if not isinstance(channels, Mapping) or not channels:
        raise StreamError("an image came without data")
    return _frame(
        channels[_first(channels)],
        series=fields.series(message, _series_field(message)),
        index=fields.integer(message, "image_id"),
    )


def _start(message: Mapping[str, Any]) -> Event:
    frames = fields.optional_integer(message, "number_of_images")
    triggers = fields.optional_integer(message, "ntrigger")
    if frames is not None and triggers is not None:
        frames *= triggers
    mask, warnings = _mask(message)
    translation = message.get("detector_translation")
    axes = message.get("goniometer")
    return SeriesStart(
        series=fields.series(message, _series_field(message)),
        frames_expected=frames,
        shape=_shape(message),
        pixel_mask=mask,
        saturation=fields.positive(message.get("saturation_value")),
        detector=fields.text(message.get("detector_description")),
        geometry=fields.geometry(
            energy_ev=message.get("incident_energy"),
            distance_m=translation[-1]
            if isinstance(translation, list | tuple) and translation
            else message.get("detector_distance"),
            pixel_y_m=message.get("pixel_size_y"),
            pixel_x_m=message.get("pixel_size_x"),
            axes=_axes(axes) if isinstance(axes, Mapping) else {},
            frames=frames,
        ),
        warnings=_threshold_warning(message) + warnings,
    )


def _axes(goniometer: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        name: (axis.get("start"), axis.get("increment"))
        for name, axis in goniometer.items()
        if isinstance(axis, Mapping)
    }


def _shape(message: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = message.get("image_size_y"), message.get("image_size_x")
    return None if None in sides else fields.shape(sides)


def _mask(message: Mapping[str, Any]) -> tuple[NDArray[np.uint32] | None, tuple[str, ...]]:
    """(row, column) uint32 mask of the first threshold, and what to say where there is one that cannot be read."""
    channels = message.get("pixel_mask")
    if not isinstance(channels, Mapping) or not channels:
        return None, ()
    value = channels[_first(channels)]
    try:
        if isinstance(value, bytes | str):
            value = _wrapped(message, value)
        frame = _frame(value, series="mask", index=0)
        return compression.decompress(frame).astype(np.uint32), ()
    except StreamError as error:
        return None, (f"the stream's pixel mask cannot be read: {error}",)


def _wrapped(message: Mapping[str, Any], value: bytes | str) -> cbor2.CBORTag:
    """A mask that came as bare or base64 bytes, as the array that it should have been."""
    shape = _shape(message)
    if shape is None:
        raise StreamError("it has no shape")
    raw = value.encode() if isinstance(value, str) else value
    if len(raw) != 4 * shape[0] * shape[1]:
        raw = bytes(from_base64(raw))
    return cbor2.CBORTag(_ROW_MAJOR, (shape, cbor2.CBORTag(70, raw)))


def _threshold_warning(message: Mapping[str, Any]) -> tuple[str, ...]:
    channels = message.get("channels")
    if not isinstance(channels, list | tuple) or len(channels) < 2:
        return ()
    taken = _CHANNEL if _CHANNEL in channels else fields.text(channels[0])
    return (f"the detector sends {len(channels)} thresholds, and {taken} is used",)


def _first(channels: Mapping[str, Any]) -> str:
    return _CHANNEL if _CHANNEL in channels else next(iter(channels))


def _frame(value: Any, *, series: str, index: int) -> Frame:
    """A frame out of a multi-dimensional array."""
    order, (sides, typed) = _pair(value, (_ROW_MAJOR, _COLUMN_MAJOR), "a 2-D array")
    if not isinstance(typed, cbor2.CBORTag):
        raise StreamError("an array has no type")
    dtype, content = _typed(typed.tag), typed.value
    encoding = "none"
    if isinstance(content, cbor2.CBORTag):
        encoding, content = _compressed(content, dtype)
    if not isinstance(content, bytes):
        raise StreamError("an array holds no bytes")
    frame = Frame(
        series=series, index=index, shape=fields.shape(sides), dtype=dtype, encoding=encoding, payload=content
    )
    return frame if order == _ROW_MAJOR else _row_major(frame)


def _pair(value: Any, tags: tuple[int, ...], what: str) -> tuple[int, tuple[Any, Any]]:
    if not isinstance(value, cbor2.CBORTag) or value.tag not in tags:
        raise StreamError(f"instead of {what}, {fields.shown(value)} came")
    if not isinstance(value.value, list | tuple) or len(value.value) != 2:
        raise StreamError(f"{what} is not a pair of shape and content")
    return value.tag, (value.value[0], value.value[1])


def _typed(tag: int) -> np.dtype[Any]:
    """The type of a typed array: RFC 8746, 2.1, tag bits 010_f_s_e_ll."""
    if not 64 <= tag <= 87:
        raise StreamError(f"tag {tag} is no typed array")
    length, little, signed, floating = tag & 3, tag >> 2 & 1, tag >> 3 & 1, tag >> 4 & 1
    if tag == 76 or (floating and length == 3):
        raise StreamError(f"pixels of the type of tag {tag} cannot be read")
    kind = f"f{2 << length}" if floating else f"{'i' if signed else 'u'}{1 << length}"
    return np.dtype(kind).newbyteorder("<" if little else ">")


def _compressed(tag: cbor2.CBORTag, dtype: np.dtype[Any]) -> tuple[str, Any]:
    """(encoding, bytes) of compressed bytes."""
    value = tag.value
    if tag.tag != _COMPRESSED or not isinstance(value, list | tuple) or len(value) != 3:
        raise StreamError(f"tag {tag.tag} is no compressed array")
    algorithm, element, content = value
    if algorithm == "bslz4" and element in (1, 2, 4, 8):
        return ("bslz4" if element == dtype.itemsize else f"bs{8 * element}-lz4<"), content
    if algorithm in ("lz4", "none"):
        return algorithm, content
    raise StreamError(f"compression {fields.shown(algorithm)} is unknown")


def _row_major(frame: Frame) -> Frame:
    """A frame whose columns came one after another, put in order; decoded, since there is no other way."""
    rows, columns = frame.shape
    turned = Frame(
        series=frame.series,
        index=frame.index,
        shape=(columns, rows),
        dtype=frame.dtype,
        encoding=frame.encoding,
        payload=frame.payload,
    )
    pixels = compression.decompress(turned).T
    return Frame(
        series=frame.series,
        index=frame.index,
        shape=frame.shape,
        dtype=pixels.dtype,
        encoding="none",
        payload=pixels.tobytes(),
    )


def _series_field(message: Mapping[str, Any]) -> str:
    return "series_id" if "series_id" in message else "series_unique_id"


def _series(message: Mapping[str, Any]) -> str | None:
    try:
        return fields.series(message, _series_field(message))
    except StreamError:
        return None


def _index(message: Mapping[str, Any]) -> int | None:
    try:
        return fields.optional_integer(message, "image_id")
    except StreamError:
        return None
