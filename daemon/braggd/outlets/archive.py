"""The archive: one CXI/NeXus file for each scan, and its raw frames beside it.

| place | holds |
| --- | --- |
| `/entry_1/image_1` | object in the detector frame: `data` complex64, `support`, `process_1` |
| `/entry_1/image_2` | crystal in the laboratory frame, where the geometry is known |
| `/entry_1/data_1` | counts as phased, `mask` (1 = not measured), `inpainted`, `region` |
| `/entry_1/instrument_1` | beam, detector and motors |
| `/entry_1/slice_1` | central slice of the modulus: what a viewer shows first |

A file is put together in memory, written under a temporary name, synced and renamed: a reader never sees half of one.

Maia, Nature Methods 9, 854 (2012), doi:10.1038/nmeth.2110; Könnecke et al., J. Appl. Cryst. 48, 301 (2015),
doi:10.1107/S1600576714027575
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import logging
import math
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from braggd.data import Crystal, Geometry, Reconstruction, Stage
from braggd.errors import OutletError
from braggd.outlets.files import replace_file

_log = logging.getLogger(__name__)
_JOULE_PER_KEV = 1.602176634e-16
_KEV_ANGSTROM = 12.398419843320026
_STAGES = tuple(Stage)
_FRAME = "z downstream along the beam, y up, x = y × z; arrays are (z, y, x)"


def write_archive(folder: Path, reconstruction: Reconstruction) -> Path:
    """Write `{folder}/{scan_id}.cxi`, and return its path.

    A file of the same scan is replaced, unless it holds a later stage: a reconstruction that begins anew never takes
    away an earlier final one before it has a better one to offer.

    Raises OutletError where the folder is missing, not writable or full; nothing is left behind then.
    """
    path = archive_path(folder, reconstruction.scan_id)
    if not folder.is_dir():
        raise OutletError(f"archive folder {folder} does not exist; make it, or name another under [archive]")
    present = _stage_of(path)
    if present is not None and _STAGES.index(present) > _STAGES.index(reconstruction.stage):
        _log.info("%s holds the stage %s and is kept", path, present)
        return path
    replace_file(path, _image(reconstruction))
    return path


def archive_path(folder: Path, scan_id: str) -> Path:
    """Where a scan's archive is.

    Raises OutletError for a name that would lie outside the folder.
    """
    if not scan_id or scan_id.startswith(".") or any(character in scan_id for character in "/\\\0"):
        raise OutletError(f"scan {scan_id!r} cannot be the name of a file; leave out slashes and leading dots")
    return folder / f"{scan_id}.cxi"


def read_summary(path: Path) -> dict[str, Any]:
    """What an archive holds besides its arrays, ready for JSON; numbers that are not finite are None.

    Keys: scan_id, stage, file, size_bytes, modified (ISO 8601, UTC), shape, region, voxel_size_nm, q_centre,
    metrics, warnings, timing, geometry, provenance. Raises OutletError where there is no such archive.
    """
    try:
        with h5py.File(path, "r", locking=False) as file:
            entry = file["entry_1"]
            process = entry["image_1/process_1"]
            laboratory = entry.get("image_2")
            summary = {
                **_brief(path, entry),
                "shape": list(entry["image_1/data"].shape),
                "region": entry["data_1/region"][()].tolist(),
                "voxel_size_nm": float(laboratory["voxel_size"][()]) if laboratory else None,
                "q_centre": laboratory["q_centre"][()].tolist() if laboratory else None,
                "metrics": {name: float(value[()]) for name, value in process["metrics"].items()},
                "warnings": [_text(warning) for warning in process["warnings"][()]],
                "timing": {name: float(value[()]) for name, value in process["timing"].items()},
                "geometry": json.loads(_text(entry["instrument_1/geometry"][()])),
                "provenance": json.loads(_text(process["provenance"][()])),
            }
    except (OSError, KeyError, ValueError) as error:
        raise OutletError(f"{path} is not a braggd archive ({error}); name a file that braggd wrote") from error
    return _finite(summary)  # type: ignore[no-any-return]


def list_archive(folder: Path) -> list[dict[str, Any]]:
    """The archives in a folder, newest first: scan_id, stage, file, size_bytes, modified.

    Files that braggd did not write are passed over. Raises OutletError where the folder cannot be read.
    """
    try:
        found = [(path.stat().st_mtime, path) for path in folder.glob("*.cxi") if not path.name.startswith(".")]
    except OSError as error:
        raise OutletError(f"archive folder {folder} cannot be read ({error.strerror}); check its rights") from error
    if not folder.is_dir():
        raise OutletError(f"archive folder {folder} does not exist; make it, or name another under [archive]")
    briefs = []
    for _, path in sorted(found, reverse=True):
        try:
            with h5py.File(path, "r", locking=False) as file:
                briefs.append(_brief(path, file["entry_1"]))
        except (OSError, KeyError):
            _log.warning("%s is not a braggd archive and is passed over", path)
    return briefs


def _brief(path: Path, entry: h5py.Group) -> dict[str, Any]:
    status = path.stat()
    return {
        "scan_id": _text(entry["scan_id"][()]),
        "stage": _text(entry["stage"][()]),
        "file": str(path),
        "size_bytes": status.st_size,
        "modified": datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC).isoformat(timespec="seconds"),
    }


def _stage_of(path: Path) -> Stage | None:
    """Stage of an archive, None where there is none that could be lost."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            return Stage(_text(file["entry_1/stage"][()]))
    except (OSError, KeyError, ValueError):
        return None


