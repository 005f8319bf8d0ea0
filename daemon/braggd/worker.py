"""The reconstruction process: takes scans from shared memory, gives stages back the same way.

It is a process of its own so that a fault in it (GPU, memory) leaves the ingest untouched: the service sees the
connection close, starts another one and gives it the scan again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import chain
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import numpy as np

from braggd import shared
from braggd.config import Config
from braggd.data import Frame, Geometry, Ledger, NamedArray, Reconstruction, Result, Scan, Stage
from braggd.errors import BraggdError

log = logging.getLogger(__name__)


class Job(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A scan to be reconstructed; its arrays are in shared memory, its messages in the file `spool`, or ""."""

    scan_id: str
    counts: shared.ArrayHandle
    valid: shared.ArrayHandle
    geometry: Geometry
    origin: tuple[int, int, int]
    ledger: dict[str, int | None]
    warnings: tuple[str, ...]
    spool: str


class Abort(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Give up the scan in hand."""


class Hurry(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Another scan waits: leave out what would only make the scan in hand better."""


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The worker has loaded everything and waits."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How far the scan in hand has come, 0..1, and what is being done."""

    scan_id: str
    share: float
    doing: str


class SharedArray(msgspec.Struct, frozen=True, kw_only=True):
    """An array of a result; the receiver unlinks it."""

    name: str
    handle: shared.ArrayHandle
    axes: tuple[str, ...]
    unit: str


class StageDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A stage exists."""

    scan_id: str
    stage: Stage
    arrays: tuple[SharedArray, ...]
    metrics: dict[str, float | None]
    warnings: tuple[str, ...]
    geometry: Geometry
    timing: dict[str, float]
    provider: str
    degraded: dict[str, str]


class Filed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """A stage is in the archive; `error` says why not, or is ""."""

    scan_id: str
    stage: Stage
    archive: str
    error: str


class JobDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The scan is finished; `error` says why it failed, or is ""."""

    scan_id: str
    error: str


FromWorker = Ready | Progress | StageDone | Filed | JobDone
ToWorker = Job | Abort | Hurry


class Worker:
    """The service's end of a reconstruction process."""

    def __init__(self, config: Config) -> None:
        """Start the process; it says `Ready` once its libraries are loaded and compiled."""
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "braggd.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=_environment(config),
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        self._connection.send_bytes(msgspec.json.encode(config))

    def send(self, message: ToWorker) -> bool:
        """Hand a message over; False where the process is gone."""
        try:
            self._connection.send_bytes(msgspec.json.encode(message))
        except OSError:
            return False
        return True

    def receive(self) -> list[FromWorker]:
        """All messages that wait.

        Raises EOFError once the process is gone and all it said was read.
        """
        messages: list[FromWorker] = []
        try:
            while self._connection.poll():
                messages.append(msgspec.json.decode(self._connection.recv_bytes(), type=FromWorker))
        except (EOFError, OSError):
            if not messages:
                raise EOFError from None
        return messages

    def stop(self, patience_s: float) -> None:
        """End the process, politely first."""
        self._connection.close()
        try:
            self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def result_of(done: StageDone) -> Result:
    """The result in a message, its arrays mapped, their names given back."""
    arrays = []
    for item in done.arrays:
        arrays.append(NamedArray(name=item.name, data=shared.attach(item.handle), axes=item.axes, unit=item.unit))
        shared.unlink(item.handle)
    return Result(
        scan_id=done.scan_id,
        stage=done.stage,
        arrays=tuple(arrays),
        metrics={name: float("nan") if value is None else value for name, value in done.metrics.items()},
        warnings=done.warnings,
        geometry=done.geometry,
        timing=done.timing,
    )


def arrays_of(reconstruction: Reconstruction) -> tuple[NamedArray, ...]:
    """What clients get: object and support in the detector frame, and the crystal in the laboratory frame."""
    axes = ("z", "y", "x")
    arrays = [
        NamedArray(name="density", data=reconstruction.density, axes=axes),
        NamedArray(name="support", data=reconstruction.support.astype("u1"), axes=axes),
    ]
    crystal = reconstruction.crystal
    if crystal is None:
        density = reconstruction.density
        return (
            *arrays,
            NamedArray(name="modulus", data=np.abs(density), axes=axes),
            NamedArray(
                name="phase", data=np.where(reconstruction.support, np.angle(density), 0), axes=axes, unit="rad"
            ),
        )
    return (
        *arrays,
        NamedArray(name="modulus", data=crystal.modulus, axes=axes),
        NamedArray(name="phase", data=crystal.phase, axes=axes, unit="rad"),
        NamedArray(name="displacement", data=crystal.displacement, axes=axes, unit="Å"),
        NamedArray(name="strain", data=crystal.strain, axes=axes),
    )


def main(descriptor: int) -> None:
    """Run until the service closes the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the service decides
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    connection = Connection(descriptor)
    try:
        config = msgspec.json.decode(connection.recv_bytes(), type=Config)
        _warm_up(config)
        connection.send_bytes(msgspec.json.encode(Ready()))
        while True:
            message = msgspec.json.decode(connection.recv_bytes(), type=ToWorker)
            if isinstance(message, Job):
                _work(message, config, connection)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _work(job: Job, config: Config, connection: Connection) -> None:
    from braggd.pipeline import reconstruct

    said = [0.0]

    def progress(share: float, doing: str) -> None:
        now = time.monotonic()
        if now - said[0] > 0.2:
            said[0] = now
            connection.send_bytes(msgspec.json.encode(Progress(scan_id=job.scan_id, share=share, doing=doing)))

    orders = _Orders(connection)
    error = ""
    try:
        scan = Scan(
            scan_id=job.scan_id,
            counts=shared.attach(job.counts),
            valid=shared.attach(job.valid),
            geometry=job.geometry,
            origin=job.origin,
            ledger=Ledger(**job.ledger),  # type: ignore[arg-type]
            warnings=job.warnings,
        )
        for reconstruction in reconstruct(scan, config, progress, orders.abort, orders.hurry):
            _hand_over(reconstruction, config, connection)
        if config.archive.folder and config.archive.raw and job.spool:
            _keep_raw(job, Path(config.archive.folder) / f"{job.scan_id}.raw.h5")
    except BraggdError as failure:
        error = str(failure)
    except MemoryError:
        error = f"scan {job.scan_id}: out of memory; make [phasing] shape smaller"
    except FileNotFoundError as failure:
        error = f"scan {job.scan_id}: its shared memory is gone ({failure})"
    connection.send_bytes(msgspec.json.encode(JobDone(scan_id=job.scan_id, error=error)))


class _Orders:
    """What the service says while a scan is in hand."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._abort, self._hurry = connection, False, False

    def abort(self) -> bool:
        """Whether to give the scan up: it was told so, or the service is gone."""
        self._listen()
        return self._abort

    def hurry(self) -> bool:
        """Whether another scan waits."""
        self._listen()
        return self._hurry

    def _listen(self) -> None:
        try:
            while not self._abort and self._connection.poll():
                order = msgspec.json.decode(self._connection.recv_bytes(), type=ToWorker)
                self._abort |= isinstance(order, Abort)
                self._hurry |= isinstance(order, Hurry)
        except (EOFError, OSError):
            self._abort = True


def _keep_raw(job: Job, path: Path) -> None:
    """Write the frames as they came; strays of other series in the spool are left out."""
    from braggd.outlets.raw import write_raw
    from braggd.sources.messages import decode
    from braggd.sources.spool import SpoolReader

    with SpoolReader(Path(job.spool)) as reader:
        events = (event for _, parts in reader for event in decode(parts))
        frames = (event for event in events if isinstance(event, Frame))
        first = next(frames, None)
        if first is not None:
            own = (frame for frame in chain([first], frames) if frame.series == first.series)
            write_raw(path, own, expected=job.ledger["expected"] or 0, rocking_deg=job.geometry.rocking_deg)


def _hand_over(reconstruction: Reconstruction, config: Config, connection: Connection) -> None:
    from braggd.outlets.archive import write_archive
    from braggd.outlets.picture import write_picture

    shared_arrays = tuple(
        SharedArray(name=item.name, handle=shared.share(item.data), axes=item.axes, unit=item.unit)
        for item in arrays_of(reconstruction)
    )

    inpainting = reconstruction.provenance.get("inpainting")
    done = StageDone(
        scan_id=reconstruction.scan_id,
        stage=reconstruction.stage,
        arrays=shared_arrays,
        metrics=_finite(reconstruction.metrics),
        warnings=reconstruction.warnings,
        geometry=reconstruction.geometry,
        timing=dict(reconstruction.timing),
        provider=str(inpainting.get("provider", "")) if isinstance(inpainting, dict) else "",
        degraded=dict(reconstruction.degraded),
    )
    connection.send_bytes(msgspec.json.encode(done))  # people first, files second
    if not config.archive.folder:
        return
    folder, archive, error = Path(config.archive.folder), "", ""
    try:
        archive = str(write_archive(folder, reconstruction))
        if config.archive.picture:
            write_picture(folder / f"{reconstruction.scan_id}.png", reconstruction)
    except (BraggdError, OSError) as failure:
        error = str(failure)
    filed = Filed(scan_id=reconstruction.scan_id, stage=reconstruction.stage, archive=archive, error=error)
    connection.send_bytes(msgspec.json.encode(filed))


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: float(value) if abs(value) < float("inf") else None for name, value in metrics.items()}


def _warm_up(config: Config) -> None:
    """Load the libraries and compile the kernels now, not after a scan's last frame."""
    from braggd.phasing.retrieve import warm_up

    warm_up(config.phasing)
    import braggd.outlets.archive
    import braggd.outlets.picture
    import braggd.pipeline  # noqa: F401
    from braggd.inference.networks import opened

    if config.inference.phase_model:
        with contextlib.suppress(BraggdError):  # the scan that needs it will say so
            opened("phase", config.inference.phase_model, config.inference)


def _environment(config: Config) -> dict[str, str]:
    """OpenMP and MKL spin while they wait unless told otherwise, and take the cores that the ingest needs."""
    environment = dict(os.environ)
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    environment.setdefault("KMP_BLOCKTIME", "0")
    if config.phasing.threads:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
            environment[name] = str(config.phasing.threads)
    return environment


if __name__ == "__main__":
    main(int(sys.argv[1]))
