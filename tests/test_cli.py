"""What the commands say when something is wrong: one sentence, the right exit code, no traceback."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest

from braggd import __version__


def braggd(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "braggd", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd, check=False)


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed command says; exactly one line of its own on stderr."""
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if " INFO " not in line]
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        yield owner.getsockname()[1]


def test_the_version_is_told() -> None:
    done = braggd("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"braggd {__version__}")


def test_wrong_usage_exits_with_2() -> None:
    assert braggd("reconstruct").returncode == 2
    assert braggd("replay", "example", "--to", "tcp://127.0.0.1:1", "--protocol", "kafka").returncode == 2


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[phasing]\nrecipee = '10*ER'\n", "unknown field `recipee`"),
        ("[sauce]\n", "unknown field `sauce`"),
        ("[http]\nport = 99999\n", "$.http.port"),
        ("[source]\npattern = 'push'\n", "$.source.pattern"),
        ("[source\n", "braggd.toml"),
    ],
)
def test_a_wrong_configuration_is_named_by_file_and_field(tmp_path: Path, text: str, named: str) -> None:
    config = tmp_path / "braggd.toml"
    config.write_text(text)
    for command in ("run", "check"):
        said = sentence(braggd(command, config))
        assert str(config) in said
        assert named in said


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    assert f"{tmp_path}/none.toml: cannot be read" in sentence(braggd("run", tmp_path / "none.toml"))


def test_a_missing_scan_file_is_named(tmp_path: Path) -> None:
    assert "none.h5" in sentence(braggd("reconstruct", tmp_path / "none.h5", "-o", tmp_path / "out.cxi"))


def test_a_wrong_dataset_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    file = tmp_path / "scan.h5"
    with h5py.File(file, "w") as h5:
        h5["entry/frames"] = np.ones((3, 8, 8), np.int32)
    said = sentence(braggd("reconstruct", f"{file}::/entry/data", "-o", tmp_path / "out.cxi"))
    assert "/entry/data" in said
    assert "entry/frames" in said


def test_a_scan_without_photons_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "dark.npz"
    np.savez(file, data=np.zeros((16, 32, 32), np.int32))
    assert "no photon" in sentence(braggd("reconstruct", file, "-o", tmp_path / "out.cxi"))


@pytest.mark.parametrize("table", ["results", "http"])
def test_a_port_in_use_is_named(tmp_path: Path, taken_port: int, table: str) -> None:
    field = f'publish = "tcp://127.0.0.1:{taken_port}"' if table == "results" else f"port = {taken_port}"
    free = "" if table == "results" else '[results]\npublish = "tcp://127.0.0.1:*"\nrequests = "tcp://127.0.0.1:*"\n'
    config = tmp_path / "braggd.toml"
    config.write_text(f"{free}[{table}]\n{field}\n[tango]\ndevice = 'off'\n")
    for command in ("run", "check"):
        assert str(taken_port) in sentence(braggd(command, config, cwd=tmp_path))


def test_check_names_every_fault(tmp_path: Path) -> None:
    config = tmp_path / "braggd.toml"
    config.write_text(
        """
[detector]
name = "EIGER3 9M"
mask = "/nowhere/mask.npy"
[inference]
inpaint_model = "/nowhere/gap.onnx"
[phasing]
recipe = "10*HOI"
[archive]
folder = "FILE/archive"
[results]
publish = "tcp://127.0.0.1:5999"
requests = "tcp://127.0.0.1:5999"
[source]
endpoint = "http://detector"
[geometry]
diffractometer = "kitchen-table"
""".replace("FILE", str(config))
    )
    done = braggd("check", config)
    assert done.returncode == 1
    for field in (
        *("[detector] name", "[detector] mask", "[inference] inpaint_model", "[phasing] recipe", "[archive] folder"),
        *("[results] requests", "[source] endpoint", "[geometry] diffractometer"),
    ):
        assert sum(line.startswith(field) for line in done.stderr.splitlines()) == 1, done.stderr


def test_check_finds_nothing_wrong_with_the_defaults(tmp_path: Path) -> None:
    config = tmp_path / "braggd.toml"
    config.write_text(
        "[tango]\ndevice = 'off'\n[http]\nport = 0\n[results]\npublish = 'ipc://p'\nrequests = 'ipc://r'\n"
    )
    done = braggd("check", config, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
