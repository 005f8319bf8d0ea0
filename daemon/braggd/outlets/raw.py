"""Raw frames beside the archive, as the stream's own compressed chunks: nothing is decoded to be packed again."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import h5py
import hdf5plugin
import numpy as np

from braggd.compression import decompress
from braggd.data import Frame
from braggd.errors import CorruptFrame, OutletError
from braggd.outlets.files import replacing

_log = logging.getLogger(__name__)
_BITSHUFFLE: Final = re.compile(r"bs(\d+)-lz4[<>]")


def write_raw(path: Path, frames: Iterable[Frame], *, expected: int = 0, rocking_deg: Sequence[float] = ()) -> int:
    """Write the frames of one scan to an HDF5 file that any reader with hdf5plugin opens, and return how many are in.

    frames: in any order, of one shape and dtype; bitshuffle-LZ4 payloads go in as they are, others are packed first
    expected: number of rocking steps, where some may be lost at the end

    Every payload is decoded once before it goes in. A frame that cannot be decoded, or never came, is zero and has
    `/entry/data/valid` 0. The file appears when it is complete.
    Raises OutletError where there are no frames, or the folder is missing, not writable or full.
    """
    rest = iter(frames)
    first = next(rest, None)
    if first is None:
        raise OutletError(f"{path} is not written, as no frame came; check the stream")
    with replacing(path) as part, _Sink(part, "w+b") as sink:
        with h5py.File(sink, "w", libver=("v108", "v110")) as file:
            data = _layout(file, first, expected)
            kept = {frame.index for frame in chain([first], rest) if _keep(data, frame, sink)}
            valid = np.zeros(data.shape[0], np.uint8)
            valid[sorted(kept)] = 1
            group = data.parent
            group["valid"] = valid
            if len(rocking_deg) == data.shape[0]:
                group["rocking_angle"] = np.asarray(rocking_deg, np.float64)
                group["rocking_angle"].attrs["units"] = "deg"
                group.attrs["axes"] = ["rocking_angle", ".", "."]
        sink.check()
    return len(kept)


def _layout(file: h5py.File, first: Frame, expected: int) -> h5py.Dataset:
    """Groups and the empty dataset that frames like the first will fill."""
    file.attrs.update(NX_class="NXroot", default="entry", creator="braggd")
    entry = file.create_group("entry")
    entry.attrs.update(NX_class="NXentry", default="data")
    group = entry.create_group("data")
    group.attrs.update(NX_class="NXdata", signal="data")
    data = group.create_dataset(
        "data",
        shape=(expected, *first.shape),
        maxshape=(None, *first.shape),
        chunks=(1, *first.shape),
        dtype=first.dtype,
        **hdf5plugin.Bitshuffle(nelems=0, cname="lz4"),
    )
    data.attrs.update(units="counts", interpretation="image")
    return data


class _Sink(io.FileIO):
    """A file for HDF5 that takes everything and remembers what went wrong.

    HDF5 crashes the process when it cannot write what it has cached (seen with 2.0 and a full disk), so that it must
    not be told.
    """

    error: OSError | None = None

    def write(self, data: Any, /) -> int:
        """Write all of it, or nothing more from now on."""
        rest = memoryview(data).cast("B")
        size = len(rest)
        try:
            while self.error is None and rest:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None, /) -> int:
        """Set the length, which may fail as writing does."""
        try:
            if self.error is None:
                return super().truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def check(self) -> None:
        """Raise what went wrong."""
        if self.error is not None:
            raise self.error


def _keep(data: h5py.Dataset, frame: Frame, sink: _Sink) -> bool:
    """Put a frame in, or tell why not."""
    if frame.shape != data.shape[1:] or frame.dtype != data.dtype or frame.index < 0:
        _log.warning("frame %d is %s %s and not like the others; it is left out", frame.index, frame.shape, frame.dtype)
        return False
    try:
        pixels = decompress(frame)
    except CorruptFrame as error:
        _log.warning("%s; it is left out of the raw file", error)
        return False
    if frame.index >= data.shape[0]:
        data.resize(frame.index + 1, axis=0)
    sink.check()
    if _as_hdf5_does(frame):
        data.id.write_direct_chunk((frame.index, 0, 0), bytes(frame.payload))
    else:
        data[frame.index] = pixels
    return True


def _as_hdf5_does(frame: Frame) -> bool:
    """Whether a payload is what HDF5's own bitshuffle filter would have written."""
    shuffled = _BITSHUFFLE.fullmatch(frame.encoding)
    return frame.encoding == "bslz4" or (shuffled is not None and int(shuffled[1]) == 8 * frame.dtype.itemsize)
