"""What `braggd bench phasing` measures and prints."""

import re
import subprocess
import sys

import pytest

from braggd.phasing import fourier
from braggd.phasing.projections import ALGORITHMS


def bench(*arguments):
    command = [sys.executable, "-m", "braggd", "bench", "phasing", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_every_step_is_told_with_its_ratio_to_the_fastest_transforms():
    done = bench("--shape", "24x20x30", "--shape", "16x16x16", "--repeats", "3")
    assert done.returncode == 0, done.stderr
    for title in ("24 x 20 x 30", "16 x 16 x 16"):
        assert title in done.stdout
    told = re.findall(r"^ (\S.*?) +([\d.]+) +([\d.]+) *$", done.stdout, re.MULTILINE)
    half = len(told) // 2
    for rows in (told[:half], told[half:]):
        names = [name for name, _, _ in rows]
        assert {f"FFT pair, {name}" for name in fourier.LIBRARIES} < set(names)
        assert {f"{name} iteration" for name in ALGORITHMS} | {"shrink-wrap update"} < set(names)
        ratios = [float(ratio) for name, _, ratio in rows if name.startswith("FFT")]
        assert min(ratios) == 1.0
    assert "3 rounds" in done.stdout
    assert f"{fourier.cores()} threads" in done.stdout


@pytest.mark.parametrize("shape", ["128", "16x16", "4x16x16", "axbxc"])
def test_a_shape_that_cannot_be_read_is_named(shape):
    done = bench("--shape", shape)
    assert done.returncode == 1
    assert f"'{shape}'" in done.stderr
    assert "Traceback" not in done.stderr
