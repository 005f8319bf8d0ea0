"""Messages as a detector sends them: the inverse of `braggd.sources.messages.decode`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import cbor2
import msgspec
import numpy as np
from numpy.typing import NDArray

from braggd.data import Frame, Geometry, SeriesEnd, SeriesStart

Protocol = Literal["simplon-v1", "simplon-v2", "array-1.0"]
HeaderDetail = Literal["none", "basic", "all"]
Message = list[bytes]

_TYPED_ARRAYS: Final = {"u1": 64, ">u2": 65, ">u4": 66, ">u8": 67, "<u2": 69, "<u4": 70, "<u8": 71}
_TYPED_ARRAYS_SIGNED: Final = {"i1": 72, ">i2": 73, ">i4": 74, ">i8": 75, "<i2": 77, "<i4": 78, "<i8": 79}
_CHANNEL: Final = "threshold_1"
_BITSHUFFLE: Final = re.compile(r"bs\d+-lz4[<>]")


def start(event: SeriesStart, protocol: Protocol = "simplon-v2", header_detail: HeaderDetail = "all") -> Message:
    """The message that begins a series; empty for array-1.0, which has none.

    header_detail: "none" tells the series only (v1), "basic" leaves out the pixel mask
    """
    encoders: Mapping[str, Callable[[SeriesStart, HeaderDetail], Message]] = {
        "simplon-v1": _start_v1,
        "simplon-v2": _start_v2,
    }
    return encoders[protocol](event, header_detail) if protocol in encoders else []


def image(frame: Frame, protocol: Protocol = "simplon-v2") -> Message:
    """The message of a frame, whose encoding must be one of the protocol's (`wire_encoding`)."""
    encoders = {"simplon-v1": _image_v1, "simplon-v2": _image_v2, "array-1.0": _image_array1}
    return encoders[protocol](frame)


def end(event: SeriesEnd, protocol: Protocol = "simplon-v2") -> Message:
    """The message that ends a series; empty for array-1.0, which has none."""
    if protocol == "simplon-v1":
        return [msgspec.json.encode({"htype": "dseries_end-1.0", "series": int(event.series)})]
    if protocol == "simplon-v2":
        return [_cbor({"type": "end", **_series_v2(event.series)})]
    return []


def wire_encoding(encoding: str, protocol: Protocol, dtype: np.dtype[Any]) -> str:
    """What a protocol calls an encoding; `encoding` is one of "none", "lz4", "bslz4", or a name of v1."""
    if protocol == "simplon-v1":
        names = {"none": "<", "lz4": "lz4<", "bslz4": f"bs{8 * dtype.itemsize}-lz4<"}
        return names.get(encoding, encoding)
    if _BITSHUFFLE.fullmatch(encoding):
        return "bslz4"
    return {"<": "none", ">": "none", "lz4<": "lz4", "lz4>": "lz4"}.get(encoding, encoding)


def _start_v1(event: SeriesStart, header_detail: HeaderDetail) -> Message:
    header = {"htype": "dheader-1.0", "series": int(event.series), "header_detail": header_detail}
    message = [msgspec.json.encode(header)]
    if header_detail != "none":
        message.append(msgspec.json.encode(_config_v1(event)))
    if header_detail == "all" and event.pixel_mask is not None:
        rows, columns = event.pixel_mask.shape
        tables: tuple[tuple[str, NDArray[Any]], ...] = (
            ("dflatfield-1.0", np.ones((rows, columns), "<f4")),
            ("dpixelmask-1.0", event.pixel_mask.astype("<u4")),
            ("dcountrate_table-1.0", np.zeros((2, 1000), "<f4")),
        )
        for htype, table in tables:
            shape, kind = table.shape[::-1], table.dtype.name
            message += [msgspec.json.encode({"htype": htype, "shape": shape, "type": kind}), table.tobytes()]
    return message


