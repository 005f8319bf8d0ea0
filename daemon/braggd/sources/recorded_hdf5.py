"""Scans in HDF5 files: where the frames are, and what else the file tells of them."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers bitshuffle, LZ4 and the others
import msgspec
import numpy as np
from numpy.typing import NDArray

from braggd.data import Geometry
from braggd.errors import ScanFileError
from braggd.sources.recorded import OpenScan, Region, checked_shape, extent, slices
from braggd.sources.recorded_geometry import QUANTITIES, Quantity, geometry_of

_log = logging.getLogger(__name__)
_DEPTH = 6
_SHOWN = 6
# Where BLISS keeps positions of other moments, under the same names.
_OTHER_MOMENTS = re.compile(r"positioners?_(start|end|dial.*)$|plotselect|writer|scan_meta")
_SATURATION = ("saturation_value", "countrate_correction_count_cutoff")


@contextmanager
def open_hdf5(path: Path, inside: str) -> Iterator[OpenScan]:
    """A scan in an HDF5 file.

    inside: a dataset, or a group that leads to one; empty: found by the file's layout

    Raises ScanFileError where there is none, or it is unclear which.
    """
    with h5py.File(path, "r", locking=False) as file:
        parts = _find(file, path, inside)
        source = f"{path}::{parts[0].name}"
        frame = parts[0].shape[1:]
        for part in parts:
            checked_shape(f"{part.file.filename}::{part.name}", part.shape, part.dtype.kind)
            if part.shape[1:] != frame:
                raise ScanFileError(f"{path}::{part.name}: has frames of another shape; mend the file")
        shape = checked_shape(source, (sum(len(part) for part in parts), *frame), parts[0].dtype.kind)
        # The master file's entry, even where the frames are in a file of their own.
        top = file[inside] if inside else _inner(file, parts[0])
        entry = _entry(file, top)
        found = _Facts(shape)
        found.collect(entry, top.parent if isinstance(top, h5py.Dataset) else top)
        yield OpenScan(
            source=source,
            shape=shape,
            itemsize=parts[0].dtype.itemsize,
            read=lambda region: _read(parts, region),
            bad=found.reader(),
            saturation=found.saturation,
            geometry=_archived(entry, shape[0]) or found.geometry(entry),
            title=_text(entry.get("title")) or path.stem,
        )


def _find(file: h5py.File, path: Path, inside: str) -> list[h5py.Dataset]:
    """The datasets that make up the scan, in their order; several for a DECTRIS master file."""
    if inside:
        node = file.get(inside)
        if isinstance(node, h5py.Dataset):
            if node.ndim != 3:
                raise ScanFileError(f"{path}::{inside}: is {node.ndim}-D; {_advice(file, path)}")
            return [node]
        found = _below(node) if isinstance(node, h5py.Group) else []
        if not found:
            what = "leads to no frames" if isinstance(node, h5py.Group) else "is not there"
            raise ScanFileError(f"{path}::{inside}: {what}; {_advice(file, path)}")
        return found
    for group in (_get(file, "entry_1/data_1"), _get(file, "entry/data")):
        if isinstance(group, h5py.Group) and (found := _in_data_group(group, path)):
            return found
    scans = [name for name in file if re.search(r"\d+\.\d+$", name) and _bliss(file.get(name))]
    if len(scans) > 1:
        shown = ", ".join(f"/{name}" for name in scans[:_SHOWN])
        raise ScanFileError(f"{path}: holds {len(scans)} scans ({shown}); name one as {path}::/{scans[0]}")
    if scans:
        return _bliss(file[scans[0]])
    if default := _default(file):
        return [default]
    volumes = list(_volumes(file))
    if len(volumes) != 1:
        raise ScanFileError(f"{path}: {'holds several' if volumes else 'holds no'} scans; {_advice(file, path)}")
    return [file[volumes[0]]]


def _below(group: h5py.Group) -> list[h5py.Dataset]:
    """The scan that a group leads to: a BLISS entry, an NXdata or NXentry, or a group with a single volume."""
    if found := _in_data_group(group, Path(group.file.filename)) or _bliss(group):
        return found
    default = _default(group)
    if default is not None:
        return [default]
    volumes = list(_volumes(group))
    return [group.file[volumes[0]]] if len(volumes) == 1 else []


def _in_data_group(group: h5py.Group, path: Path) -> list[h5py.Dataset]:
    """Frames of a CXI or DECTRIS data group: `data_000001` and its followers, or `data`."""
    names = sorted(name for name in group if re.fullmatch(r"data_\d+", name))
    parts = []
    for name in names:
        node = _get(group, name)
        if node is None:
            link = group.get(name, getlink=True)
            missing = getattr(link, "filename", name)
            raise ScanFileError(f"{path}: its frames {name} are missing; put the file {missing} beside it")
        parts.append(node)
    if parts and all(isinstance(part, h5py.Dataset) and part.ndim == 3 for part in parts):
        return parts
    data = _get(group, "data")
    return [data] if _is_volume(data) else []


def _bliss(entry: Any) -> list[h5py.Dataset]:
    """The 3-D dataset of a BLISS entry's measurement; of several detectors the one with the most pixels."""
    measurement = _get(entry, "measurement") if isinstance(entry, h5py.Group) else None
    if not isinstance(measurement, h5py.Group):
        return []
    volumes = [node for name in measurement if _is_volume(node := _get(measurement, name))]
    return [max(volumes, key=lambda volume: volume.shape[1] * volume.shape[2])] if volumes else []


