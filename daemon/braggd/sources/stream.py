"""Messages from a ZMQ socket."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Literal, Self

import zmq

from braggd.errors import SourceError

_SMALL: Final = 1 << 14
_BIND: Final = "bind:"


class FrameStream:
    """The receiving end of a detector's stream; a context manager.

    endpoint: ZMQ endpoint to connect to; written `bind:tcp://...` it is bound instead
    pattern: "pull" takes messages from the detector, "sub" listens beside others
    queue_frames: messages that may wait in ZMQ before the sender is held back (pull) or messages are lost (sub)

    One thread at a time may use it. Raises SourceError for an endpoint that cannot be used.
    """

    def __init__(self, endpoint: str, pattern: Literal["pull", "sub"] = "pull", queue_frames: int = 256) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.SUB if pattern == "sub" else zmq.PULL)
        self._socket.linger = 0
        self._socket.rcvhwm = queue_frames
        self._socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
        if pattern == "sub":
            self._socket.subscribe(b"")
        self.endpoint = self._attach(endpoint)

    def _attach(self, endpoint: str) -> str:
        try:
            if endpoint.startswith(_BIND):
                self._socket.bind(endpoint.removeprefix(_BIND))
            else:
                self._socket.connect(endpoint)
        except (zmq.ZMQError, UnicodeError) as error:
            self.close()
            raise SourceError(
                f"{endpoint}: frames cannot be received there ({str(error) or 'bad endpoint'}); "
                "write tcp://HOST:PORT with the detector's host and port"
            ) from error
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def receive(self, timeout_s: float) -> list[bytes | memoryview] | None:
        """The parts of the next message, None where none came in time; large parts are not copied.

        Raises SourceError when the stream is closed.
        """
        try:
            if not self._socket.poll(max(0, round(1000 * timeout_s)), zmq.POLLIN):
                return None
            frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        except zmq.ZMQError as error:
            raise SourceError(f"{self.endpoint}: receiving failed ({error}); open the stream again") from error
        return [frame.bytes if len(frame) < _SMALL else frame.buffer for frame in frames]

    def close(self) -> None:
        """Close the socket; messages that wait in it are lost."""
        self._socket.close()
        self._context.term()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
