"""Files that appear at once or not at all."""

from __future__ import annotations

import glob
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from braggd.errors import OutletError

_PART = ".part"


def replace_file(path: Path, content: bytes) -> None:
    """Write a file under a temporary name, sync and rename it.

    Raises OutletError where the folder is missing, not writable or full; nothing is left behind then.
    """
    with replacing(path) as part, part.open("wb") as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when all went well, and goes when not.

    What a writer left that was killed on this host is removed first. OSError becomes OutletError.
    """
    part = path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}{_PART}")
    _sweep(path)
    try:
        yield part
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutletError(f"{path} cannot be written ({reason}); check the folder, its rights and its space") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    start = f".{path.name}.{socket.gethostname()}-"
    with suppress(OSError):
        for part in path.parent.glob(f"{glob.escape(start)}*{_PART}"):
            owner = part.name.removeprefix(start).split("-")[0]
            if owner.isdigit() and not Path("/proc", owner).exists():
                part.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