def _default(group: h5py.Group) -> h5py.Dataset | None:
    """Follow `default` to the NXdata, and its `signal` to the dataset."""
    for _ in range(_DEPTH):
        signal = _text(group.attrs.get("signal"))
        if signal and _is_volume(node := _get(group, signal)):
            return node
        if not (name := _text(group.attrs.get("default"))):
            # Files older than `default`: an entry or NXdata that is the only one of its kind.
            names = [key for key in group if _class(_get(group, key)) in ("NXentry", "NXdata")]
            if len(names) != 1:
                return None
            name = names[0]
        following = _get(group, name)
        if not isinstance(following, h5py.Group):
            return None
        group = following
    return None


def _volumes(group: h5py.Group) -> Iterator[str]:
    names: list[str] = []
    group.visititems(lambda _, node: names.append(node.name) if _is_volume(node) else None)
    yield from names


def _advice(file: h5py.File, path: Path) -> str:
    shown = [f"{name} ({extent(file[name].shape)})" for name in _volumes(file)]
    if not shown:
        return "there is no 3-D dataset in this file"
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    return f"name one of those there as {path}::DATASET: {', '.join(shown[:_SHOWN])}{more}"


def _is_volume(node: Any) -> bool:
    return isinstance(node, h5py.Dataset) and node.ndim == 3 and node.dtype.kind in "uif" and node.size > 0


def _get(group: h5py.Group, name: str) -> Any:
    """A member, None where it is missing or its link leads nowhere."""
    try:
        return group.get(name)
    except (KeyError, OSError):
        return None


def _inner(file: h5py.File, dataset: h5py.Dataset) -> h5py.Group:
    """The group of this very file from which a dataset was found."""
    if dataset.file.filename == file.filename:
        return dataset.parent
    group = _get(file, "entry/data")
    return group if isinstance(group, h5py.Group) else file


def _entry(file: h5py.File, node: Any) -> h5py.Group:
    """The NXentry that a node belongs to: the first group below the root."""
    first = node.name.strip("/").split("/")[0]
    group = file.get(first) if first else file
    return group if isinstance(group, h5py.Group) else file


def _read(parts: Sequence[h5py.Dataset], region: Region) -> NDArray[Any]:
    steps, rows, columns = slices(region)
    pieces, offset = [], 0
    for part in parts:
        start, stop = max(steps.start - offset, 0), min(steps.stop - offset, len(part))
        if start < stop:
            pieces.append(part[start:stop, rows, columns])
        offset += len(part)
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


