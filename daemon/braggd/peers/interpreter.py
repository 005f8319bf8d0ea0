"""Which interpreter has a peer, and how its script is run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from braggd.errors import BraggdError
from braggd.phasing import fourier

_SYSTEM = "/usr/bin/python3"  # where a distribution's package is installed, as Debian's python3-pynx
_PROBE = (
    "import importlib.metadata as m, sys, importlib as i; i.import_module(sys.argv[1]); print(m.version(sys.argv[1]))"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """A package that can be run beside braggd.

    name: as it is printed; module: what is imported; script: what its interpreter runs
    """

    name: str
    module: str
    script: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """A peer and an interpreter that has it."""

    peer: Peer
    python: str
    version: str

    def command(self, what: str, *files: Path) -> list[str]:
        """The command line that runs the peer's script."""
        return [self.python, str(Path(__file__).with_name(self.peer.script)), what, *map(str, files)]


PYNX = Peer(name="PyNX", module="pynx", script="pynx_run.py")
COHERE = Peer(name="cohere", module="cohere_core", script="cohere_run.py")


def locate(peer: Peer, python: str = "") -> Installed | None:
    """The interpreter to run a peer with: the one named, else this one or the system's; None where none has it.

    Raises BraggdError where the interpreter that was named does not have it.
    """
    for candidate in (python,) if python else (sys.executable, _SYSTEM):
        try:
            probe = subprocess.run(
                [candidate, "-c", _PROBE, peer.module], capture_output=True, text=True, check=False, env=_environment()
            )
        except OSError:
            continue
        if probe.returncode == 0:
            return Installed(peer=peer, python=candidate, version=probe.stdout.strip().splitlines()[-1])
    if python:
        raise BraggdError(
            f"{python}: cannot import {peer.module}; name an interpreter in which {peer.name} is installed"
        )
    return None


def run(installed: Installed, problem: Path, result: Path) -> None:
    """Have a peer phase a problem.

    problem, result: .npz files, as the peer's script documents them

    Raises BraggdError where it fails.
    """
    command = installed.command("phase", problem, result)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_environment())
    if done.returncode != 0 or not result.is_file():
        raise _failed(installed, done.stderr)


class Stopwatch:
    """A peer that waits, in a process of its own, to be timed; a context manager."""

    def __init__(self, installed: Installed, problem: Mapping[str, Any]) -> None:
        """problem: the arrays of its .npz file."""
        self._installed, self._problem = installed, problem

    def __enter__(self) -> Stopwatch:
        self._folder = tempfile.TemporaryDirectory(prefix="braggd-bench-")
        path = Path(self._folder.name)
        np.savez(path / "problem.npz", **self._problem)
        self._said = (path / "stderr").open("w+")
        self._process = subprocess.Popen(
            self._installed.command("time", path / "problem.npz"),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True, env=_environment(),
        )  # fmt: skip
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._said.close()
        self._folder.cleanup()

    def seconds(self, step: str, count: int) -> float:
        """How long so many iterations of an algorithm take.

        Raises BraggdError where the peer fails.
        """
        if self._process.stdin is None or self._process.stdout is None:
            raise BraggdError(f"{self._installed.peer.name} is not running; time it within its context")
        try:
            self._process.stdin.write(f"{step} {count}\n")
            self._process.stdin.flush()
            return float(self._process.stdout.readline())
        except (OSError, ValueError) as error:
            self._process.wait()
            self._said.seek(0)
            raise _failed(self._installed, self._said.read()) from error


def _failed(installed: Installed, said: str) -> BraggdError:
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    return BraggdError(f"{installed.peer.name} in {installed.python} failed: {last}")


def _environment() -> dict[str, str]:
    """As many threads as braggd takes."""
    threads = str(fourier.cores())
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POCL_MAX_PTHREAD_COUNT")
    return {**os.environ, **dict.fromkeys(names, threads), "OMP_WAIT_POLICY": "passive"}
