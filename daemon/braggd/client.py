"""Read a running braggd from Python.

    from braggd.client import Client

    with Client() as client:
        client.subscribe()                  # from here on no result is lost
        print(client.last().metrics)        # what there is already
        for result in client:               # what comes
            print(result.scan_id, result.stage, result.array("density").shape)

`subscribe` returns once the daemon has answered on the very subscription, so a result that is published between it and
`last` waits in the client's queue; it may come twice, but it is never lost. A daemon that was started again is heard
by a client that goes on reading. Topics and parts: `braggd.wire`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import msgspec
import zmq

from braggd import wire
from braggd.data import Result, Stage, Status
from braggd.errors import ClientError


class Client:
    """A connection to one daemon, for use in one thread; a context manager, and an iterator over results.

    publish: endpoint of the results
    requests: endpoint for questions and commands
    queue: messages that may wait here for a slow reader; beyond it the daemon drops what it would send
    """

    def __init__(
        self, publish: str = "tcp://127.0.0.1:5556", requests: str = "tcp://127.0.0.1:5557", *, queue: int = 200
    ) -> None:
        self.publish = publish
        self.requests = requests
        self._queue = queue
        self._context = zmq.Context()
        self._subscriber: zmq.Socket[bytes] | None = None
        self._early: deque[list[bytes]] = deque()
        self._confirmed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Result]:
        return self.results()

    def close(self) -> None:
        """Hang up; waiting messages are dropped."""
        self._context.destroy(linger=0)
        self._subscriber = None

    def subscribe(self, timeout_s: float = 5.0) -> None:
        """Listen to results and status, and return when the daemon is known to send them here.

        The daemon answers every new subscription with its status, which is what this waits for. After a failure
        the subscription stays: a daemon that starts later is heard.

        Raises ClientError where nothing came in time.
        """
        self._listen()
        if not self._confirmed:
            self._early.append(self._next(timeout_s, "no message", timeout_s))

    def messages(self, timeout_s: float | None = None) -> Iterator[Result | Status]:
        """All that the daemon publishes, for ever.

        Raises ClientError where nothing came for `timeout_s`.
        """
        while True:
            yield self.receive(timeout_s)

    def results(self, timeout_s: float | None = None) -> Iterator[Result]:
        """The results that the daemon publishes, for ever.

        Raises ClientError where no result came for `timeout_s`.
        """
        deadline = _Deadline(timeout_s)
        while True:
            message = self._receive(deadline, "no result")
            if isinstance(message, Result):
                yield message
                deadline = _Deadline(timeout_s)

    def receive(self, timeout_s: float | None = None) -> Result | Status:
        """The next message that the daemon publishes.

        Raises ClientError where none came in time, or it is not braggd that sends.
        """
        return self._receive(_Deadline(timeout_s), "no message")

    def last(self, scan_id: str | None = None, stage: Stage | str | None = None, timeout_s: float = 5.0) -> Result:
        """The newest result that the daemon still has, of this scan and stage where they are named.

        Raises ClientError where there is none, or no answer came in time.
        """
        return wire.unpack(self._ask("last", _given(scan_id=scan_id, stage=stage), timeout_s))

    def available(self, timeout_s: float = 5.0) -> list[tuple[str, Stage]]:
        """(scan_id, stage) of every result that `last` can get, oldest first."""
        reply = self._ask_json("results", {}, timeout_s)
        return [(entry["scan_id"], Stage(entry["stage"])) for entry in reply["results"]]

    def status(self, timeout_s: float = 5.0) -> Status:
        """What the daemon is doing now.

        Raises ClientError where no answer came in time.
        """
        return wire.unpack_status(self._ask("status", {}, timeout_s)[0])

    def command(self, name: str, /, *, timeout_s: float = 5.0, **arguments: Any) -> dict[str, Any]:
        """Tell the daemon to do something: "prepare", "start", "stop", "abort", "reset" or "reprocess".

        Raises ClientError with the daemon's own sentence where it refuses, or where no answer came in time.
        """
        return self._ask_json(name, arguments, timeout_s)

    def _receive(self, deadline: _Deadline, missing: str) -> Result | Status:
        parts = self._early.popleft() if self._early else self._next(deadline.left(), missing, deadline.timeout_s)
        if parts[0] == wire.STATUS_TOPIC and len(parts) == 2:
            return wire.unpack_status(parts[1])
        return wire.unpack(parts)

    def _next(self, left_s: float | None, missing: str, timeout_s: float | None) -> list[bytes]:
        subscriber = self._listen()
        if not subscriber.poll(_milliseconds(left_s)):
            raise ClientError(f"{missing} came from {self.publish} within {timeout_s:g} s; is braggd running there?")
        self._confirmed = True
        return subscriber.recv_multipart()

    def _listen(self) -> zmq.Socket[bytes]:
        if self._subscriber is None:
            self._subscriber = self._connect(zmq.SUB, self.publish)
            self._subscriber.subscribe(b"")
        return self._subscriber

    def _ask(self, request: str, arguments: dict[str, Any], timeout_s: float) -> list[bytes]:
        # A socket for each question: a late answer to an abandoned one can never be taken for the next one's.
        socket = self._connect(zmq.REQ, self.requests)
        with socket:
            socket.send(msgspec.json.encode({**arguments, "request": request}))
            if not socket.poll(_milliseconds(timeout_s)):
                waited = f"no answer to {request!r} came from {self.requests} within {timeout_s:g} s"
                raise ClientError(f"{waited}; is braggd running there?")
            parts = socket.recv_multipart()
        if len(parts) == 1 and (error := _error(parts[0])):
            raise ClientError(error)
        return parts

    def _ask_json(self, request: str, arguments: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        return msgspec.json.decode(self._ask(request, arguments, timeout_s)[0], type=dict[str, Any])

    def _connect(self, kind: int, endpoint: str) -> zmq.Socket[bytes]:
        if self._context.closed:
            raise ClientError(f"{endpoint}: this client is closed; make a new one")
        socket = self._context.socket(kind)
        socket.linger = 0
        socket.rcvhwm = self._queue
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            socket.close()
            raise ClientError(f"{endpoint}: not an endpoint to connect to ({error}); write tcp://HOST:PORT") from error
        return socket


class _Deadline:
    """A time-out that several waits share."""

    def __init__(self, timeout_s: float | None) -> None:
        self.timeout_s = timeout_s
        self._end = None if timeout_s is None else time.monotonic() + timeout_s

    def left(self) -> float | None:
        return None if self._end is None else max(0.0, self._end - time.monotonic())


def _milliseconds(seconds: float | None) -> int | None:
    return None if seconds is None else round(1000 * seconds)


def _given(**arguments: Any) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if value is not None}


def _error(body: bytes) -> str:
    try:
        reply = msgspec.json.decode(body, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ClientError(f"an answer cannot be read ({error}); is this the endpoint of a braggd?") from error
    return str(reply.get("error", ""))
