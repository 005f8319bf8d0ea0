"""What a Tango device shows of a result: scalars, curves, pictures and one volume.

Tango knows neither three dimensions nor complex numbers.
Every view is a mapping from attribute to value, None where the value is not known.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.data import Result, Stage, Status

STAGES = tuple(Stage)
METRICS = ("llk", "free_llk", "resolution_nm", "strain_rms", "support_voxels")
PLANES = ("xy", "xz", "yz")
PICTURED = ("modulus", "phase", "strain")
VOLUMES = ("modulus", "phase", "displacement", "strain", "support")
DATA_ARRAY = "DATA_ARRAY"

_HEADER = struct.Struct("<IHHIIHHHHHHHHIIIIIIQQII")
_MAGIC = 0x44544159
_VERSION = 4
_IMAGE_STACK = 4
_TYPES = {"uint8": 0, "float32": 8, "float64": 9}
# omniORB refuses messages above 64 MiB unless server and client are both told otherwise.
_LARGEST_VOLUME = (1 << 26) - (1 << 16)

View = Mapping[str, Any]


def status_view(status: Status) -> dict[str, Any]:
    """The scalars of a status, without the names of scan and stage."""
    return {
        "frames_received": status.frames_received,
        "frames_expected": status.frames_expected,
        "frames_lost": status.frames_lost,
        "progress": status.progress,
        "queue_depth": status.queue_depth,
        "latency_s": _finite(status.latency_s),
        "provider": status.provider or None,
    }


def result_view(result: Result) -> dict[str, Any]:
    """Everything but the volume: rocking curve and summed frame of a live result, metrics and slices of a later one.

    A slice is float32 through the crystal's centre of mass: xy is (y, x), xz is (z, x), yz is (z, y).
    """
    arrays = {array.name: array.data for array in result.arrays}
    if result.stage is Stage.LIVE:
        return {
            name: np.ascontiguousarray(arrays[name], np.float32)
            for name, dimensions in (("rocking_curve", 1), ("frame_sum", 2))
            if name in arrays and arrays[name].ndim == dimensions
        }
    volumes = volumes_of(result)
    view: dict[str, Any] = {name: _finite(result.metrics.get(name, math.nan)) for name in METRICS}
    if view["support_voxels"] is not None:
        view["support_voxels"] = round(view["support_voxels"])
    centre = _centre(volumes)
    for name in PICTURED:
        slices = central_slices(volumes[name], centre) if name in volumes and centre else {}
        view |= {f"{name}_{plane}": slices.get(plane) for plane in PLANES}
    return view


def volumes_of(result: Result) -> dict[str, NDArray[Any]]:
    """The real (z, y, x) arrays of a result, by name; modulus and phase are taken from the density if need be."""
    found = {array.name: array.data for array in result.arrays if array.name in VOLUMES and array.data.ndim == 3}
    density = next((array.data for array in result.arrays if array.name == "density" and array.data.ndim == 3), None)
    if density is not None and "modulus" not in found:
        complex_density = density.astype(np.complex64)
        found |= {"modulus": np.abs(complex_density), "phase": np.angle(complex_density)}
    return found


def central_slices(volume: NDArray[Any], centre: tuple[int, int, int]) -> dict[str, NDArray[np.float32]]:
    """The three planes of a (z, y, x) volume through a voxel, by name."""
    z, y, x = centre
    planes = {"xy": volume[z], "xz": volume[:, y], "yz": volume[:, :, x]}
    return {name: np.ascontiguousarray(plane, np.float32) for name, plane in planes.items()}


def encode_volume(volume: NDArray[Any]) -> tuple[str, bytes] | None:
    """A (z, y, x) volume as LImA's DATA_ARRAY, version 4: an image stack, dimensions and steps (bytes) from x to z.

    None where it is larger than CORBA carries.

    LImA, Tango server, DevEncoded DATA_ARRAY.
    """
    kind = volume.dtype.name if volume.dtype.name in _TYPES else "float32"
    data = np.ascontiguousarray(volume, np.dtype(kind).newbyteorder("<"))
    if data.nbytes > _LARGEST_VOLUME:
        return None
    dimensions = [*data.shape[::-1], 0, 0, 0]
    steps = [*data.strides[::-1], 0, 0, 0]
    header = _HEADER.pack(
        _MAGIC, _VERSION, _HEADER.size, _IMAGE_STACK, _TYPES[kind], 0, 3, *dimensions, *steps, 0, 0, 0, 0
    )
    return DATA_ARRAY, header + data.tobytes()


def _centre(volumes: Mapping[str, NDArray[Any]]) -> tuple[int, int, int] | None:
    modulus, support = volumes.get("modulus"), volumes.get("support")
    # The support may be in the detector's frame while the modulus is in the laboratory's.
    fits = support is not None and (modulus is None or support.shape == modulus.shape)
    weights = support if fits and support is not None and support.any() else modulus
    if weights is None or not weights.size:
        return None
    centre = []
    for axis in range(3):
        profile: NDArray[np.float64] = np.asarray(weights.sum(axis=tuple({0, 1, 2} - {axis}), dtype=np.float64))
        total = profile.sum()
        place = profile @ np.arange(len(profile)) / total if total > 0 and math.isfinite(total) else len(profile) // 2
        centre.append(min(round(place), len(profile) - 1))
    return centre[0], centre[1], centre[2]


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