def _image(reconstruction: Reconstruction) -> bytes:
    """The file's bytes. HDF5 does not meet a full disk well, so that it never sees the disk."""
    with h5py.File("archive", "w", driver="core", backing_store=False, libver=("v108", "v110")) as file:
        file.attrs.update(
            NX_class="NXroot",
            default="entry_1",
            creator="braggd",
            creator_version=importlib.metadata.version("braggd"),
            file_time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )
        file["cxi_version"] = 160
        entry = _group(file, "entry_1", "NXentry", default="slice_1")
        entry["title"] = f"{reconstruction.scan_id}, {reconstruction.stage}"
        entry["scan_id"] = reconstruction.scan_id
        entry["stage"] = str(reconstruction.stage)
        entry["program_name"] = "braggd"
        _write_object(_group(entry, "image_1", "NXdata", signal="data"), reconstruction)
        _write_measured(_group(entry, "data_1", "NXdata", signal="data"), reconstruction)
        _write_instrument(_group(entry, "instrument_1", "NXinstrument"), reconstruction.geometry)
        if reconstruction.crystal is not None:
            _write_crystal(_group(entry, "image_2", "NXdata", signal="modulus"), reconstruction.crystal)
        _write_slice(_group(entry, "slice_1", "NXdata", signal="modulus"), reconstruction)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _write_object(group: h5py.Group, reconstruction: Reconstruction) -> None:
    data = _array(group, "data", reconstruction.density)
    data.attrs["long_name"] = "complex density, detector frame (rocking step, row, column)"
    support = _array(group, "support", reconstruction.support.astype(np.uint8))
    support.attrs["long_name"] = "support, 1 inside the crystal"
    group["data_space"] = "real"
    group["data_type"] = "electron density"
    group["is_fft_shifted"] = 0
    group["sign"] = "numpy's FFT of data is the measured wave"
    group["title"] = f"{reconstruction.scan_id}: object in the detector frame"

    process = _group(group, "process_1", "NXprocess")
    process["program"] = "braggd"
    process["version"] = importlib.metadata.version("braggd")
    process["sequence_index"] = 1 + _STAGES.index(reconstruction.stage)
    process["provenance"] = _json(dict(reconstruction.provenance))
    for name, value in reconstruction.provenance.items():
        if name not in process:
            plain = isinstance(value, str | int | float | bool)
            process[name] = value if plain else _json(value)
    metrics = _group(process, "metrics", "NXcollection")
    for name, number in reconstruction.metrics.items():
        metrics[name] = float(number)
        if name.endswith("_nm"):
            metrics[name].attrs["units"] = "nm"
    timing = _group(process, "timing", "NXcollection")
    for name, number in reconstruction.timing.items():
        timing[name] = float(number)
        timing[name].attrs["units"] = "s"
    process.create_dataset("warnings", data=list(reconstruction.warnings), dtype=h5py.string_dtype())


def _write_measured(group: h5py.Group, reconstruction: Reconstruction) -> None:
    # Zero where nothing was measured, so that a viewer is not dazzled; the mask tells it from a measured zero.
    counts = np.where(reconstruction.valid, reconstruction.counts, np.float32(0))
    _array(group, "data", counts).attrs["units"] = "counts"
    mask = _array(group, "mask", (~reconstruction.valid).astype(np.uint8))
    mask.attrs["long_name"] = "1 where nothing was measured"
    _array(group, "inpainted", reconstruction.inpainted).attrs["units"] = "counts"
    group["region"] = np.asarray(reconstruction.region, np.int64)
    group["region"].attrs["long_name"] = "(start, stop) of each axis within the raw scan"
    group["title"] = f"{reconstruction.scan_id}: measured counts"
    start, stop = reconstruction.region[0]
    rocking = reconstruction.geometry.rocking_deg[max(0, start) : stop]
    if len(rocking) == counts.shape[0]:
        motor = reconstruction.geometry.rocking_motor or "rocking"
        group[motor] = np.asarray(rocking)
        group[motor].attrs["units"] = "deg"
        group.attrs["axes"] = [motor, ".", "."]


