"""Results over ZMQ: a publisher for those who listen, and answers for those who come late.

Everything ZMQ happens in one thread. Callers hand over and go on; a client that does not read loses messages of its
own and holds up nobody.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import msgspec
import numpy as np
import zmq

from braggd import wire
from braggd.data import NamedArray, Result, Stage, Status
from braggd.errors import BraggdError, OutletError
from braggd.outlets.memory import Memory

Handler = Callable[[str, dict[str, Any]], dict[str, Any]]
_Command = tuple[list[bytes], str, dict[str, Any]]

COMMANDS = frozenset({"prepare", "start", "stop", "abort", "reset", "reprocess"})

# Per subscriber. A result can be tens of megabytes, but status and live results are most of what a deaf one is kept.
_QUEUE_RESULTS = 64
# Per client; replies share their buffers. ZMQ learns late what a client has read, and silently drops what is beyond.
_QUEUE_REPLIES = 256
_LARGEST_REQUEST = 1 << 20
_WAITING_COMMANDS = 32
_REQUESTS_AT_A_TIME = 64
_LINGER_MS = 500

_log = logging.getLogger(__name__)


class ResultServer:
    """Publishes results and status, and answers requests, from a thread of its own.

    publish: endpoint that clients subscribe to; `tcp://127.0.0.1:*` takes a free port, and `publish_endpoint` tells
    requests: endpoint for JSON requests from REQ or DEALER sockets, `{"request": NAME, ...}`:
        "last" (optional "scan_id", "stage") -> the parts of the newest such result
        "results" -> {"results": [{"scan_id", "stage"}, ...]}, oldest first
        "scans" -> {"scans": [scan_id, ...]}, oldest first
        "status" -> the status
        a command ("prepare", "start", "stop", "abort", "reset", "reprocess") with its arguments -> what `handler`
        returns; it is called in a second thread, one command at a time
        Where a request fails the reply is {"error": SENTENCE}.
    keep_scans: of how many scans results are kept for late joiners
    keep_bytes: older results go first beyond this; the newest scan's stay

    Raises OutletError where an endpoint cannot be served.
    """

    def __init__(
        self,
        publish: str,
        requests: str,
        handler: Handler | None = None,
        *,
        keep_scans: int = 3,
        keep_bytes: int = 1 << 30,
    ) -> None:
        self._handler = handler
        self._memory = Memory(keep_scans, keep_bytes)
        self._status = Status()
        self._lock = threading.Lock()
        self._outbox: deque[Result | Status] = deque()
        self._replies: deque[tuple[list[bytes], bytes]] = deque()
        self._closing = self._closed = False
        self._commands: queue.Queue[_Command | None] = queue.Queue(_WAITING_COMMANDS)
        self._context = zmq.Context()
        try:
            # XPUB, so that a new subscription is seen and answered with the status: proof that it has arrived.
            self._publisher = self._bind(zmq.XPUB, publish, "results.publish", _QUEUE_RESULTS)
            self._publisher.setsockopt(zmq.XPUB_VERBOSE, 1)
            self._router = self._bind(zmq.ROUTER, requests, "results.requests", _QUEUE_REPLIES)
        except OutletError:
            self._context.destroy(linger=0)
            raise
        self.publish_endpoint = _reachable(self._publisher)
        self.requests_endpoint = _reachable(self._router)
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="results", daemon=True)
        self._thread.start()
        # A daemon thread: a command that hangs must not keep the process from ending.
        threading.Thread(target=self._run_commands, name="commands", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def publish(self, result: Result) -> None:
        """Hand a result over, from any thread; returns at once.

        Live results are copied, since their arrays go on growing, and give way to newer ones where the server is
        behind; the arrays of later stages must not be changed any more.
        """
        if result.stage is Stage.LIVE:
            result = _copied(result)
        with self._lock:
            if result.stage is Stage.LIVE:
                overtaken = (result.scan_id, Stage.LIVE)
                self._outbox = deque(
                    old for old in self._outbox if isinstance(old, Status) or (old.scan_id, old.stage) != overtaken
                )
            self._outbox.append(result)
        self._wake_up()

    def publish_status(self, status: Status) -> None:
        """Hand a status over, from any thread; returns at once, and a newer one takes its place if it still waits."""
        with self._lock:
            self._outbox = deque(old for old in self._outbox if isinstance(old, Result))
            self._outbox.append(status)
        self._wake_up()

    def close(self) -> None:
        """Send what is waiting, and stop."""
        if self._closing:
            return
        self._closing = True
        self._wake_up()
        self._thread.join()
        self._context.destroy(linger=_LINGER_MS)
        with self._lock:
            self._closed = True
            os.close(self._wake)
        with contextlib.suppress(queue.Full):
            self._commands.put_nowait(None)

    def _bind(self, kind: int, endpoint: str, field: str, waiting: int) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.linger = _LINGER_MS
        socket.sndhwm = waiting
        socket.maxmsgsize = _LARGEST_REQUEST
        socket.tcp_keepalive = 1
        socket.tcp_keepalive_idle = 60
        try:
            socket.bind(endpoint)
        except zmq.ZMQError as error:
            reason = f"{endpoint}: cannot be served ({error.strerror})"
            if error.errno == zmq.EADDRINUSE:
                reason = f"{endpoint}: another program serves it already"
            raise OutletError(f"{reason}; set {field} to another endpoint") from error
        return socket

    def _wake_up(self) -> None:
        with self._lock:
            if not self._closed:
                os.eventfd_write(self._wake, 1)

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._publisher, zmq.POLLIN)
        poller.register(self._router, zmq.POLLIN)
        while not self._closing:
            poller.poll()
            try:
                self._step()
            except Exception:  # noqa: BLE001 - one bad message must not end the serving of all others
                _log.exception("the results server goes on after an error")
        self._send_waiting()

    def _step(self) -> None:
        self._send_waiting()
        self._greet_subscribers()
        for _ in range(_REQUESTS_AT_A_TIME):
            try:
                parts = self._router.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._answer(parts)

    def _send_waiting(self) -> None:
        try:
            os.eventfd_read(self._wake)
        except BlockingIOError:
            return
        with self._lock:
            outbox, self._outbox = self._outbox, deque()
            replies, self._replies = self._replies, deque()
        for message in outbox:
            if isinstance(message, Status):
                self._status = message
                self._send(self._publisher, wire.pack_status(message))
            else:
                self._send_result(message)
        for envelope, reply in replies:
            self._send(self._router, [*envelope, reply])

    def _send_result(self, result: Result) -> None:
        try:
            parts = wire.pack(result)
        except OutletError:
            _log.exception("scan %s: the %s result was not published", result.scan_id, result.stage)
            return
        self._memory.keep(result.scan_id, result.stage, parts)
        self._send(self._publisher, parts)

    def _greet_subscribers(self) -> None:
        subscribed = False
        for _ in range(_REQUESTS_AT_A_TIME):
            try:
                subscribed |= self._publisher.recv(zmq.NOBLOCK)[:1] == b"\x01"
            except zmq.Again:
                break
        if subscribed:
            self._send(self._publisher, wire.pack_status(self._status))

    def _answer(self, parts: list[bytes]) -> None:
        # REQ puts an empty part before the request, DEALER may leave it out.
        *envelope, body = parts
        try:
            request = msgspec.json.decode(body, type=dict[str, Any])
            name = str(request.pop("request"))
        except (msgspec.DecodeError, UnicodeDecodeError, KeyError):
            self._send(self._router, [*envelope, _error('a request is JSON, {"request": NAME, ...}; send one')])
            return
        if name not in COMMANDS:
            self._send(self._router, [*envelope, *self._look_up(name, request)])
            return
        try:
            self._commands.put_nowait((envelope, name, request))
        except queue.Full:
            reply = _error(f"{name!r} was not done, for {_WAITING_COMMANDS} commands are waiting; try again later")
            self._send(self._router, [*envelope, reply])

    def _look_up(self, name: str, arguments: dict[str, Any]) -> list[wire.Part]:
        match name:
            case "last":
                scan_id, stage = arguments.get("scan_id"), arguments.get("stage")
                return self._memory.find(scan_id, stage) or [_error(_nothing(scan_id, stage))]
            case "results":
                entries = [{"scan_id": scan_id, "stage": stage} for scan_id, stage in self._memory.entries()]
                return [msgspec.json.encode({"results": entries})]
            case "scans":
                return [msgspec.json.encode({"scans": self._memory.scans()})]
            case "status":
                return [wire.pack_status(self._status)[1]]
            case _:
                known = ", ".join(["last", "results", "scans", "status", *sorted(COMMANDS)])
                return [_error(f"there is no request {name!r}; there are {known}")]

    def _run_commands(self) -> None:
        while (command := self._commands.get()) is not None:
            envelope, name, arguments = command
            try:
                if self._handler is None:
                    reply = _error(f"{name!r} was not done, for this braggd takes no commands")
                else:
                    reply = msgspec.json.encode(self._handler(name, arguments))
            except BraggdError as error:
                reply = _error(str(error))
            except Exception:  # noqa: BLE001 - the client shall hear of it, whatever it was
                _log.exception("command %s", name)
                reply = _error(f"{name!r} failed for a reason nobody thought of; the daemon's log tells it")
            with self._lock:
                self._replies.append((envelope, reply))
            self._wake_up()

    @staticmethod
    def _send(socket: zmq.Socket[bytes], parts: list[Any]) -> None:
        try:
            socket.send_multipart(parts, zmq.NOBLOCK, copy=False)
        except zmq.ZMQError as error:
            _log.warning("a message was dropped: %s", error)


def _copied(result: Result) -> Result:
    arrays = tuple(
        NamedArray(name=array.name, data=np.array(array.data), axes=array.axes, unit=array.unit)
        for array in result.arrays
    )
    return Result(
        scan_id=result.scan_id,
        stage=result.stage,
        arrays=arrays,
        metrics=result.metrics,
        warnings=result.warnings,
        geometry=result.geometry,
        timing=result.timing,
    )


def _reachable(socket: zmq.Socket[bytes]) -> str:
    """Where a client on this machine finds a bound socket."""
    endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
    return endpoint.replace("://0.0.0.0:", "://127.0.0.1:").replace("://[::]:", "://[::1]:")


def _error(sentence: str) -> bytes:
    return msgspec.json.encode({"error": sentence})


def _nothing(scan_id: str | None, stage: str | None) -> str:
    wanted = f"{scan_id or 'any scan'}/{stage or 'any stage'}"
    return f"no result of {wanted} is kept; ask for 'results' to see what there is"
