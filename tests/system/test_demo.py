"""The README's first command, judged by what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

from braggd.phasing.align import align


def braggd(*arguments: object) -> str:
    command = [sys.executable, "-m", "braggd", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(1500)
def test_the_crystal_behind_a_gap_is_the_crystal_without_one(tmp_path: Path) -> None:
    said = braggd("demo", "-o", tmp_path / "demo")
    assert "refined" in said
    assert "the daemon ended with 0" in said
    (archive,) = (tmp_path / "demo").glob("*.cxi")
    assert archive.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    braggd("reconstruct", "example", "-o", tmp_path / "whole.cxi")
    with h5py.File(archive) as demo, h5py.File(tmp_path / "whole.cxi") as whole:
        mask = demo["entry_1/data_1/mask"][()].astype(bool)
        density, reference = (f["entry_1/image_1/data"][()] for f in (demo, whole))
    blind_rows = np.flatnonzero(mask.all(axis=(0, 2)))
    blind_columns = np.flatnonzero(mask.all(axis=(0, 1)))
    assert len(blind_rows) == len(blind_columns) == 6
    # 12 px beside the peak; the volume's middle is the brightest place after the flat field, a pixel or two from it
    assert abs(blind_rows[0] - 64 - 12) <= 2
    assert abs(blind_columns[0] - 64 - 12) <= 2
    assert align(reference, density).correlation >= 0.90
    modulus = np.abs(density)
    _, pieces = ndimage.label(modulus > 0.2 * modulus.max(), np.ones((3, 3, 3)))  # corners touch, as in `components`
    assert pieces == 1
