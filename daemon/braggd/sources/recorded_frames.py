"""Scans as numpy archives, and as folders of single frames with a spec file for the angles."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from braggd.data import Geometry
from braggd.errors import ScanFileError
from braggd.sources.recorded import OpenScan, Region, checked_shape, extent, slices
from braggd.sources.recorded_geometry import geometry_of

_log = logging.getLogger(__name__)


@contextmanager
def open_arrays(path: Path, name: str) -> Iterator[OpenScan]:
    """A scan in .npz (arrays `data`, or `name`, and optionally `mask` and `theta_deg`) or .npy.

    Raises ScanFileError where the arrays are missing or do not fit together.
    """
    # numpy leaves the file open when a broken archive is named by its path.
    with path.open("rb") as file:
        try:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"data": loaded} if isinstance(loaded, np.ndarray) else {key: loaded[key] for key in loaded.files}
        except (ValueError, EOFError, BadZipFile) as error:
            raise ScanFileError(f"{path}: is no numpy archive, or is cut short; write it again") from error
    wanted = name or "data"
    if wanted not in arrays:
        volumes = [f"{key} ({extent(array.shape)})" for key, array in arrays.items() if array.ndim == 3]
        raise ScanFileError(f"{path}: has no array {wanted}; {_there(volumes)}")
    source = f"{path}::{wanted}"
    counts = arrays[wanted]
    shape = checked_shape(source, counts.shape, counts.dtype.kind)
    bad = arrays["mask"] != 0 if "mask" in arrays else None
    if bad is not None and bad.shape not in (shape, shape[1:]):
        raise ScanFileError(f"{path}: its mask is {extent(bad.shape)}, its data {extent(shape)}; make them fit")
    angles = np.ravel(arrays["theta_deg"]) if "theta_deg" in arrays else np.empty(0)
    if angles.size not in (0, shape[0]):
        raise ScanFileError(f"{path}: has {angles.size} angles theta_deg for {shape[0]} frames; give one for each")
    yield OpenScan(
        source=source,
        shape=shape,
        itemsize=counts.dtype.itemsize,
        read=lambda region: counts[slices(region)],
        bad=None if bad is None else lambda region: bad[slices(region)[-bad.ndim :]],
        geometry=Geometry(rocking_motor="theta" if angles.size else "", rocking_deg=tuple(map(float, angles))),
        title=path.stem,
    )


@contextmanager
def open_folder(folder: Path, inside: str, kinds: Sequence[str]) -> Iterator[OpenScan]:
    """A folder of frames, in natural order: frame_9 before frame_10.

    inside: name of a spec file, with `#SCAN` for one of its scans; empty: the folder's only .spec file, if any
    kinds: endings of frame files; the first that occurs is taken

    Raises ScanFileError where there are no frames, or they differ in shape.
    """
    present = [path for path in folder.iterdir() if path.is_file()]
    frames: list[Path] = []
    for group in ({".tif", ".tiff"}, *({kind} for kind in kinds)):
        frames = frames or [path for path in present if path.suffix.lower() in group]
    if not frames:
        raise ScanFileError(f"{folder}: holds no frames ({', '.join(kinds)}); name the folder where they are")
    frames.sort(key=_natural)
    first = _frame(frames[0])
    shape = checked_shape(str(folder), (len(frames), *first.shape), first.dtype.kind)
    yield OpenScan(
        source=str(folder),
        shape=shape,
        itemsize=first.dtype.itemsize,
        read=lambda region: _frames(frames, first, region),
        geometry=_spec_geometry(folder, inside, len(frames)),
        title=folder.name,
    )


@contextmanager
def open_image(path: Path) -> Iterator[OpenScan]:
    """A scan in one image file of many frames.

    Raises ScanFileError where it holds a single frame, or no image.
    """
    stack = _stack(path)
    shape = checked_shape(str(path), stack.shape, stack.dtype.kind)
    if shape[0] == 1:
        raise ScanFileError(f"{path}: is a single frame; name the folder that holds the frames of the scan")
    yield OpenScan(
        source=str(path),
        shape=shape,
        itemsize=stack.dtype.itemsize,
        read=lambda region: stack[slices(region)],
        title=path.stem,
    )


def _natural(path: Path) -> list[tuple[int, int, str]]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.findall(r"\d+|\D+", path.name)]


def _frames(files: Sequence[Path], first: NDArray[Any], region: Region) -> NDArray[Any]:
    steps, rows, columns = slices(region)
    chosen = files[steps]
    counts = np.empty((len(chosen), rows.stop - rows.start, columns.stop - columns.start), first.dtype)
    for step, path in enumerate(chosen):
        frame = _frame(path)
        if frame.shape != first.shape or frame.dtype != first.dtype:
            raise ScanFileError(
                f"{path}: is {extent(frame.shape)} {frame.dtype}, {files[0].name} is {extent(first.shape)} "
                f"{first.dtype}; leave frames of one kind in the folder"
            )
        counts[step] = frame[rows, columns]
    return counts


def _frame(path: Path) -> NDArray[Any]:
    stack = _stack(path)
    if len(stack) != 1:
        raise ScanFileError(f"{path}: holds {len(stack)} frames; name it alone, or a folder of single frames")
    frame: NDArray[Any] = stack[0]
    return frame


def _stack(path: Path) -> NDArray[Any]:
    import fabio

    try:
        with fabio.open(str(path)) as image:
            return np.stack([np.asarray(image.getframe(number).data) for number in range(image.nframes)])
    # fabio has an exception of its own for each of its readers.
    except Exception as error:
        raise ScanFileError(f"{path}: is no readable image, or is cut short; take it away or copy it again") from error


def _spec_geometry(folder: Path, inside: str, steps: int) -> Geometry:
    """What a spec file tells of the scan's motors."""
    name, _, number = inside.partition("#")
    found = sorted(folder.glob("*.spec"))
    path = folder / name if name else found[0] if len(found) == 1 else None
    if path is None:
        return Geometry()
    if not path.is_file():
        raise ScanFileError(f"{path}: there is no such spec file; name it as {folder}::FILE.spec#SCAN")
    motors = _spec_motors(path, number or _trailing_number(folder.name))
    for key, values in motors.items():
        if values.size not in (1, steps):
            _log.warning("%s: %d points of %s for %d frames; its angles are left out", path, values.size, key, steps)
    return geometry_of({key: (values, "") for key, values in motors.items() if values.size in (1, steps)}, steps)


