"""Recorded scans: HDF5 of several kinds, .npz, and folders of frames.

| file | recognised by | more |
| --- | --- | --- |
| NeXus | `default` and `signal` attributes | mask, energy, distance, pixels, motors of the same entry |
| DECTRIS master file | `/entry/data/data_000001` ... | pixel mask, saturation |
| BLISS | `/1.1/measurement/...`, a 3-D dataset | `instrument/positioners` |
| CXI, braggd's archives | `/entry_1/data_1/data` | `mask`, non-zero where bad |
| other HDF5 | its only 3-D dataset | |
| `.npz` | array `data` | `mask`, non-zero where bad; `theta_deg` |
| folder | frames as .tif, .tiff, .edf or .cbf, in natural order | `FOLDER::FILE.spec` or `FOLDER::FILE.spec#SCAN` |
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import msgspec
import numpy as np
from numpy.typing import NDArray

from braggd.data import Geometry
from braggd.errors import ScanFileError
from braggd.sources.recorded import OpenScan, Region, extent, slices
from braggd.sources.recorded_frames import open_arrays, open_folder, open_image
from braggd.sources.recorded_hdf5 import open_hdf5

_IMAGES = (".tif", ".tiff", ".edf", ".cbf")


@dataclass(frozen=True, slots=True, eq=False)
class RecordedScan:
    """A scan out of a file.

    counts: (step, row, column), integer or float as in the file
    valid: (step, row, column) bool, True where measured; None where everything was
    geometry: what the file tells
    """

    counts: NDArray[Any]
    valid: NDArray[np.bool_] | None
    geometry: Geometry
    title: str


def read_scan(spec: str, region: Region | None = None) -> RecordedScan:
    """Read a scan, or only a region of it.

    spec: `FILE` or `FILE::DATASET`
    region: (start, stop) of steps, rows and columns; only what is inside is read, where the file's format allows it

    Not valid are pixels that the file's own mask marks, integers that stand for none (below zero, or the largest of an
    unsigned type), saturated counts, NaN and infinity. Raises ScanFileError, in a sentence that says what to do.
    """
    with _open_scan(spec) as scan:
        region = scan.within(region)
        _check_memory(scan, region)
        counts = scan.read(region)
        bad = _unmeasured(counts, scan.saturation)
        if scan.bad is not None and (marked := scan.bad(region)).any():
            bad = np.broadcast_to(marked, counts.shape) if bad is None else bad | marked
        return RecordedScan(
            counts=counts,
            valid=None if bad is None else ~bad,
            geometry=_cut(scan.geometry, region),
            title=scan.title,
        )


def iter_frames(spec: str) -> Iterator[NDArray[Any]]:
    """The frames of a scan one by one, (row, column) each, without reading the whole of it.

    Raises ScanFileError, as `read_scan`.
    """
    with _open_scan(spec) as scan:
        steps, rows, columns = scan.within(None)
        for step in range(*steps):
            yield scan.read(((step, step + 1), rows, columns))[0]


@contextmanager
def _open_scan(spec: str) -> Iterator[OpenScan]:
    """A scan whose file is open; only for reading inside, whose errors become ScanFileError."""
    name, _, inside = spec.partition("::")
    path = Path(name).expanduser()
    try:
        with _opened(path, inside) as scan:
            yield scan
    except ScanFileError:
        raise
    # h5py answers damage with any of these, in long messages that speak of its own functions.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise ScanFileError(f"{spec}: cannot be read, it may be damaged or cut short; copy it again") from error


def _opened(path: Path, inside: str) -> Any:
    if path.is_dir():
        return open_folder(path, inside, _IMAGES)
    if not path.is_file():
        raise ScanFileError(f"{path}: there is no such file; name a scan as FILE or FILE::DATASET")
    if path.stat().st_size == 0:
        raise ScanFileError(f"{path}: is an empty file; name a scan that was written to the end")
    if path.suffix in (".npz", ".npy"):
        return open_arrays(path, inside)
    if path.suffix in _IMAGES:
        return open_image(path)
    if h5py.is_hdf5(path):
        return open_hdf5(path, inside)
    raise ScanFileError(f"{path}: is neither HDF5 nor .npz nor a folder of frames; name a scan in one of these formats")


def _check_memory(scan: OpenScan, region: Region) -> None:
    """Refuse what would not fit: an EIGER's full frames may be far more than a machine can hold."""
    needed = math.prod(stop - start for start, stop in region) * scan.itemsize
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > free:
        raise ScanFileError(
            f"{scan.source}: {extent(scan.shape)} voxels need {needed / 1e9:.0f} GB of memory, this machine has "
            f"{free / 1e9:.0f}; read a region of it"
        )


def _unmeasured(counts: NDArray[Any], saturation: float | None) -> NDArray[np.bool_] | None:
    """Where numbers stand for no measurement, None where none does."""
    kind = counts.dtype.kind
    bad: NDArray[np.bool_]
    if kind == "f":
        bad = ~np.isfinite(counts)
    elif kind == "i":
        bad = counts < 0
    else:
        # Detectors write gaps and overflow as the largest number of their type.
        bad = counts == np.iinfo(counts.dtype).max
    if saturation is not None:
        bad |= counts >= saturation
    return bad if bad.any() else None


def _cut(geometry: Geometry, region: Region) -> Geometry:
    if not geometry.rocking_deg:
        return geometry
    return msgspec.structs.replace(geometry, rocking_deg=geometry.rocking_deg[slices(region)[0]])
