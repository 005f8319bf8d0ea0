"""`braggd demo`: a real daemon, a real stream, a measured scan, and what comes out of it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.live import Live

from braggd.client import Client
from braggd.config import TangoConfig
from braggd.data import Geometry, Result
from braggd.errors import BraggdError, ClientError
from braggd.example import example_flatfield, example_scan
from braggd.scan.detector import detector as detector_named
from braggd.sources.embed import Placement
from braggd.sources.files import read_scan
from braggd.watch import View, stage_table

DETECTOR, PEAK_AT = "maxipix-2x2", (243, 243)  # the cross of its gaps (255:261) begins 12 px beside the peak
_RATE_HZ = 50.0
_PATIENCE_S = 300.0
_LAST_STAGE = "final"


def run_demo(output: Path) -> None:
    """Start a daemon, play the shipped scan to it, show progress, and leave archive and picture in `output`.

    Raises BraggdError where the daemon does not do its work.
    """
    console = Console()
    output.mkdir(parents=True, exist_ok=True)
    ports = _free_ports(5)
    endpoints = [f"tcp://127.0.0.1:{port}" for port in ports]
    scan = read_scan(str(example_scan()))
    spool = Path(tempfile.mkdtemp(prefix="braggd-demo-"))
    flatfield = output.absolute() / "flatfield.npy"
    np.save(flatfield, _flatfield(scan.counts))
    config = output / "braggd.toml"
    config.write_text(_toml(endpoints, ports, output.absolute(), spool, flatfield, scan.geometry))
    console.print(f"A daemon on this machine, and a detector ({DETECTOR}) that plays {scan.title} at {_RATE_HZ:g} Hz.")
    began = time.monotonic()
    log = output / "braggd.log"
    with log.open("wb") as log_file:
        daemon = subprocess.Popen([sys.executable, "-m", "braggd", "run", str(config)], stderr=log_file)
    player: subprocess.Popen[bytes] | None = None
    try:
        with Client(endpoints[1], endpoints[2]) as client:
            _await_ready(client, daemon, log)
            player = subprocess.Popen(_replay_command(endpoints[0]), stderr=subprocess.DEVNULL)
            results, archive = _follow(client, daemon, output, log, console)
    finally:
        if player is not None:
            player.terminate()
            player.wait()
        daemon.send_signal(signal.SIGTERM)
        code = daemon.wait(15)
        shutil.rmtree(spool, ignore_errors=True)
    console.print(stage_table(results))
    for warning in dict.fromkeys(w for result in results for w in result.warnings):
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)
    console.print(
        f"archive  {archive}\npicture  {archive.with_suffix('.png')}", highlight=False, markup=False, soft_wrap=True
    )
    console.print(f"{time.monotonic() - began:.0f} s in all; the daemon ended with {code}.")


def _follow(
    client: Client, daemon: subprocess.Popen[bytes], output: Path, log: Path, console: Console
) -> tuple[list[Result], Path]:
    """Show what the daemon publishes until the last stage is in the archive."""
    view, deadline = View(), time.monotonic() + _PATIENCE_S
    last: Result | None = None
    with Live(view, console=console, refresh_per_second=8, transient=True):
        while True:
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise BraggdError(f"the daemon did not come to an end with the scan; see {log}")
            try:
                message = client.receive(timeout_s=2.0)
            except ClientError:
                continue
            view.take(message)
            if isinstance(message, Result) and message.stage == _LAST_STAGE:
                last = message
            if last is None and (sentence := view.status.degraded.get("scan")):
                raise BraggdError(f"the scan could not be reconstructed: {sentence}")
            if last is not None and not view.status.activity:  # filed as well
                break
    return list(view.stages.values()), output.absolute() / f"{last.scan_id}.cxi"


def _await_ready(client: Client, daemon: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the daemon publishes; its libraries load meanwhile, which the scan does not wait for."""
    for _ in range(60):
        try:
            client.subscribe(timeout_s=1.0)
        except ClientError as error:
            if daemon.poll() is not None:
                raise BraggdError(f"the daemon ended with {daemon.returncode} at its start; see {log}") from error
        else:
            return
    raise BraggdError(f"the daemon does not answer; see {log}")


def _replay_command(endpoint: str) -> list[str]:
    row, column = PEAK_AT
    return [
        *(sys.executable, "-m", "braggd", "replay", "example", "--to", endpoint, "--rate", str(_RATE_HZ)),
        *("--detector", DETECTOR, "--at", f"{row},{column}"),
    ]


def _flatfield(counts: NDArray[Any]) -> NDArray[np.float32]:
    """The recorded detector region's white field where the player puts it into the full frame; (row, column)."""
    file, _, dataset = example_flatfield().partition("::")
    with h5py.File(file) as opened:
        white = np.asarray(opened[dataset])
    place = Placement.at_peak(counts, detector_named(DETECTOR), PEAK_AT)
    inside = place(np.ones(white.shape, np.uint32), np.dtype(np.uint32)) == 1
    full = place(white.astype(np.uint32), np.dtype(np.uint32))
    return np.where(inside, full, np.median(white)).astype(np.float32)


def _toml(
    endpoints: list[str], ports: list[int], output: Path, spool: Path, flatfield: Path, geometry: Geometry
) -> str:
    angles = ", ".join(f"{name} = {value!r}" for name, value in geometry.angles_deg.items())
    return f"""\
[source]
endpoint = "{endpoints[0]}"

[detector]
flatfield = "{flatfield}"

[geometry]
diffractometer = "{geometry.diffractometer}"
distance_m = {geometry.distance_m!r}
angles_deg = {{ {angles} }}

[phasing]
starts = 3

[results]
publish = "{endpoints[1]}"
requests = "{endpoints[2]}"

[archive]
folder = "{output}"

[service]
spool = "{spool}"

[http]
port = {ports[3]}

[tango]
device = "{TangoConfig().device}"
port = {ports[4]}
"""


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    try:
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]
    finally:
        for free in sockets:
            free.close()
