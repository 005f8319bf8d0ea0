"""DECTRIS SIMPLON stream, version 1: JSON headers and blobs in ZMQ multipart messages.

A header is one part, followed by its configuration (`header_detail` basic and all) and by pairs of header and blob for
flat field, pixel mask and count-rate table (all). An image is a header, its layout, a blob and its times. Either may
end in an appendix of the user's. Shapes are [x, y]. The simulator of tickit-devices glues header and first image into
one message, so parts are read one after another rather than counted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from braggd import compression
from braggd.data import Corrupt, Event, Frame, SeriesEnd, SeriesStart
from braggd.errors import StreamError
from braggd.sources import fields

Part = bytes | memoryview

_MESSAGES: Final = ("dheader-", "dimage-", "dseries_end-")
_TABLES: Final = ("dflatfield-", "flatfield-", "dpixelmask-", "pixelmask-", "dcountrate", "countrate")
_LARGEST_JSON: Final = 1 << 24


def decode(parts: Sequence[Part]) -> list[Event]:
    """The events of a multipart message; what breaks the protocol becomes a Corrupt event."""
    events: list[Event] = []
    position = 0
    while position < len(parts):
        header = _json(parts[position])
        try:
            event, position = _decode_one(header, parts, position)
        except StreamError as error:
            event = Corrupt(reason=str(error), series=_series(header), index=_index(header))
            position = _next_message(parts, position + 1)
        events.append(event)
    return events


def _decode_one(header: Mapping[str, Any], parts: Sequence[Part], position: int) -> tuple[Event, int]:
    htype = fields.text(header.get("htype"))
    if htype.startswith("dimage-"):
        return _image(header, parts, position)
    if htype.startswith("dheader-"):
        return _start(header, parts, position)
    if htype.startswith("dseries_end-"):
        return SeriesEnd(series=fields.series(header, "series")), _next_message(parts, position + 1)
    raise StreamError(f"htype {fields.shown(header.get('htype'))} is not one of a SIMPLON v1 stream")


def _image(header: Mapping[str, Any], parts: Sequence[Part], position: int) -> tuple[Event, int]:
    if len(parts) < position + 3:
        raise StreamError(f"an image needs 4 parts, and {len(parts) - position} came")
    layout = _json(parts[position + 1])
    encoding = fields.text(layout.get("encoding"))
    if not compression.is_known(encoding):
        raise StreamError(f"encoding {fields.shown(layout.get('encoding'))} is unknown")
    columns, rows = _sides(layout)
    frame = Frame(
        series=fields.series(header, "series"),
        index=fields.integer(header, "frame"),
        shape=fields.shape((rows, columns)),
        dtype=fields.pixel_type(layout.get("type"), encoding[-1]),
        encoding=encoding,
        payload=parts[position + 2],
    )
    return frame, _next_message(parts, position + 3)


def _start(header: Mapping[str, Any], parts: Sequence[Part], position: int) -> tuple[Event, int]:
    series = fields.series(header, "series")
    position += 1
    config: Mapping[str, Any] = {}
    if position < len(parts) and header.get("header_detail") != "none":
        candidate = _json(parts[position])
        if candidate and "htype" not in candidate:
            config, position = candidate, position + 1
    mask, warnings, position = _tables(parts, position)
    frames = _frames(config)
    event = SeriesStart(
        series=series,
        frames_expected=frames,
        shape=_shape(config),
        pixel_mask=mask,
        saturation=fields.positive(config.get("saturation_value", config.get("countrate_correction_count_cutoff"))),
        detector=fields.text(config.get("description")),
        geometry=fields.geometry(
            energy_ev=config.get("photon_energy", config.get("incident_energy")),
            distance_m=_distance(config),
            pixel_y_m=config.get("y_pixel_size"),
            pixel_x_m=config.get("x_pixel_size"),
            axes=_axes(config),
            frames=frames,
        ),
        warnings=warnings,
    )
    return event, _next_message(parts, position)


def _tables(parts: Sequence[Part], position: int) -> tuple[NDArray[np.uint32] | None, tuple[str, ...], int]:
    """Read the pairs of header and blob that `header_detail` all adds, and keep the pixel mask."""
    mask: NDArray[np.uint32] | None = None
    warnings: tuple[str, ...] = ()
    while position < len(parts):
        header = _json(parts[position])
        htype = fields.text(header.get("htype"))
        if not htype.startswith(_TABLES):
            break
        if "pixelmask" in htype:
            try:
                mask = _mask(header, parts[position + 1 : position + 2])
            except StreamError as error:
                warnings = (f"the stream's pixel mask cannot be read: {error}",)
        position += 2
    return mask, warnings, position


def _mask(header: Mapping[str, Any], blobs: Sequence[Part]) -> NDArray[np.uint32]:
    if not blobs:
        raise StreamError("its blob did not come")
    blob = blobs[0]
    columns, rows = _sides(header)
    shape = fields.shape((rows, columns))
    encoding = fields.text(header.get("encoding")) or "<"
    dtype = fields.pixel_type(header.get("type", "uint32"), encoding[-1])
    if encoding == "<" and len(blob) != rows * columns * dtype.itemsize:
        blob = from_base64(blob)
    frame = Frame(series="mask", index=0, shape=shape, dtype=dtype, encoding=encoding, payload=blob)
    return compression.decompress(frame).astype(np.uint32)


def from_base64(blob: Part) -> Part:
    """Blobs that some senders write as base64; others come back as they are."""
    try:
        return base64.b64decode(bytes(blob), validate=True)
    except binascii.Error:
        return blob


def _frames(config: Mapping[str, Any]) -> int | None:
    images = fields.optional_integer(config, "nimages")
    triggers = fields.optional_integer(config, "ntrigger")
    return None if images is None else images * (1 if triggers is None else triggers)


def _shape(config: Mapping[str, Any]) -> tuple[int, int] | None:
    sides = config.get("y_pixels_in_detector"), config.get("x_pixels_in_detector")
    return None if None in sides else fields.shape(sides)


def _distance(config: Mapping[str, Any]) -> Any:
    translation = config.get("detector_translation")
    if fields.positive(config.get("detector_distance")) is None and isinstance(translation, Sequence) and translation:
        return translation[-1]
    return config.get("detector_distance")


def _axes(config: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    names = [name.removesuffix("_start") for name in config if name.endswith("_start")]
    return {
        name: (config[f"{name}_start"], config[f"{name}_increment"]) for name in names if f"{name}_increment" in config
    }


def _sides(header: Mapping[str, Any]) -> tuple[Any, Any]:
    sides = header.get("shape")
    if not isinstance(sides, list) or len(sides) != 2:
        raise StreamError(f"shape is {fields.shown(sides)} instead of [x, y]")
    return sides[0], sides[1]


def _next_message(parts: Sequence[Part], position: int) -> int:
    """Skip times and appendices: the position of the next part that begins a message."""
    while position < len(parts) and not fields.text(_json(parts[position]).get("htype")).startswith(_MESSAGES):
        position += 1
    return position


def _json(part: Part) -> Mapping[str, Any]:
    """A part as a JSON object, empty where it is something else."""
    if len(part) > _LARGEST_JSON or bytes(part[:1]) != b"{":
        return {}
    try:
        found = msgspec.json.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _series(header: Mapping[str, Any]) -> str | None:
    try:
        return fields.series(header, "series")
    except StreamError:
        return None


def _index(header: Mapping[str, Any]) -> int | None:
    try:
        return fields.optional_integer(header, "frame")
    except StreamError:
        return None
