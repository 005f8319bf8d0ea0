"""Pixels of a frame, compressed and not, in the encodings that detectors send.

| encoding | bytes |
| --- | --- |
| `none`, `<`, `>` | raw |
| `bslz4`, `bs8-lz4<`, `bs16-lz4<`, ... | bitshuffle-LZ4 in HDF5 framing: u64 size, u32 block bytes, blocks |
| `lz4` | LZ4 in HDF5 framing: u64 size, u32 block bytes, blocks |
| `lz4<` | one LZ4 block without framing |

`none`, `lz4` and `bslz4` are SIMPLON v2's names, the others v1's; v1's end in the byte order of the pixels, `<` or `>`.
Framing numbers are big-endian.

None of these formats carries a checksum: a flipped bit within a block may decode to other counts, and cannot be seen.
"""

from __future__ import annotations

import re
import struct
from dataclasses import replace
from itertools import count
from typing import Any, Final

import h5py
import hdf5plugin
import numpy as np
from dectris.compression import decompress as _dectris
from numpy.typing import NDArray

from braggd.data import Frame
from braggd.errors import CorruptFrame

_BITSHUFFLE: Final = re.compile(r"bs(8|16|32|64)-lz4[<>]")
_FRAMING: Final = struct.Struct(">QI")
_BLOCK: Final = struct.Struct(">I")
_LZ4_EXPANSION: Final = 255
_names = count()


def is_known(encoding: str) -> bool:
    """Whether `decompress` and `compress` know that encoding."""
    return encoding in {"none", "<", ">", "lz4", "lz4<", "lz4>", "bslz4"} or bool(_BITSHUFFLE.fullmatch(encoding))


def decompress(frame: Frame) -> NDArray[Any]:
    """The pixels of a frame: (row, column), of the frame's dtype in native byte order; may be read-only.

    Raises CorruptFrame where the payload is truncated or damaged, or holds another number of pixels than the frame's
    shape says; this is looked at before anything is allocated.
    """
    payload = memoryview(frame.payload).cast("B")
    rows, columns = frame.shape
    size = rows * columns * frame.dtype.itemsize
    if rows < 1 or columns < 1:
        raise _corrupt(frame, f"has the impossible shape {frame.shape}")
    pixels = np.frombuffer(_decoded(frame, payload, size), frame.dtype).reshape(frame.shape)
    return pixels if frame.dtype.isnative else pixels.astype(frame.dtype.newbyteorder("="))