class _Facts:
    """What an entry tells besides its frames, collected in one walk."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self.quantities: dict[str, Quantity] = {}
        self.masks: list[h5py.Dataset] = []
        self.saturation: float | None = None
        self.rocked = ""

    def collect(self, entry: h5py.Group, data: h5py.Group) -> None:
        """Walk the entry; the frames' own group first, since what lies beside them is meant for them."""
        axes = np.atleast_1d(data.attrs.get("axes", []))
        if axes.size:
            self.rocked = _text(axes[0])
        self._walk(data, 1, set())
        if self.rocked not in self.quantities:
            self.rocked = ""
        if entry.name != "/":
            self._walk(entry, _DEPTH, set())

    def reader(self) -> Any:
        """Reads the masks of a region, None where there is none."""
        if not self.masks:
            return None

        def bad(region: Region) -> NDArray[np.bool_]:
            marked = [np.asarray(mask[slices(region)[-mask.ndim :]]) != 0 for mask in self.masks]
            both: NDArray[np.bool_] = marked[0]
            for other in marked[1:]:
                both = both | other
            return both

        return bad

    def geometry(self, entry: h5py.Group) -> Geometry:
        """The geometry, as far as its values were found."""
        places = ("instrument/name", "instrument_1/name", "instrument/beamline", "title")
        hint = " ".join(_text(_get(entry, place)) for place in places)
        return geometry_of(self.quantities, self.shape[0], hint, self.rocked)

    def _walk(self, group: h5py.Group, depth: int, seen: set[Any]) -> None:
        info = h5py.h5o.get_info(group.id)
        if depth == 0 or (info.fileno, info.addr) in seen:
            return
        seen.add((info.fileno, info.addr))
        for name in group:
            node = _get(group, name)
            if isinstance(node, h5py.Group) and not _OTHER_MOMENTS.search(name):
                self._walk(node, depth - 1, seen)
            elif isinstance(node, h5py.Dataset):
                self._take(name.lower(), node, group)

    def _take(self, name: str, node: h5py.Dataset, group: h5py.Group) -> None:
        if node.dtype.kind not in "uifb":
            return
        if name in ("pixel_mask", "mask"):
            if node.shape in (self.shape, self.shape[1:]):
                self.masks.append(node)
        elif name in _SATURATION and node.size == 1:
            value = float(node[()])
            if value > 0:
                self.saturation = value if self.saturation is None else min(value, self.saturation)
        elif (name in QUANTITIES or name == self.rocked) and node.size in (1, self.shape[0]):
            # Sources and attenuators have distances too.
            if name in ("distance", "detector_distance") and not _of_detector(group):
                return
            # A scan's positions say more than the single one of the motor beside it.
            known = self.quantities.get(name)
            if known is None or known[0].size < node.size:
                self.quantities[name] = (np.ravel(node[()]), _text(node.attrs.get("units")))


def _of_detector(group: h5py.Group) -> bool:
    return _class(group) in ("NXdetector", "") and "source" not in group.name and "sample" not in group.name


def _archived(entry: h5py.Group, steps: int) -> Geometry | None:
    """The geometry that braggd itself wrote, with the rocking angles of the archived steps."""
    written, region = _get(entry, "instrument_1/geometry"), _get(entry, "data_1/region")
    if not isinstance(written, h5py.Dataset) or not isinstance(region, h5py.Dataset):
        return None
    try:
        geometry = msgspec.convert(json.loads(_text(written)), Geometry)
    except (ValueError, msgspec.ValidationError):
        _log.warning("%s: its geometry cannot be understood and is left out", written.name)
        return None
    start = int(region[0, 0])
    rocking = geometry.rocking_deg[max(start, 0) : start + steps]
    return msgspec.structs.replace(geometry, rocking_deg=rocking if len(rocking) == steps else ())


def _class(node: Any) -> str:
    return _text(node.attrs.get("NX_class")) if isinstance(node, h5py.Group) else ""


def _text(value: Any) -> str:
    """A text out of a dataset or attribute, "" for anything else."""
    if isinstance(value, h5py.Dataset):
        value = value[()] if value.shape == () else None
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    return value if isinstance(value, str) else ""
