"""A daemon in a process of its own, for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from braggd.client import Client
from braggd.data import Result, Status
from braggd.errors import ClientError

SMALL = """
[scan]
window = [64, 64]
[phasing]
shape = [32, 64, 64]
recipe = "40*HIO + 20*ER"
starts = 1
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Daemon:
    """A running `braggd run`."""

    folder: Path
    process: subprocess.Popen[bytes]
    source: str
    publish: str
    requests: str
    http: str
    tango: str

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def client(self) -> Client:
        return Client(self.publish, self.requests)

    def stop(self, within_s: float = 10.0) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(within_s)

    def wait_for(self, seen: Callable[[Status], bool], timeout_s: float = 120.0) -> Status:
        deadline = time.monotonic() + timeout_s
        with self.client() as client:
            while time.monotonic() < deadline:
                try:
                    status = client.status(timeout_s=2.0)
                except ClientError:
                    assert self.process.poll() is None, self.log
                    continue
                if seen(status):
                    return status
                time.sleep(0.05)
        raise AssertionError(f"the daemon's status is {status}\n{self.log}")


@contextmanager
def daemon(folder: Path, settings: str = SMALL, tango: bool = False, **environment: str) -> Iterator[Daemon]:
    """Run a daemon in `folder` on free ports; it is killed at the end unless it was stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    ports = [free_port() for _ in range(5)]
    ends = [f"tcp://127.0.0.1:{port}" for port in ports]
    config = folder / "braggd.toml"
    config.write_text(
        f"""{settings}
[source]
endpoint = "{ends[0]}"
idle_timeout_s = 3.0
[results]
publish = "{ends[1]}"
requests = "{ends[2]}"
[archive]
folder = "{folder}/archive"
[service]
spool = "{folder}/spool"
[http]
port = {ports[3]}
[tango]
device = "{"test/braggd/1" if tango else "off"}"
port = {ports[4]}
"""
    )
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "braggd", "run", str(config)], stderr=log, env=os.environ | environment
        )
    try:
        yield Daemon(
            folder=folder,
            process=process,
            source=ends[0],
            publish=ends[1],
            requests=ends[2],
            http=f"http://127.0.0.1:{ports[3]}",
            tango=f"tango://127.0.0.1:{ports[4]}/test/braggd/1#dbase=no",
        )
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def next_result(client: Client, stage: str, timeout_s: float = 120.0) -> Result:
    """The next result of that stage."""
    for result in client.results(timeout_s=timeout_s):
        if result.stage == stage:
            return result
    raise AssertionError("the stream of results has no end")