def _spec_motors(path: Path, number: str) -> dict[str, NDArray[Any]]:
    """Motor positions of one scan of a spec file, by name in lower case; arrays where the motor was scanned."""
    from silx.io.specfile import SfErrScanNotFound, SpecFile

    try:
        file = SpecFile(str(path))
        keys = list(file.keys())
        wanted = f"{int(number)}.1" if number else keys[0] if len(keys) == 1 else ""
        if wanted not in keys:
            scans = ", ".join(key.partition(".")[0] for key in keys[:12])
            raise ScanFileError(f"{path}: which scan is unclear; name it as FOLDER::{path.name}#SCAN, of {scans}")
        scan = file[wanted]
        motors = {
            _motor(name): np.atleast_1d(position)
            for name, position in zip(scan.motor_names, scan.motor_positions, strict=False)
        }
        columns = {_motor(label): scan.data_column_by_name(label) for label in scan.labels}
    except (OSError, KeyError, ValueError, SfErrScanNotFound) as error:
        raise ScanFileError(f"{path}: is no readable spec file; name one as FOLDER::FILE.spec#SCAN") from error
    return motors | columns


def _motor(name: str) -> str:
    return name.strip().lower().replace(" ", "_")


def _trailing_number(name: str) -> str:
    """The scan's number at the end of a folder's name, as beamlines write it: sample_S0054."""
    found = re.search(r"(\d+)$", name)
    return found.group(1) if found else ""


def _there(volumes: Sequence[str]) -> str:
    return f"name one of those there: {', '.join(volumes)}" if volumes else "there is no 3-D array in it"