def decompress_rows(frame: Frame, start: int, stop: int) -> NDArray[Any]:
    """Rows start..stop of a frame, as `decompress` would give them, without decoding the others where that can be.

    Bitshuffle-LZ4 is a chain of independent blocks: those outside the rows are stepped over, so that a truncated
    frame is still noticed, but not damage inside them.

    Raises CorruptFrame as `decompress` does.
    """
    if not (frame.encoding == "bslz4" or _BITSHUFFLE.fullmatch(frame.encoding)) or 0 in frame.shape:
        return decompress(frame)[start:stop]
    payload = memoryview(frame.payload).cast("B")
    size = frame.shape[0] * frame.shape[1] * frame.dtype.itemsize
    _check_declared(frame, payload, size)
    block = _FRAMING.unpack_from(payload)[1]
    row_bytes = frame.shape[1] * frame.dtype.itemsize
    if block <= 0 or block % (8 * frame.dtype.itemsize):
        return decompress(frame)[start:stop]
    first, last = start * row_bytes // block, min(-(-stop * row_bytes // block), size // block)
    if last * block < stop * row_bytes:  # the last block is shorter than the others
        return decompress(frame)[start:stop]
    begin, end = _span_of_blocks(frame, payload, first, last, size // block)
    part = b"".join((_FRAMING.pack((last - first) * block, block), payload[begin:end]))
    whole = replace(frame, shape=((last - first) * block // frame.dtype.itemsize, 1), payload=part)
    flat = decompress(whole).reshape(-1)
    skipped = (start * row_bytes - first * block) // frame.dtype.itemsize
    return flat[skipped : skipped + (stop - start) * frame.shape[1]].reshape(stop - start, frame.shape[1])


def compress(array: NDArray[Any], encoding: str) -> bytes:
    """Pack pixels as a detector does.

    array: (row, column), integers; v1's encodings bring it into their own byte order, the others leave it as it is.
    Raises ValueError for an unknown encoding.
    """
    if not is_known(encoding):
        raise ValueError(f"encoding {encoding!r} is unknown; use none, lz4, bslz4, <, lz4< or bs32-lz4<")
    if encoding[-1] in "<>":
        array = array.astype(array.dtype.newbyteorder("<" if encoding[-1] == "<" else ">"), copy=False)
    array = np.ascontiguousarray(array)
    if encoding in {"none", "<", ">"}:
        return array.tobytes()
    if encoding == "lz4":
        return _filtered(array, hdf5plugin.LZ4(nbytes=array.nbytes))
    if encoding.startswith("lz4"):
        return _bare_block(array)
    if match := _BITSHUFFLE.fullmatch(encoding):
        array = array.view(f"u{int(match[1]) // 8}")
    return _filtered(array, hdf5plugin.Bitshuffle(cname="lz4"))


def _decoded(frame: Frame, payload: memoryview, size: int) -> bytes | memoryview:
    """The `size` raw bytes of a payload."""
    encoding = frame.encoding
    if encoding in {"none", "<", ">"}:
        if len(payload) != size:
            raise _corrupt(frame, f"holds {len(payload)} bytes where {size} were expected")
        return payload
    if size > _LZ4_EXPANSION * len(payload) + _FRAMING.size:
        raise _corrupt(frame, f"holds {len(payload)} bytes, too few to become {size}")
    if encoding in {"lz4<", "lz4>"}:
        return _decoded_block(frame, payload, size)
    _check_declared(frame, payload, size)
    if encoding == "lz4":
        return _run(frame, payload, "lz4", 1)
    if encoding == "bslz4":
        return _run(frame, payload, "bslz4", frame.dtype.itemsize)
    if match := _BITSHUFFLE.fullmatch(encoding):
        return _run(frame, payload, "bslz4", int(match[1]) // 8)
    raise _corrupt(frame, f"has the unknown encoding {encoding!r}")


def _check_declared(frame: Frame, payload: memoryview, size: int) -> None:
    if len(payload) < _FRAMING.size:
        raise _corrupt(frame, f"holds only {len(payload)} bytes")
    declared, _ = _FRAMING.unpack_from(payload)
    if declared != size:
        raise _corrupt(frame, f"declares {declared} bytes where {size} were expected")


def _span_of_blocks(frame: Frame, payload: memoryview, first: int, last: int, blocks: int) -> tuple[int, int]:
    """Where blocks first..last lie in the payload; all block headers are walked, to notice a truncated frame."""
    at, begin, end = _FRAMING.size, 0, 0
    read = _BLOCK.unpack_from
    try:
        for index in range(blocks):
            if index == first:
                begin = at
            elif index == last:
                end = at
            at += 4 + read(payload, at)[0]
    except struct.error as error:
        raise _corrupt(frame, f"ends after {len(payload)} bytes, in the midst of its blocks") from error
    if at > len(payload):
        raise _corrupt(frame, f"ends after {len(payload)} bytes, in the midst of its blocks")
    return begin, end or at


def _run(frame: Frame, payload: bytes | memoryview, algorithm: str, element: int) -> bytes:
    expected = _FRAMING.unpack_from(payload)[0]
    try:
        decoded: bytes = _dectris(payload, algorithm, elem_size=element)
    except (RuntimeError, ValueError, MemoryError) as error:
        raise _corrupt(frame, f"cannot be decoded as {algorithm}") from error
    if len(decoded) != expected:
        raise _corrupt(frame, f"decodes to {len(decoded)} bytes where {expected} were expected")
    return decoded


def _decoded_block(frame: Frame, payload: memoryview, size: int) -> bytes | memoryview:
    """Decode an LZ4 block by giving it the framing that it lacks.

    That framing holds a block of unchanged length for stored, not compressed. A compressed block that happens to be
    just as long is therefore led in by a sequence that grows by one byte: four bytes that decode to five.
    """
    lead = b"\x10\x00\x01\x00" if len(payload) == size else b""
    added = 5 if lead else 0
    if max(size + added, len(payload) + len(lead)) >= 1 << 31:
        raise _corrupt(frame, f"is too large for one LZ4 block ({size} bytes)")
    framing = _FRAMING.pack(size + added, size + added) + _BLOCK.pack(len(payload) + len(lead))
    return memoryview(_run(frame, b"".join((framing, lead, payload)), "lz4", 1))[added:]


def _filtered(array: NDArray[Any], compression: Any) -> bytes:
    """Run an array through an HDF5 filter, as one chunk."""
    with h5py.File(f"braggd-compress-{next(_names)}", "w", driver="core", backing_store=False) as file:
        dataset = file.create_dataset("data", data=array, chunks=array.shape, compression=compression)
        return bytes(dataset.id.read_direct_chunk((0,) * array.ndim)[1])


def _bare_block(array: NDArray[Any]) -> bytes:
    """An LZ4 block without framing."""
    framed = _filtered(array, hdf5plugin.LZ4(nbytes=array.nbytes))
    (length,) = _BLOCK.unpack_from(framed, _FRAMING.size)
    block = framed[_FRAMING.size + _BLOCK.size :]
    return _literals(block) if length == array.nbytes else block


def _literals(raw: bytes) -> bytes:
    """An LZ4 block that holds bytes as they are, for what does not compress."""
    if len(raw) < 15:
        return bytes([len(raw) << 4]) + raw
    full, rest = divmod(len(raw) - 15, 255)
    return b"\xf0" + b"\xff" * full + bytes([rest]) + raw


def _corrupt(frame: Frame, what: str) -> CorruptFrame:
    return CorruptFrame(f"frame {frame.index} of series {frame.series} {what}; look at the detector's stream")
