import json
import subprocess
import sys

import h5py
import numpy as np
import pytest

from braggd.sources.files import read_scan
from braggd_models.simulate.dataset import random_crystal


def run(*arguments):
    command = [sys.executable, "-c", "from braggd_models.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("ending", ["npz", "h5"])
def test_simulated_files_are_scans_that_braggd_reads(tmp_path, ending):
    path = tmp_path / f"scan.{ending}"
    done = run("simulate", "-o", path, "--seed", 8, "--shape", "24,32,40", "--range", 4, "--gap", "cross")
    assert done.returncode == 0, done.stderr
    expected = random_crystal(8, shape=(24, 32, 40), phase_range=(4.0, 4.0), gap=("cross",))
    scan = read_scan(str(path))
    assert np.array_equal(scan.counts[:], expected.counts)
    if ending == "npz":
        with np.load(path) as arrays:
            assert np.array_equal(arrays["density"], expected.density)
            assert np.array_equal(arrays["mask"] == 0, expected.valid)
    else:
        with h5py.File(path) as file:
            assert np.array_equal(file["entry/data/mask"][()] == 0, expected.valid)
            assert np.array_equal(file["entry/truth/density"][()], expected.density)
            assert json.loads(file["entry/truth/parameters"][()]) == expected.parameters


def test_wrong_usage_is_told_in_a_sentence(tmp_path):
    wrong = run("simulate", "-o", tmp_path / "a.npz", "--range", "3,1")
    assert wrong.returncode == 2
    unknown = run("simulate", "-o", tmp_path / "a.npz", "--strain", "twist")
    assert unknown.returncode == 1
    assert "choose one of none" in unknown.stderr
    ending = run("simulate", "-o", tmp_path / "a.tif", "--shape", 16)
    assert ending.returncode == 1
    assert "ends in .npz or .h5" in ending.stderr
    assert not list(tmp_path.iterdir())


def test_phase_networks_are_chosen_by_name(tmp_path):
    pytest.importorskip("torch")
    unknown = run("train", "phase", "--net", "none")
    assert unknown.returncode == 2
    assert "choose one of seed" in unknown.stderr
    method = run("score", "phases", "--method", "guess", "-o", tmp_path / "b.md")
    assert method.returncode == 2
    untrained = run("export", "phase", "--folder", tmp_path, "-o", tmp_path / "phase.onnx")
    assert untrained.returncode == 1
    assert "holds no trained network" in untrained.stderr
    assert not list(tmp_path.iterdir())
