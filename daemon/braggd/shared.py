"""Arrays in shared memory, so that frames and volumes cross process boundaries without a copy."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import numpy as np
from numpy.typing import NDArray

_FOLDER = Path("/dev/shm")
_PREFIX = "braggd"


class ArrayHandle(msgspec.Struct, frozen=True, kw_only=True):
    """What another process needs to open a shared array."""

    name: str
    shape: tuple[int, ...]
    dtype: str


def create(shape: tuple[int, ...], dtype: Any) -> tuple[ArrayHandle, NDArray[Any]]:
    """Make a shared array of zeros; whoever is the last to need it calls `unlink`."""
    dtype = np.dtype(dtype)
    handle = ArrayHandle(name=f"{_PREFIX}-{os.getpid()}-{uuid4().hex[:12]}", shape=shape, dtype=dtype.str)
    size = max(1, int(np.prod(shape)) * dtype.itemsize)
    descriptor = os.open(_FOLDER / handle.name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size)
        # Pages are mapped now, at once: a fault for each, later, would cost the ingest as much as its frames.
        memory = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    except OSError:
        unlink(handle)
        raise
    finally:
        os.close(descriptor)
    return handle, np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape)


def share(array: NDArray[Any]) -> ArrayHandle:
    """Copy an array into shared memory."""
    handle, target = create(array.shape, array.dtype)
    target[...] = array
    return handle


def attach(handle: ArrayHandle) -> NDArray[Any]:
    """Open a shared array of another process.

    Raises FileNotFoundError where it was unlinked meanwhile.
    """
    descriptor = os.open(_FOLDER / handle.name, os.O_RDWR)
    try:
        memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    return np.frombuffer(memory, np.dtype(handle.dtype), int(np.prod(handle.shape))).reshape(handle.shape)


def unlink(handle: ArrayHandle) -> None:
    """Give the name back; the memory goes when the last process lets go of its array."""
    (_FOLDER / handle.name).unlink(missing_ok=True)


def sweep() -> None:
    """Remove what processes that no longer live have left behind."""
    for path in _FOLDER.glob(f"{_PREFIX}-*-*"):
        owner = path.name.split("-")[1]
        if owner.isdigit() and not Path("/proc", owner).exists():
            path.unlink(missing_ok=True)
