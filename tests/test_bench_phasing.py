"""What `braggd bench phasing` measures and prints."""

import os
import re
import subprocess
import sys

import pytest

from braggd.bench_steps import steps
from braggd.errors import BraggdError
from braggd.peers.interpreter import COHERE, PYNX, Installed, Stopwatch, locate
from braggd.phasing import fourier
from braggd.phasing.projections import ALGORITHMS

ROW = re.compile(r"^ (\S.*?) {2,}([\d.]+|not installed|not measured)(?: +([\d.]+))?(?: +([\d.]+) x)? *$", re.MULTILINE)


def bench(*arguments):
    command = [sys.executable, "-m", "braggd", "bench", "phasing", *arguments]
    environment = {**os.environ, "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)


def test_every_step_is_told_with_its_ratio_to_the_fastest_transforms():
    done = bench("--shape", "24x20x30", "--shape", "16x16x16", "--repeats", "3", "--no-peers")
    assert done.returncode == 0, done.stderr
    for title in ("24 x 20 x 30", "16 x 16 x 16"):
        assert title in done.stdout
    told = ROW.findall(done.stdout)
    half = len(told) // 2
    for rows in (told[:half], told[half:]):
        names = [name for name, *_ in rows]
        assert {f"FFT pair, {name}" for name in fourier.LIBRARIES} < set(names)
        assert {f"{name} iteration" for name in ALGORITHMS} | {"shrink-wrap update"} < set(names)
        ratios = [float(ratio) for name, _, ratio, _ in rows if name.startswith("FFT") and name != "FFT pair, cuFFT"]
        assert min(ratios) == 1.0
    assert "3 rounds" in done.stdout
    assert f"{fourier.cores()} threads" in done.stdout


def test_whole_runs_are_timed_where_they_are_asked_for():
    done = bench("--shape", "16x16x16", "--repeats", "1", "--no-peers", "--runs", "2")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^2 runs of 400\*HIO \+ 1000\*RAAR \+ 300\*ER: [\d.]+ s, \S", done.stdout, re.MULTILINE)


def test_a_peer_is_compared_with_the_same_step_of_braggd_or_said_to_be_missing():
    done = bench("--shape", "16x16x16", "--repeats", "1")
    assert done.returncode == 0, done.stderr
    rows = {name: rest for name, *rest in ROW.findall(done.stdout)}
    for peer in (PYNX, COHERE):
        for algorithm in ("ER", "HIO", "RAAR"):
            time, _, faster = rows[f"{peer.name} {algorithm} iteration"]
            if locate(peer) is None:
                assert time == "not installed"
            else:
                own = float(rows[f"{algorithm} iteration"][0])
                assert float(faster) == pytest.approx(float(time) / own, rel=0.1, abs=0.1)


def test_what_cannot_run_here_says_why():
    with steps((16, 16, 16), {PYNX: None, COHERE: None}) as rows:
        peers = [row for row in rows if row.peer]
        gpu = [row for row in rows if row.device == "GPU"]
    assert len(peers) == 7
    assert all(row.run is None and row.why_not == "not installed" for row in peers)
    assert {row.name for row in gpu} >= {"FFT pair, cuFFT", "ER iteration, GPU", "RAAR iteration, GPU"}
    assert all(row.run is not None or row.why_not == "not measured" for row in gpu)


def test_an_interpreter_without_the_peer_is_named():
    done = bench("--shape", "16x16x16", "--pynx", "/nowhere/python")
    assert done.returncode == 1
    assert "/nowhere/python" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_peer_that_fails_is_told_with_its_last_words(tmp_path):
    stopwatch = Stopwatch(Installed(peer=COHERE, python=sys.executable, version="0"), {"nothing": 0})
    with stopwatch, pytest.raises(BraggdError, match=r"cohere in .* failed: .*Error"):
        stopwatch.seconds("ER", 1)


@pytest.mark.parametrize("shape", ["128", "16x16", "4x16x16", "axbxc"])
def test_a_shape_that_cannot_be_read_is_named(shape):
    done = bench("--shape", shape)
    assert done.returncode == 1
    assert f"'{shape}'" in done.stderr
    assert "Traceback" not in done.stderr
