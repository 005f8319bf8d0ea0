"""Detectors by name: their shape, the pixels that can never count, and from where on a pixel is saturated.

pyFAI knows the shapes and gaps of most detectors; the few that Bragg coherent imaging uses and pyFAI lacks, or masks
too little of, are described here.
"""

from __future__ import annotations

import difflib
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from braggd.errors import DetectorError

Span = tuple[int, int]

EIGER_SATURATION = 1e7
_LEAST_GAIN = 0.1  # of the median; a pixel that sees less is dead
MAXIPIX_SATURATION = 1e6


@dataclass(frozen=True, slots=True, eq=False)
class Detector:
    """A detector as it is built, without the faults of one particular unit.

    name: as people write it
    shape: (rows, columns) of a frame
    mask: (row, column) bool, True where blind; read-only
    pixel_size_m: (row, column) pitch, m
    saturation: counts from which a pixel is saturated, None where unknown
    """

    name: str
    shape: tuple[int, int]
    mask: NDArray[np.bool_]
    pixel_size_m: tuple[float, float]
    saturation: float | None


def detector(name: str) -> Detector:
    """The detector of that name, in any spelling: "EIGER2 1M", "eiger2-1m" and "Dectris EIGER2 Si 1M" are the same.

    Raises DetectorError where it is unknown, with the names nearest to it.
    """
    key = _key(name)
    if not key:
        raise DetectorError('a detector needs a name, for example "EIGER2 1M"')
    if key in _OWN_KEYS:
        return _own(_OWN_KEYS[key])
    registry = _registry()
    if key not in registry:
        raise DetectorError(f'detector "{name}" is unknown; {_near(key)}')
    return _from_pyfai(key)


def from_shape(shape: tuple[int, int]) -> Detector | None:
    """The detector whose frames have that shape, None where the shape tells nothing.

    Where a silicon and a CdTe model share their shape, the silicon one is meant: at the energies of Bragg coherent
    imaging, 7 to 15 keV, CdTe is not used, and its additional blind columns come with the stream's own mask. A frame
    of 516 x 516 is a MAXIPIX 2x2, whose mask includes that of the Lambda 250k. Square frames of 256 or 512 pixels are
    as likely a cut-out as a whole detector, and are not recognised.
    """
    name = _SHAPES.get((int(shape[0]), int(shape[1])))
    return detector(name) if name else None


