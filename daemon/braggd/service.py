"""The daemon: starts ingest, reconstruction and outlets, watches over them, and ends in good order."""

from __future__ import annotations

import logging
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from braggd import shared
from braggd.config import Config
from braggd.data import Outcome, Result, Stage, Status
from braggd.errors import BraggdError, OutletError
from braggd.ingest import Closed, Ingest, Preparation, take_again
from braggd.outlets.archive import archive_path, list_archive, read_summary
from braggd.outlets.http import HttpServer
from braggd.outlets.metrics import Metrics
from braggd.outlets.systemd import notify
from braggd.outlets.tango import command_line as tango_command_line
from braggd.outlets.zmq import ResultServer
from braggd.sources.spool_folder import SpoolFolder
from braggd.sources.stream import FrameStream
from braggd.worker import Abort, Filed, Hurry, Job, JobDone, Progress, Ready, StageDone, Worker, result_of

_TICK_S = 0.1
_STATUS_EVERY_S = 0.5
_GRACE_S = 8.0  # from SIGTERM to the end; systemd and the README promise 10 s
_LOW_DISK_GB = 1.0
_KEPT_BYTES = 300_000_000  # of older scans' results, for clients that come late
_MOST_WAITING = 4  # scans in memory; more wait in the spool
_RESTARTS = 3  # of the reconstruction process within a minute, before the state is FAULT

log = logging.getLogger(__name__)


