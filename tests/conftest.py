"""Things that many tests start from."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from braggd import shared
from braggd.example import example_scan

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("KMP_BLOCKTIME", "0")


@pytest.fixture(scope="session")
def measured_counts() -> NDArray[np.int32]:
    """The shipped scan, (201, 256, 256) photons."""
    with h5py.File(example_scan()) as file:
        return np.asarray(file["entry/data/data"])


@pytest.fixture
def no_shared_memory_left() -> Iterator[None]:
    """Every shared array that a test makes is given back."""
    pattern = f"braggd-{os.getpid()}-*"
    before = set(Path("/dev/shm").glob(pattern))
    yield
    left = set(Path("/dev/shm").glob(pattern)) - before
    for path in left:
        shared.unlink(shared.ArrayHandle(name=path.name, shape=(), dtype="u1"))
    assert not left