def load_mask(path_spec: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Read an extra mask, non-zero where a pixel is bad.

    path_spec: .npy, .npz (the array `mask`, or the only one) or HDF5 as `FILE::DATASET`
    shape: (rows, columns) that it must have
    Returns (row, column) bool, True where bad. Raises DetectorError where it cannot be read or does not fit.
    """
    values = _read_pixels("mask", path_spec, shape)
    # A NaN is how some programs write "bad", and is not zero either.
    bad: NDArray[np.bool_] = values != 0
    return bad


def load_flatfield(path_spec: str, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Read a flat field as the gain of each pixel.

    path_spec, shape: as of `load_mask`, an array in an .npz named `flatfield`
    Returns (row, column) float32, 1 at the median pixel, NaN where a pixel shows less than a tenth of that.
    Raises DetectorError where it cannot be read, does not fit, or is dark.
    """
    values = _read_pixels("flatfield", path_spec, shape).astype(np.float32)
    lit = values > 0
    if not lit.any():
        raise DetectorError(f"flatfield {path_spec}: no pixel is above zero; name the field itself, not a correction")
    gain = values / np.float32(np.median(values[lit]))
    return np.where(gain >= _LEAST_GAIN, gain, np.nan).astype(np.float32)


def _read_pixels(what: str, path_spec: str, shape: tuple[int, int]) -> NDArray[Any]:
    """One number per pixel, out of a file."""
    file, _, dataset = path_spec.partition("::")
    if not Path(file).is_file():
        raise DetectorError(f"{what} {file}: there is no such file; name a .npy, .npz or HDF5 file")
    try:
        values = _read_array(Path(file), dataset, what)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise DetectorError(f"{what} {path_spec}: cannot be read ({error}); name a .npy, .npz or HDF5 file") from error
    if values.ndim != 2 or values.shape != tuple(shape):
        raise DetectorError(
            f"{what} {path_spec}: has shape {values.shape}, but the frames have {tuple(shape)}; make it fit the frames"
        )
    if values.dtype.kind not in "biuf":
        raise DetectorError(f"{what} {path_spec}: holds {values.dtype}; store numbers, one per pixel")
    return values


def _read_array(file: Path, dataset: str, what: str) -> NDArray[Any]:
    if dataset or _is_hdf5(file):
        return _read_hdf5(file, dataset, what)
    # numpy leaves the file open when a broken archive is named by its path.
    with file.open("rb") as opened:
        loaded = np.load(opened, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        name = what if what in loaded.files else loaded.files[0] if len(loaded.files) == 1 else ""
        if not name:
            raise DetectorError(
                f"{what} {file}: has the arrays {', '.join(loaded.files)}; name the one to use {what!r}"
            )
        return np.asarray(loaded[name])


def _is_hdf5(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(8) == b"\x89HDF\r\n\x1a\n"


def _read_hdf5(file: Path, dataset: str, what: str) -> NDArray[Any]:
    import h5py
    import hdf5plugin  # noqa: F401 - registers the filters

    with h5py.File(file, "r") as opened:
        if not dataset:
            raise DetectorError(f"{what} {file}: is an HDF5 file; name the dataset in it as {file}::DATASET")
        node = opened.get(dataset)
        if not isinstance(node, h5py.Dataset):
            raise DetectorError(f"{what} {file}: has no dataset {dataset}; name one that is there as {file}::DATASET")
        return np.asarray(node[()])


@dataclass(frozen=True)
class _Layout:
    name: str
    shape: tuple[int, int]
    rows: tuple[Span, ...]
    columns: tuple[Span, ...]
    pixel_m: float
    saturation: float | None
    blocks: tuple[tuple[Span, Span], ...] = ()


_MAXIPIX = _Layout(
    # The gap is 256:260, but the pixels beside it are larger and count wrongly.
    "MAXIPIX 2x2",
    (516, 516),
    rows=((255, 261),),
    columns=((255, 261),),
    pixel_m=55e-6,
    saturation=MAXIPIX_SATURATION,
)
_ID01_EIGER2M = _Layout(
    "ESRF ID01 EIGER 2M",
    (2164, 1030),
    rows=((255, 259), (511, 552), (804, 809), (1061, 1102), (1355, 1359), (1611, 1652), (1905, 1909)),
    columns=((255, 259), (513, 517), (771, 775)),
    pixel_m=75e-6,
    saturation=EIGER_SATURATION,
    blocks=(
        ((0, 257), (72, 80)),
        ((1649, 1910), (620, 628)),
        ((1248, 1290), (478, 479)),
        ((1214, 1298), (481, 482)),
    ),
)
_MERLIN = _Layout(
    "Merlin 515x515", (515, 515), rows=((255, 260),), columns=((255, 260),), pixel_m=55e-6, saturation=None
)
_OWN = {layout.name: layout for layout in (_MAXIPIX, _ID01_EIGER2M, _MERLIN)}

_SHAPES = {
    (516, 516): "MAXIPIX 2x2",
    (2164, 1030): "ESRF ID01 EIGER 2M",
    (515, 515): "Merlin 515x515",
    (256, 1296): "Maxipix 5x1",
    (514, 1030): "EIGER 500K",
    (1065, 1030): "EIGER 1M",
    (2167, 2070): "EIGER 4M",
    (3269, 3110): "EIGER 9M",
    (4371, 4150): "EIGER 16M",
    (512, 1028): "EIGER2 500K",
    (1062, 1028): "EIGER2 1M",
    (512, 2068): "EIGER2 1M-W",
    (512, 4148): "EIGER2 2M-W",
    (2162, 2068): "EIGER2 4M",
    (3262, 3108): "EIGER2 9M",
    (4362, 4148): "EIGER2 16M",
    (195, 487): "Pilatus 100K",
    (619, 487): "Pilatus 300K",
    (1043, 981): "Pilatus 1M",
    (1679, 1475): "Pilatus 2M",
    (2527, 2463): "Pilatus 6M",
    (1064, 1030): "Jungfrau 1M",
    (2164, 2068): "Jungfrau 4M",
    (516, 1556): "Lambda 750K",
    (1556, 1556): "Lambda 2M",
}


def _key(name: str) -> str:
    """Reduce a name to what tells detectors apart: no case, punctuation, maker, sensor or model grade."""
    words = re.findall(r"[a-z0-9.]+", name.lower().replace("µ", "u"))
    kept = [word for word in words if word not in {"dectris", "si", "silicon", "detector", "r", "x", "xe", "s"}]
    key = re.sub(r"[^a-z0-9]", "", "".join(kept))
    # A PILATUS2 or PILATUS3 has the modules and gaps of the first one.
    return re.sub(r"^pilatus[23](?=(100k|200k|300kw?|900k|1m|2m|6m|cdte))", "pilatus", key)


_OWN_KEYS = {_key(layout.name): layout.name for layout in _OWN.values()} | {
    "maxipix22": _MAXIPIX.name,
    "eiger2mid01": _ID01_EIGER2M.name,
    "id01eiger2m": _ID01_EIGER2M.name,
    "eiger2m": _ID01_EIGER2M.name,
    "merlin": _MERLIN.name,
}


@lru_cache(maxsize=8)
def _own(name: str) -> Detector:
    layout = _OWN[name]
    mask = np.zeros(layout.shape, np.bool_)
    for start, stop in layout.rows:
        mask[start:stop] = True
    for start, stop in layout.columns:
        mask[:, start:stop] = True
    for rows, columns in layout.blocks:
        mask[slice(*rows), slice(*columns)] = True
    mask.flags.writeable = False
    return Detector(layout.name, layout.shape, mask, (layout.pixel_m, layout.pixel_m), layout.saturation)


@lru_cache(maxsize=8)
def _from_pyfai(key: str) -> Detector:
    with _quiet_pyfai():
        built = _registry()[key]()
        mask = built.calc_mask()
    if built.max_shape is None or built.pixel1 is None:
        raise DetectorError(f'detector "{built.name}" has no shape of its own; name a model, for example "EIGER2 1M"')
    rows, columns = (int(size) for size in built.max_shape)
    blind = np.zeros((rows, columns), np.bool_) if mask is None else np.asarray(mask).astype(np.bool_)
    blind.flags.writeable = False
    family = key[:5]
    saturation = EIGER_SATURATION if family == "eiger" else MAXIPIX_SATURATION if key.startswith("maxipix") else None
    return Detector(str(built.name), (rows, columns), blind, (float(built.pixel1), float(built.pixel2)), saturation)


@lru_cache(maxsize=1)
def _registry() -> dict[str, Any]:
    # pyFAI takes seconds to import, so only where a detector is asked for that is not described here.
    with _quiet_pyfai():
        from pyFAI.detectors import Detector as PyfaiDetector
    return {_key(name): cls for name, cls in PyfaiDetector.registry.items() if name != "detector"}


def _near(key: str) -> str:
    pyfai = {_key(alias): alias for cls in set(_registry().values()) for alias in (cls.aliases or ())[:1]}
    spellings = {key: key for key in _registry()} | pyfai | _OWN_KEYS
    near = dict.fromkeys(spellings[match] for match in difflib.get_close_matches(key, spellings, 6, 0.5))
    return f"near names are {', '.join(near)}" if near else "any name that pyFAI knows will do"


@contextmanager
def _quiet_pyfai() -> Iterator[None]:
    """Keep remarks of pyFAI and what it imports, on missing OpenCL for example, away from users."""
    loggers = {logger: logger.level for logger in map(logging.getLogger, ("pyFAI", "silx", "fabio", "numexpr"))}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