def _write_crystal(group: h5py.Group, crystal: Crystal) -> None:
    group.attrs["auxiliary_signals"] = ["phase", "displacement", "strain"]
    group.attrs["axes"] = ["z", "y", "x"]
    for axis, length in zip("zyx", crystal.modulus.shape, strict=True):
        group[axis] = _centred(length, crystal.voxel_size_nm)
        group[axis].attrs["units"] = "nm"
    _array(group, "modulus", crystal.modulus)
    group["data"] = group["modulus"]
    _array(group, "phase", crystal.phase).attrs["units"] = "rad"
    _array(group, "displacement", crystal.displacement).attrs["units"] = "angstrom"
    _array(group, "strain", crystal.strain).attrs["units"] = ""
    _array(group, "support", crystal.support.astype(np.uint8))
    group["voxel_size"] = crystal.voxel_size_nm
    group["voxel_size"].attrs["units"] = "nm"
    group["q_centre"] = np.asarray(crystal.q_centre)
    group["q_centre"].attrs.update(units="1/angstrom", long_name="scattering vector (x, y, z)")
    group["frame"] = _FRAME
    group["title"] = "crystal in the laboratory frame"


def _write_slice(group: h5py.Group, reconstruction: Reconstruction) -> None:
    """The slice through the crystal's centre, across the rocking axis or the beam, in 2D: viewers open on it."""
    crystal = reconstruction.crystal
    volume = np.abs(reconstruction.density) if crystal is None else crystal.modulus
    support = reconstruction.support if crystal is None else crystal.support
    inside = np.flatnonzero(support.any(axis=(1, 2)))
    middle = int(inside.mean()) if inside.size else volume.shape[0] // 2
    group["modulus"] = volume[middle].astype(np.float32)
    group["title"] = f"{reconstruction.scan_id}, {reconstruction.stage}: modulus, central slice"
    group.attrs["axes"] = ["y", "x"]
    for axis, length in zip("yx", volume.shape[1:], strict=True):
        group[axis] = _centred(length, 1.0 if crystal is None else crystal.voxel_size_nm)
        group[axis].attrs["units"] = "pixel" if crystal is None else "nm"
    group["modulus"].attrs["interpretation"] = "image"


def _write_instrument(group: h5py.Group, geometry: Geometry) -> None:
    group["name"] = geometry.diffractometer or "unknown"
    group["geometry"] = _json(geometry)
    if geometry.energy_kev:
        source = _group(group, "source_1", "NXsource")
        _quantity(source, "energy", geometry.energy_kev * _JOULE_PER_KEV, "J")
        beam = _group(group, "beam_1", "NXbeam")
        _quantity(beam, "incident_energy", geometry.energy_kev, "keV")
        _quantity(beam, "incident_wavelength", _KEV_ANGSTROM / geometry.energy_kev, "angstrom")
    detector = _group(group, "detector_1", "NXdetector")
    if geometry.distance_m:
        _quantity(detector, "distance", geometry.distance_m, "m")
    if geometry.pixel_size_m:
        _quantity(detector, "y_pixel_size", geometry.pixel_size_m[0], "m")
        _quantity(detector, "x_pixel_size", geometry.pixel_size_m[1], "m")
    motors = _group(group, "positioners_1", "NXcollection")
    for name, angle in geometry.angles_deg.items():
        _quantity(motors, name, angle, "deg")
    if geometry.rocking_deg:
        name = geometry.rocking_motor or "rocking"
        if name in motors:
            del motors[name]
        _quantity(motors, name, np.asarray(geometry.rocking_deg), "deg")
        group["rocking_motor"] = name


def _group(parent: h5py.Group, name: str, nx_class: str, **attributes: str) -> h5py.Group:
    group = parent.create_group(name)
    group.attrs.update(NX_class=nx_class, **attributes)
    return group


def _quantity(group: h5py.Group, name: str, value: float | NDArray[np.float64], units: str) -> None:
    group[name] = value
    group[name].attrs["units"] = units


def _array(group: h5py.Group, name: str, data: NDArray[Any]) -> h5py.Dataset:
    """A compressed volume; gzip, which every HDF5 reader has, fast enough at its first level."""
    chunks = (1, *data.shape[1:])
    return group.create_dataset(name, data=data, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True)


def _centred(length: int, step: float) -> NDArray[np.float64]:
    return np.asarray((np.arange(length) - length / 2) * step, np.float64)


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _json(value: object) -> str:
    def plain(item: Any) -> Any:
        return item.item() if isinstance(item, np.generic) else str(item)

    return json.dumps(_finite(msgspec.to_builtins(value, enc_hook=plain, str_keys=True)), indent=1)


def _finite(value: Any) -> Any:
    """The same with None for numbers that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