class Service:
    """A running daemon. `run` is the whole life of it; `step` is one turn of its loop, for tests."""

    def __init__(self, config: Config) -> None:
        """Check folders and take the endpoints.

        Raises BraggdError where an endpoint is taken or a folder cannot be written.
        """
        self.config = config
        self.metrics = Metrics()
        self.status = Status()
        self._closing = threading.Event()
        self._calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self._ingest_calls: queue.Queue[Callable[[], None]] = queue.Queue()
        self._closed: queue.Queue[Closed] = queue.Queue()
        self._waiting: deque[tuple[Closed, int]] = deque()
        self._deferred: deque[Path] = deque()
        self._in_hand: tuple[Closed, int] | None = None
        self._hurried = False
        self._degraded: dict[str, str] = {}
        self._progress, self._doing = 0.0, ""
        self._stage, self._newest = "", ""
        self._latency = float("nan")
        self._provider = ""
        self._running = True
        self._last_status = 0.0
        self._deaths: deque[float] = deque(maxlen=_RESTARTS)
        self._ready = self._aborted = False

        shared.sweep()
        self._archive = _writable(config.archive.folder, "[archive] folder") if config.archive.folder else None
        self.spool = SpoolFolder(
            _writable(config.service.spool or _spool_beside(config), "[service] spool"),
            limit_gb=config.service.spool_limit_gb,
            keep=config.service.keep_finished,
        )
        self.ingest = Ingest(config, self.spool.folder, self._closed.put, self._publish, self._count)
        self.stream = FrameStream(config.source.endpoint, config.source.pattern, config.source.queue_frames)
        self.results = ResultServer(
            config.results.publish, config.results.requests, self._command, keep_bytes=_KEPT_BYTES
        )
        self.http = (
            HttpServer(
                config.http,
                metrics=self.metrics,
                status=lambda: self.status,
                health=self._health,
                scans=lambda: list_archive(self._archive) if self._archive else [],
                scan=lambda scan_id: read_summary(archive_path(self._archive, scan_id)) if self._archive else {},
                archive=self._archive,
            )
            if config.http.port
            else None
        )
        self._worker: Worker | None = None
        self._tango: subprocess.Popen[bytes] | None = None
        self._tango_next = 0.0
        self._thread = threading.Thread(target=self._receive, name="ingest", daemon=True)

    def run(self) -> None:
        """Live until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._closing.set())
        try:
            self.start()
            while not self._closing.wait(_TICK_S):
                self.step()
        finally:
            self.close()

    def start(self) -> None:
        """Start everything; the stream is read from here on."""
        if self.http is not None:
            self.http.start()
        self._worker = Worker(self.config)
        for path in self.spool.unfinished():
            log.info("taking %s again, which was left unfinished", path)
            self._ingest_calls.put(partial(self._take_again, path))
        self._thread.start()
        self._watch_tango()
        log.info("listening to %s, publishing at %s", self.config.source.endpoint, self.results.publish_endpoint)
        notify("READY=1")

    def step(self) -> None:
        """One turn: hand scans to the worker, hear what it says, look after the processes, tell the status."""
        while not self._calls.empty():
            self._calls.get()()
        while not self._closed.empty():
            self._enqueue(self._closed.get())
        self._hear()
        self._feed()
        self._watch_tango()
        now = time.monotonic()
        if now - self._last_status >= _STATUS_EVERY_S:
            self._last_status = now
            self._look_around()
            self._tell()

    def close(self) -> None:
        """End: finish the scan in hand if it takes seconds, leave the rest in the spool, stop everything."""
        deadline = time.monotonic() + _GRACE_S
        notify("STOPPING=1")
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(2.0)
        while self._in_hand is not None and self._progress > 0 and time.monotonic() < deadline - 3.0:
            self._hear()
            time.sleep(0.05)
        if self._worker is not None:
            self._worker.stop(0.2)
        if self._tango is not None:
            _end(self._tango, 2.0)
        for closed in [item[0] for item in self._waiting] + ([self._in_hand[0]] if self._in_hand else []):
            if closed.scan is not None:
                closed.scan.release()
        if self.http is not None:
            self.http.close()
        self.results.close()
        self.stream.close()
        left = self.spool.unfinished()
        if left:
            log.info("%d scan(s) stay in %s and are taken up at the next start", len(left), self.spool.folder)

    # The ingest thread

    def _receive(self) -> None:
        while not self._closing.is_set():
            try:
                while not self._ingest_calls.empty():
                    self._ingest_calls.get()()
                parts = self.stream.receive(_TICK_S)
                if parts is not None:
                    self.ingest.handle(parts)
                self.ingest.tick()
            except BraggdError as error:
                log.error("%s", error)
                self._degrade("ingest", str(error))
            except MemoryError as error:
                self._degrade("memory", f"no memory for the scan ({error}); make [scan] window smaller")
                self.ingest.abort()
        self.ingest.suspend()

    def _take_again(self, path: Path) -> None:
        again = Ingest(self.config, self.spool.folder, self._closed.put, self._publish, lambda *_: None, again=path)
        try:
            taken = take_again(path, again)
        except BraggdError as error:
            log.error("%s", error)
            taken = False
        if not taken:
            self.spool.fail(path)

    def _count(self, outcome: Outcome, number: int) -> None:
        self.metrics.frames.labels(outcome=outcome.value).inc(number)

    def _publish(self, result: Result) -> None:
        self.results.publish(result)

    # Scans and the worker

    def _enqueue(self, closed: Closed) -> None:
        self._newest = closed.scan_id
        self._degrade("frames", f"{closed.ledger.lost} frames lost" if closed.ledger.lost else "")
        if closed.scan is None:
            log.error("scan %s: %s", closed.scan_id, closed.reason)
            self.metrics.scans.labels(outcome="aborted" if closed.reason == "aborted" else "failed").inc()
            if closed.reason != "aborted":
                self._degrade("scan", closed.reason)
            if closed.spool is not None:
                self.spool.fail(closed.spool)
            return
        self._stage = Stage.LIVE
        if len(self._waiting) >= _MOST_WAITING and closed.spool is not None:
            closed.scan.release()  # memory is short where scans come faster than they are reconstructed
            self._deferred.append(closed.spool)
            return
        self._waiting.append((closed, 0))

    def _feed(self) -> None:
        if self._worker is None or not self._ready:
            return
        if self._in_hand is not None:
            if self._waiting and not self._hurried:
                self._hurried = self._worker.send(Hurry())
            return
        if not self._waiting:
            if self._deferred:
                self._ingest_calls.put(partial(self._take_again, self._deferred.popleft()))
            return
        closed, tries = self._waiting.popleft()
        scan = closed.scan
        if scan is None:
            return
        self._in_hand, self._progress, self._doing, self._hurried = (closed, tries), 0.0, "reconstructing", False
        job = Job(
            scan_id=scan.scan_id,
            counts=scan.counts,
            valid=scan.valid,
            geometry=scan.geometry,
            origin=scan.origin,
            ledger=asdict(scan.ledger),
            warnings=scan.warnings,
            spool=str(closed.spool or ""),
        )
        self._worker.send(job)

    def _hear(self) -> None:
        if self._worker is None:
            return
        try:
            messages = self._worker.receive()
        except EOFError:
            self._bury_worker()
            return
        for message in messages:
            if isinstance(message, Ready):
                self._ready = True
            elif isinstance(message, Progress):
                self._progress, self._doing = message.share, message.doing
            elif isinstance(message, StageDone):
                self._stage_done(message)
            elif isinstance(message, Filed):
                self._degrade("archive", message.error)
            elif isinstance(message, JobDone):
                self._job_done(message)

    def _stage_done(self, message: StageDone) -> None:
        result = result_of(message)
        if self._in_hand is not None:
            self._latency = time.monotonic() - self._in_hand[0].ended_at
            result = replace(result, timing={**result.timing, "latency": self._latency})
        for reason, sentence in message.degraded.items():
            self._degrade(reason, sentence)
        self._stage, self._newest, self._provider = message.stage, message.scan_id, message.provider
        self.metrics.stage_seconds.labels(stage=message.stage.value).observe(self._latency)
        self.results.publish(result)
        log.info("scan %s: %s %.1f s after the last frame", message.scan_id, message.stage, self._latency)

    def _job_done(self, message: JobDone) -> None:
        if self._in_hand is None:
            return
        closed, _ = self._in_hand
        self._in_hand, self._progress, self._doing = None, 0.0, ""
        if closed.scan is not None:
            closed.scan.release()
        aborted, self._aborted = self._aborted and bool(message.error), False
        self._degrade("scan", "" if aborted else message.error)
        self.metrics.scans.labels(outcome="aborted" if aborted else "failed" if message.error else "done").inc()
        if message.error:
            log.error("scan %s: %s", message.scan_id, message.error)
        if closed.spool is not None:
            (self.spool.fail if message.error else self.spool.finish)(closed.spool)

    def _bury_worker(self) -> None:
        """The reconstruction process died: start another one; the scan it had is tried once more, alone."""
        if self._worker is None:
            return
        self._worker.stop(1.0)
        code = self._worker.process.returncode
        log.error("the reconstruction process ended with %s; another one is started", code)
        self._deaths.append(time.monotonic())
        self._ready = False
        if self._in_hand is not None:
            closed, tries = self._in_hand
            self._in_hand = None
            if tries == 0:
                self._waiting.appendleft((closed, 1))
            else:
                self._in_hand = (closed, tries)
                self._job_done(
                    JobDone(scan_id=closed.scan_id, error=f"the reconstruction process died twice on it (exit {code})")
                )
        self._degrade("worker", f"the reconstruction process ended with {code} and was started again")
        if len(self._deaths) == _RESTARTS and self._deaths[-1] - self._deaths[0] < 60:
            self._worker = None
            self._degrade("worker", "the reconstruction process keeps dying; see the log, then Reset")
            return
        if not self._closing.is_set():
            self._worker = Worker(self.config)

    # Looking after things

    def _watch_tango(self) -> None:
        if self.config.tango.device == "off" or time.monotonic() < self._tango_next:
            return
        if self._tango is not None and self._tango.poll() is None:
            self._degrade("tango", "")
            return
        if self._tango is not None:
            self._degrade("tango", f"the Tango device ended with {self._tango.returncode}; it is started again")
        self._tango_next = time.monotonic() + 5.0
        command = tango_command_line(self.config.tango, self.results.publish_endpoint, self.results.requests_endpoint)
        self._tango = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def _look_around(self) -> None:
        size = self.spool.size()
        self.metrics.spool_bytes.set(size)
        self.metrics.queue_depth.set(len(self._waiting) + len(self._deferred))
        free = min(shutil.disk_usage(folder).free for folder in (self.spool.folder, self._archive) if folder) / 1e9
        self._degrade("disk", f"{free:.1f} GB left on the disk; make room" if free < _LOW_DISK_GB else "")
        self._degrade("spool", self.ingest.spool_fault)
        self._degrade("source", self.ingest.fault)
        if not self._thread.is_alive() and not self._closing.is_set():
            self._degrade("ingest", "the ingest thread has ended; see the log and restart the daemon")

    def _degrade(self, reason: str, sentence: str) -> None:
        if sentence and self._degraded.get(reason) != sentence:
            log.warning("%s: %s", reason, sentence)
        if sentence:
            self._degraded[reason] = sentence
        else:
            self._degraded.pop(reason, None)
        self.metrics.degraded.labels(reason=reason).set(1 if sentence else 0)

    def _tell(self) -> None:
        ledger = self.ingest.ledger
        busy = bool(self.ingest.scan_id or self._in_hand or self._waiting or self._deferred)
        if self.ingest.scan_id:
            progress = ledger.used / ledger.expected if ledger.expected else 0.0
            activity = f"acquiring {self.ingest.scan_id}"
        else:
            progress, activity = self._progress, f"{self._doing} {self._newest}".strip() if self._in_hand else ""
        self.status = Status(
            state=self._state(busy),
            scan_id=self.ingest.scan_id or self._newest,
            stage=Stage.LIVE if self.ingest.scan_id else self._stage,
            frames_received=ledger.received,
            frames_expected=ledger.expected or 0,
            frames_lost=ledger.lost,
            progress=progress,
            queue_depth=len(self._waiting) + len(self._deferred),
            latency_s=self._latency,
            provider=self._provider,
            activity=activity,
            degraded=dict(self._degraded),
        )
        self.results.publish_status(self.status)
        notify(f"WATCHDOG=1\nSTATUS={self.status.state} {activity or 'idle'}")

    def _state(self, busy: bool) -> str:
        if self._worker is None or (not self._thread.is_alive() and not self._closing.is_set()):
            return "FAULT"
        if self._degraded:
            return "ALARM"
        if not self._ready:
            return "INIT"
        if not self.ingest.accepting:
            return "OFF"
        return "RUNNING" if busy else "ON"

    def _health(self) -> dict[str, str]:
        """Reasons why the daemon cannot do its work; empty where it can."""
        if self.status.state == "FAULT":
            return dict(self._degraded) or {"state": "FAULT"}
        return {}

    # Commands

    def _command(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name == "prepare":
            return self._prepare(arguments)
        if name in ("start", "stop"):
            self.ingest.accepting = name == "start"
        elif name == "abort":
            self._ingest_calls.put(self.ingest.abort)
            self._calls.put(self._abort)
        elif name == "reset":
            self._calls.put(self._reset)
        elif name == "reprocess":
            path = self.spool.take_back(str(arguments.get("scan_id", "")))
            self._ingest_calls.put(partial(self._take_again, path))
        else:
            raise OutletError(
                f"unknown request {name!r}; use last, status, prepare, start, stop, abort, reset, reprocess"
            )
        return {"ok": True}

    def _abort(self) -> None:
        if self._in_hand is not None and self._worker is not None:
            self._aborted = self._worker.send(Abort())

    def _reset(self) -> None:
        for reason in list(self._degraded):
            self._degrade(reason, "")
        if self._worker is None:
            self._deaths.clear()
            self._worker = Worker(self.config)

    def _prepare(self, arguments: dict[str, Any]) -> dict[str, Any]:
        try:
            preparation = msgspec.convert(arguments, Preparation)
        except msgspec.ValidationError as error:
            raise OutletError(f"prepare: {error}; give scan_id, geometry and peak, or less") from error
        self.ingest.prepare(preparation)
        return {"ok": True}


def _spool_beside(config: Config) -> str:
    archive = config.archive.folder
    return str(Path(archive).absolute().parent / "spool") if archive else "spool"


def _writable(folder: str, field: str) -> Path:
    path = Path(folder).absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutletError(f"{field}: {path} cannot be made ({error.strerror}); name another folder") from error
    if not os.access(path, os.W_OK):
        raise OutletError(f"{field}: {path} cannot be written; name another folder or change its owner")
    return path


def _end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
