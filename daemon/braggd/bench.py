"""`braggd bench`: this machine against the bounds, as ratios within one run."""

from __future__ import annotations

import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from braggd import compression
from braggd.config import ArchiveConfig, Config
from braggd.data import Frame
from braggd.errors import BraggdError
from braggd.example import example_scan
from braggd.ingest import Closed, Ingest
from braggd.sources.files import read_scan
from braggd.sources.messages import decode
from braggd.sources.replay import Sender, prepare
from braggd.sources.stream import FrameStream

_RECEIVERS = ("bare", "ingest")


def bench_ingest(detector: str, frames: int, repeats: int) -> None:
    """Send series at full speed to a bare loop and to the ingest in turns, and print the frame rates and their ratio.

    Both run in processes of their own; the sender has compressed its frames beforehand.
    """
    console = Console()
    recorded = read_scan(str(example_scan()))
    counts = recorded.counts[np.arange(frames) % len(recorded.counts)].astype(np.uint32)
    with console.status(f"compressing {frames} frames of {detector}"):
        messages = prepare(counts, recorded.geometry, detector=detector, protocol="simplon-v2")
    size = sum(len(part) for message in messages for part in message)
    runs: dict[str, list[_Run]] = {name: [] for name in _RECEIVERS}
    with Sender("tcp://127.0.0.1:*") as sender, console.status("sending"):
        for _ in range(repeats):
            for name in _RECEIVERS:
                process = subprocess.Popen(
                    [sys.executable, "-m", "braggd.bench", name, sender.endpoint, str(frames)],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                sender.send(messages)
                said, _ = process.communicate(timeout=600)
                runs[name].append(_Run.parse(said, name))
    table = Table(box=None, header_style="bold", title=f"{frames} frames of {detector}, {size / 1e6:.0f} MB compressed")
    for column in ("receiver", "frames/s, median", "used", "lost", "peak memory, MB"):
        table.add_column(column, justify="left" if column == "receiver" else "right")
    for name, done in runs.items():
        rate = statistics.median(run.rate for run in done)
        worst = min(run.used for run in done)
        memory = max(run.memory_mb for run in done)
        table.add_row(name, f"{rate:.0f}", str(worst), str(frames - worst), f"{memory:.0f}")
    ratio = statistics.median(run.rate for run in runs["ingest"]) / statistics.median(run.rate for run in runs["bare"])
    console.print(table)
    console.print(f"ratio ingest / bare: {ratio:.2f}   ({platform.machine()}, {_processor()})", highlight=False)


class _Run:
    """What a receiver says of one series."""

    def __init__(self, rate: float, used: int, memory_mb: float) -> None:
        self.rate, self.used, self.memory_mb = rate, used, memory_mb

    @classmethod
    def parse(cls, said: str, name: str) -> _Run:
        found = re.search(r"rate (\S+) used (\d+) memory (\S+)", said)
        if found is None:
            raise BraggdError(f"the receiver {name!r} ended without a figure; run it by hand to see why")
        return cls(float(found[1]), int(found[2]), float(found[3]))


def _bare(endpoint: str, frames: int) -> int:
    """Receive and decompress, nothing else."""
    used = 0
    with FrameStream(endpoint) as stream:
        while used < frames:
            parts = stream.receive(30.0)
            if parts is None:
                break
            for event in decode(parts):
                if isinstance(event, Frame):
                    _start_clock()
                    compression.decompress(event)
                    used += 1
    return used


def _ingest(endpoint: str, frames: int) -> int:
    """The daemon's ingest, spool included, until the scan is assembled."""
    closed: list[Closed] = []
    with tempfile.TemporaryDirectory(prefix="braggd-bench-") as spool, FrameStream(endpoint) as stream:
        config = Config(archive=ArchiveConfig(folder=""))
        ingest = Ingest(config, Path(spool), closed.append, lambda _: None, lambda *_: _start_clock())
        while not closed:
            parts = stream.receive(30.0)
            if parts is None:
                break
            ingest.handle(parts)
            ingest.tick()
    for each in closed:
        if each.scan is not None:
            each.scan.release()
    return closed[0].ledger.used if closed else 0


_clock: list[float] = []


def _start_clock() -> None:
    if not _clock:
        _clock.append(time.perf_counter())


def _peak_memory_mb() -> float:
    """Largest resident memory of this process; without what it shares through /dev/shm twice."""
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else float("nan")


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else "unknown processor"


def _main(name: str, endpoint: str, frames: int) -> None:
    used = {"bare": _bare, "ingest": _ingest}[name](endpoint, frames)
    seconds = time.perf_counter() - _clock[0] if _clock else float("nan")
    sys.stdout.write(f"rate {used / seconds:.2f} used {used} memory {_peak_memory_mb():.0f}\n")


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