def _config_v1(event: SeriesStart) -> dict[str, Any]:
    geometry = event.geometry
    config: dict[str, Any] = {"description": event.detector, "nimages": event.frames_expected, "ntrigger": 1}
    if event.shape:
        config |= {"y_pixels_in_detector": event.shape[0], "x_pixels_in_detector": event.shape[1]}
    if geometry.pixel_size_m:
        config |= {"y_pixel_size": geometry.pixel_size_m[0], "x_pixel_size": geometry.pixel_size_m[1]}
    if geometry.energy_kev:
        config["photon_energy"] = 1000 * geometry.energy_kev
    config |= {"detector_distance": geometry.distance_m, "countrate_correction_count_cutoff": event.saturation}
    for name, (first, increment) in _axes(geometry).items():
        config |= {f"{name}_start": first, f"{name}_increment": increment}
    return {name: value for name, value in config.items() if value is not None}


def _start_v2(event: SeriesStart, header_detail: HeaderDetail) -> Message:
    geometry = event.geometry
    message: dict[str, Any] = {
        "type": "start",
        **_series_v2(event.series),
        "number_of_images": event.frames_expected,
        "channels": [_CHANNEL],
        "detector_description": event.detector,
        "saturation_value": event.saturation,
        "goniometer": {name: {"start": first, "increment": step} for name, (first, step) in _axes(geometry).items()},
    }
    if event.shape:
        message |= {"image_size_y": event.shape[0], "image_size_x": event.shape[1]}
    if geometry.pixel_size_m:
        message |= {"pixel_size_y": geometry.pixel_size_m[0], "pixel_size_x": geometry.pixel_size_m[1]}
    if geometry.energy_kev:
        message["incident_energy"] = 1000 * geometry.energy_kev
    if geometry.distance_m:
        message["detector_translation"] = [0.0, 0.0, geometry.distance_m]
    if header_detail == "all" and event.pixel_mask is not None:
        mask = event.pixel_mask.astype("<u4")
        message["pixel_mask"] = {_CHANNEL: _array(mask.shape, mask.dtype, mask.tobytes())}
    return [_cbor({name: value for name, value in message.items() if value is not None})]


def _image_v1(frame: Frame) -> Message:
    header = {"htype": "dimage-1.0", "series": int(frame.series), "frame": frame.index, "hash": ""}
    layout = {
        "htype": "dimage_d-1.0",
        "shape": frame.shape[::-1],
        "type": frame.dtype.name,
        "encoding": frame.encoding,
        "size": len(frame.payload),
    }
    times = {"htype": "dconfig-1.0", "start_time": 0, "stop_time": 0, "real_time": 0}
    return [msgspec.json.encode(header), msgspec.json.encode(layout), bytes(frame.payload), msgspec.json.encode(times)]


def _image_v2(frame: Frame) -> Message:
    content: Any = bytes(frame.payload)
    if frame.encoding != "none":
        content = cbor2.CBORTag(56500, [frame.encoding, frame.dtype.itemsize, content])
    message = {
        "type": "image",
        **_series_v2(frame.series),
        "image_id": frame.index,
        "real_time": [0, 1],
        "start_time": [0, 1],
        "stop_time": [0, 1],
        "data": {_CHANNEL: _array(frame.shape, frame.dtype, content)},
    }
    return [_cbor(message)]


def _image_array1(frame: Frame) -> Message:
    header = {
        "htype": "array-1.0",
        "shape": frame.shape,
        "type": frame.dtype.name,
        "endianness": "big" if frame.dtype.str[0] == ">" else "little",
        "frame": frame.index,
        "source": frame.series,
        "encoding": frame.encoding,
    }
    return [msgspec.json.encode(header), bytes(frame.payload)]


def _axes(geometry: Geometry) -> dict[str, tuple[float, float]]:
    """(start, increment) by motor; the wire knows even steps only."""
    axes = {name: (float(angle), 0.0) for name, angle in geometry.angles_deg.items()}
    positions = [float(position) for position in geometry.rocking_deg]
    if geometry.rocking_motor and positions:
        axes[geometry.rocking_motor] = positions[0], (positions[-1] - positions[0]) / max(1, len(positions) - 1)
    return axes


def _series_v2(series: str) -> dict[str, Any]:
    return {"series_id": int(series), "series_unique_id": f"braggd-{series}"}


def _array(shape: tuple[int, ...], dtype: np.dtype[Any], content: Any) -> cbor2.CBORTag:
    tags = _TYPED_ARRAYS | _TYPED_ARRAYS_SIGNED
    return cbor2.CBORTag(40, [list(shape), cbor2.CBORTag(tags[dtype.str.lstrip("|")], content)])


def _cbor(message: Mapping[str, Any]) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(55799, message))
