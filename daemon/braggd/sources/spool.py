"""The stream kept on disk as it came, so that no frame is lost when something later in the daemon fails.

A file of records, appended to. Little-endian:

| bytes | meaning |
| --- | --- |
| 4 | `BRG1` |
| u32 | n, number of parts |
| u64 x n | their lengths |
| u32 | CRC-32 of all of the above |
| ... | the parts |
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from braggd.errors import SourceError

Part = bytes | memoryview

_MAGIC: Final = b"BRG1"
_HEAD: Final = struct.Struct("<4sI")
_CHECKSUM: Final = struct.Struct("<I")
_MAX_PARTS: Final = 1000
_ZEROS: Final = 1 << 20


class SpoolWriter:
    """Append messages to a spool file; a context manager. A torn record at the end of an existing file is cut off.

    Raises SourceError where the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            self.size = _intact_size(path)
            os.ftruncate(self._file, self.size)
        except OSError as error:
            raise _unwritable(path, error) from error

    def append(self, parts: Sequence[Part]) -> int:
        """Write one message; returns its offset. Where writing fails, the file is left as it was."""
        if not 0 < len(parts) <= _MAX_PARTS:
            raise SourceError(f"{self.path}: a message of {len(parts)} parts cannot be kept; look at the sender")
        lengths = struct.pack(f"<{len(parts)}Q", *(memoryview(part).nbytes for part in parts))
        head = _HEAD.pack(_MAGIC, len(parts)) + lengths
        offset = self.size
        try:
            self.size += _write_all(self._file, [head + _CHECKSUM.pack(zlib.crc32(head)), *parts])
        except OSError as error:
            os.ftruncate(self._file, offset)
            raise _unwritable(self.path, error) from error
        return offset

    def sync(self) -> None:
        """Wait until what was written is on the disk."""
        try:
            os.fdatasync(self._file)
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class SpoolReader:
    """Read a spool file, also while it is being written, and from several threads; a context manager.

    Raises SourceError where the file cannot be read, or is not a spool.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise SourceError(f"{path}: cannot be read ({error.strerror}); name a spool file") from error

    def __iter__(self) -> Iterator[tuple[int, list[memoryview]]]:
        return self.records()

    def records(self, start: int = 0) -> Iterator[tuple[int, list[memoryview]]]:
        """(offset, parts) of every whole message from an offset on; ends where a record is torn."""
        offset = start
        while (found := self._lengths(offset)) is not None:
            lengths, body = found
            parts = self._parts(body, lengths)
            if parts is None:
                return
            yield offset, parts
            offset = body + sum(lengths)

    def read(self, offset: int) -> list[memoryview]:
        """The parts of the message at an offset that `SpoolWriter.append` or `records` told."""
        found = self._lengths(offset)
        parts = self._parts(found[1], found[0]) if found else None
        if parts is None:
            raise SourceError(f"{self.path}: no whole message begins at byte {offset}; the file was cut short")
        return parts

    def after(self, offset: int) -> int:
        """Where the message after the one at an offset begins: `start` of `records` to go on from there."""
        found = self._lengths(offset)
        if found is None:
            raise SourceError(f"{self.path}: no whole message begins at byte {offset}; the file was cut short")
        return found[1] + sum(found[0])

    def intact_size(self) -> int:
        """Where the last whole message ends; payloads are not read."""
        offset, size = 0, os.fstat(self._file).st_size
        while (found := self._lengths(offset)) is not None and found[1] + sum(found[0]) <= size:
            offset = found[1] + sum(found[0])
        return offset

    def close(self) -> None:
        """Close the file; a second call does nothing. Parts that were read stay valid."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lengths(self, offset: int) -> tuple[tuple[int, ...], int] | None:
        """(lengths of the parts, where the first begins); None at the end of the file and in a torn record."""
        head = os.pread(self._file, _HEAD.size, offset)
        if len(head) < _HEAD.size:
            return None
        magic, parts = _HEAD.unpack(head)
        if magic != _MAGIC or not 0 < parts <= _MAX_PARTS:
            if self._is_unwritten(offset):
                return None
            raise self._damaged(offset)
        rest = os.pread(self._file, 8 * parts + _CHECKSUM.size, offset + _HEAD.size)
        if len(rest) < 8 * parts + _CHECKSUM.size:
            return None
        if _CHECKSUM.unpack_from(rest, 8 * parts)[0] != zlib.crc32(head + rest[: 8 * parts]):
            if self._is_unwritten(offset + _HEAD.size):
                return None
            raise self._damaged(offset)
        return struct.unpack_from(f"<{parts}Q", rest), offset + _HEAD.size + len(rest)

    def _parts(self, body: int, lengths: Sequence[int]) -> list[memoryview] | None:
        size = sum(lengths)
        if body + size > os.fstat(self._file).st_size:
            return None
        whole = memoryview(_read_all(self._file, size, body))
        if len(whole) < size:
            return None
        parts, position = [], 0
        for length in lengths:
            parts.append(whole[position : position + length])
            position += length
        return parts

    def _is_unwritten(self, offset: int) -> bool:
        """Whether only zeros follow: a file system may leave them where power failed before data was written."""
        while chunk := os.pread(self._file, _ZEROS, offset):
            if chunk.count(0) != len(chunk):
                return False
            offset += len(chunk)
        return True

    def _damaged(self, offset: int) -> SourceError:
        return SourceError(f"{self.path}: byte {offset} is no beginning of a message; the file is damaged, remove it")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _intact_size(path: Path) -> int:
    with SpoolReader(path) as reader:
        return reader.intact_size()


def _write_all(file: int, buffers: Sequence[Part]) -> int:
    """Write buffers one behind the other; returns the number of bytes."""
    left = [memoryview(buffer).cast("B") for buffer in buffers if memoryview(buffer).nbytes]
    written = 0
    while left:
        done = os.writev(file, left)
        written += done
        while left and done >= len(left[0]):
            done -= len(left.pop(0))
        if done:
            left[0] = left[0][done:]
    return written


def _read_all(file: int, size: int, offset: int) -> bytearray:
    """`size` bytes from an offset on, fewer at the end of the file; one read call returns at most 2 GiB."""
    whole = bytearray(size)
    view, position = memoryview(whole), 0
    while position < size and (got := os.preadv(file, [view[position:]], offset + position)):
        position += got
    view.release()
    del whole[position:]
    return whole


def _unwritable(path: Path, error: OSError) -> SourceError:
    return SourceError(f"{path}: cannot be written ({error.strerror}); free the disk or name another spool folder")
