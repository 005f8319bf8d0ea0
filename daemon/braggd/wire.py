"""How results and status look on the wire; what every client in any language has to know.

A result is a multipart message: the topic `scan_id/stage`, a JSON header, then one buffer per array, raw,
little-endian, in C order. A status is the topic `status` and a JSON body. JSON has no NaN: a number that is not
known is null there, and NaN here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from braggd.data import Geometry, NamedArray, Result, Stage, Status
from braggd.errors import ClientError, OutletError

SCHEMA = "braggd/1"
STATUS_TOPIC = b"status"

Part = bytes | memoryview


class ArrayHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a client needs to read one buffer.

    dtype: numpy's name ("float32", "complex64", "uint8", "bool"); the buffer is little-endian
    shape: in elements, slowest axis first
    axes: one name per dimension
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    unit: str = ""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The second part of a result; fields that a newer daemon may add are ignored."""

    schema: str
    scan_id: str
    stage: Stage
    metrics: dict[str, float | None] = {}
    warnings: tuple[str, ...] = ()
    geometry: dict[str, Any] = {}
    timing: dict[str, float | None] = {}
    arrays: tuple[ArrayHeader, ...] = ()


def topic(scan_id: str, stage: str) -> bytes:
    """The first part of a result."""
    return f"{scan_id}/{stage}".encode()


def pack(result: Result) -> list[Part]:
    """A result as message parts; contiguous little-endian arrays are not copied.

    Raises OutletError where an array holds something else than numbers.
    """
    arrays = [_little_endian(array) for array in result.arrays]
    header = Header(
        schema=SCHEMA,
        scan_id=result.scan_id,
        stage=result.stage,
        metrics=_json_numbers(result.metrics),
        warnings=tuple(result.warnings),
        geometry=msgspec.to_builtins(result.geometry),
        timing=_json_numbers(result.timing),
        arrays=tuple(
            ArrayHeader(name=array.name, dtype=data.dtype.name, shape=data.shape, axes=array.axes, unit=array.unit)
            for array, data in zip(result.arrays, arrays, strict=True)
        ),
    )
    buffers = [data.reshape(-1).view(np.uint8).data for data in arrays]
    return [topic(result.scan_id, result.stage), msgspec.json.encode(header), *buffers]


def unpack(parts: Sequence[Part]) -> Result:
    """A result from message parts; its arrays are read-only views of them.

    Raises ClientError where the parts are no result of this schema.
    """
    if len(parts) < 2:
        raise ClientError(f"a message of {len(parts)} part is no result; is this the endpoint of a braggd?")
    try:
        header = msgspec.json.decode(parts[1], type=Header)
        geometry = _geometry(header.geometry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClientError(
            f"the header of a result cannot be read ({error}); is this the endpoint of a braggd?"
        ) from error
    if header.schema != SCHEMA:
        raise ClientError(f"a result has the schema {header.schema!r}, not {SCHEMA!r}; install the daemon's version")
    if len(header.arrays) != len(parts) - 2:
        raise ClientError(f"{header.scan_id}: {len(header.arrays)} arrays are announced, {len(parts) - 2} came")
    return Result(
        scan_id=header.scan_id,
        stage=header.stage,
        arrays=tuple(_array(array, part) for array, part in zip(header.arrays, parts[2:], strict=True)),
        metrics=_numbers(header.metrics),
        warnings=header.warnings,
        geometry=geometry,
        timing=_numbers(header.timing),
    )


def pack_status(status: Status) -> list[Part]:
    """A status as message parts."""
    return [STATUS_TOPIC, msgspec.json.encode(status)]


def unpack_status(body: Part) -> Status:
    """A status from its JSON body.

    Raises ClientError where it is something else.
    """
    try:
        fields = msgspec.json.decode(body, type=dict[str, Any])
        return msgspec.convert({name: value for name, value in fields.items() if value is not None}, Status)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ClientError(f"a status cannot be read ({error}); is this the endpoint of a braggd?") from error


def _little_endian(array: NamedArray) -> np.ndarray[Any, np.dtype[Any]]:
    data = np.asarray(array.data)
    if data.dtype.kind not in "biufc":
        raise OutletError(f"array {array.name}: {data.dtype} cannot be sent; only numbers can")
    if len(array.axes) != data.ndim:
        raise OutletError(f"array {array.name}: {len(array.axes)} axes are named, but it has {data.ndim}")
    # ascontiguousarray would turn a scalar into a vector.
    return np.asarray(data, dtype=data.dtype.newbyteorder("<"), order="C")


def _array(header: ArrayHeader, part: Part) -> NamedArray:
    try:
        dtype = np.dtype(header.dtype).newbyteorder("<")
        data = np.frombuffer(part, dtype) if memoryview(part).nbytes else np.empty(0, dtype)
        data = data.reshape(header.shape)
    except (TypeError, ValueError) as error:
        raise ClientError(f"array {header.name}: its buffer is no {header.dtype} {header.shape} ({error})") from error
    data.flags.writeable = False
    return NamedArray(name=header.name, data=data, axes=header.axes, unit=header.unit)


def _geometry(fields: Mapping[str, Any]) -> Geometry:
    known = {name: value for name, value in fields.items() if name in Geometry.__struct_fields__ and value is not None}
    if "rocking_deg" in known:
        known["rocking_deg"] = [math.nan if angle is None else angle for angle in known["rocking_deg"]]
    if "angles_deg" in known:
        known["angles_deg"] = {name: angle for name, angle in known["angles_deg"].items() if angle is not None}
    return msgspec.convert(known, Geometry)


def _json_numbers(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if math.isfinite(value) else None for name, value in values.items()}


def _numbers(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: math.nan if value is None else value for name, value in values.items()}
