"""A recorded scan played as a detector would send it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from types import TracebackType
from typing import Any, Final, Literal, Self

import numpy as np
import zmq
from numpy.typing import NDArray

from braggd import compression
from braggd.data import Frame, Geometry, SeriesEnd, SeriesStart
from braggd.errors import SourceError
from braggd.scan.detector import detector as detector_named
from braggd.sources import encode
from braggd.sources.embed import Placement
from braggd.sources.encode import HeaderDetail, Message, Protocol

Pattern = Literal["push", "pub"]
_POLL_MS: Final = 50
_RETRY_S: Final = 0.002


class Sender:
    """The sending end of a stream, bound; a context manager that delivers what was sent before it closes.

    bind: ZMQ endpoint; port `*` takes a free one, told in `endpoint`
    pattern: "push" as detectors do, "pub" as the proxies behind them
    linger_s: how long closing waits for a slow receiver

    Raises SourceError for an endpoint that cannot be used.
    """

    def __init__(
        self, bind: str, pattern: Pattern = "push", *, queue_frames: int = 256, linger_s: float = 60.0
    ) -> None:
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB if pattern == "pub" else zmq.PUSH)
        self._socket.sndhwm = queue_frames
        self._socket.linger = round(1000 * linger_s)
        self._listened = False
        if pattern == "pub":
            self._socket.setsockopt(zmq.XPUB_NODROP, 1)
        try:
            self._socket.bind(bind)
        except (zmq.ZMQError, UnicodeError) as error:
            self.close()
            raise SourceError(
                f"{bind}: cannot send from there ({str(error) or 'bad endpoint'}); write tcp://HOST:PORT, a free one"
            ) from error
        self.endpoint = self._socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")

    def send(
        self,
        messages: Iterable[Sequence[bytes]],
        *,
        rate_hz: float | None = None,
        stop: threading.Event | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Send messages as soon as somebody listens; returns how many were taken.

        rate_hz: messages per second; None: as fast as they are taken
        stop: give up when set; what still waits is then not delivered
        progress: called with the number of messages sent so far
        """
        stop = stop or threading.Event()
        if not self._wait_for_listener(stop):
            return self._given_up(0)
        sent, began = 0, time.monotonic()
        for message in messages:
            if rate_hz is not None and stop.wait(max(0.0, began + sent / rate_hz - time.monotonic())):
                return self._given_up(sent)
            if not self._send(message, stop):
                return self._given_up(sent)
            sent += 1
            if progress is not None:
                progress(sent)
        return sent

    def close(self) -> None:
        """Close the socket, once what was sent is delivered."""
        self._socket.close()
        self._context.term()

    def _wait_for_listener(self, stop: threading.Event) -> bool:
        publishes = self._socket.type == zmq.XPUB
        while not stop.is_set() and not self._listened:
            if self._socket.poll(_POLL_MS, zmq.POLLIN if publishes else zmq.POLLOUT):
                self._listened = not publishes or self._socket.recv()[:1] == b"\x01"
        return not stop.is_set()

    def _send(self, message: Sequence[bytes], stop: threading.Event) -> bool:
        while not stop.is_set():
            try:
                self._socket.send_multipart(message, zmq.NOBLOCK)
            except zmq.Again:
                stop.wait(_RETRY_S)
            else:
                return True
        return False

    def _given_up(self, sent: int) -> int:
        self._socket.linger = 0
        return sent

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._socket.linger = 0
        self.close()


def messages(
    counts: NDArray[Any],
    geometry: Geometry,
    *,
    protocol: Protocol = "simplon-v2",
    detector: str | None = None,
    at: tuple[int, int] | None = None,
    series: int = 1,
    header_detail: HeaderDetail = "all",
    encoding: str = "bslz4",
    limit: int | None = None,
) -> Iterator[Message]:
    """The messages of a scan, made one by one: start, images, end (array-1.0: images only).

    counts: (step, row, column) integers, photons
    geometry: as the header tells it; the wire knows even rocking steps only
    detector: name of the detector whose full frame, gaps blanked, the frames are put into; None: sent as they are
    at: (row, column) of the Bragg peak on that detector; None: in the middle of its largest module
    encoding: "none", "lz4" or "bslz4"
    limit: only so many frames

    Raises DetectorError for an unknown detector, or a peak outside of it, ValueError for counts that are no integers.
    """
    if counts.ndim != 3 or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"counts are {counts.ndim}-D {counts.dtype} instead of integers (step, row, column)")
    chosen = detector_named(detector) if detector else None
    placement = Placement.at_peak(counts, chosen, at) if chosen else Placement.unchanged(counts)
    counts = counts[:limit]
    start = SeriesStart(
        series=str(series),
        frames_expected=len(counts),
        shape=placement.shape,
        pixel_mask=placement.blind.astype(np.uint32),
        saturation=chosen.saturation if chosen else None,
        detector=chosen.name if chosen else "",
        geometry=_sent_geometry(geometry, len(counts), chosen.pixel_size_m if chosen else None),
    )
    end = SeriesEnd(series=start.series)
    images = (encode.image(frame, protocol) for frame in _frames(counts, placement, start.series, encoding, protocol))
    begin = encode.start(start, protocol, header_detail)
    return (message for message in chain([begin], images, [encode.end(end, protocol)]) if message)


def prepare(counts: NDArray[Any], geometry: Geometry, **options: Any) -> list[Message]:
    """All messages of a scan, compressed ahead so that they can be sent at full speed; options as of `messages`."""
    return list(messages(counts, geometry, **options))


def replay(
    counts: NDArray[Any],
    geometry: Geometry,
    bind: str,
    *,
    pattern: Pattern = "push",
    rate_hz: float | None = None,
    stop: threading.Event | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> int:
    """Play a scan to whoever listens; returns how many messages were taken, start and end included.

    counts, geometry, options: as of `messages`; pattern, rate_hz, stop: as of `Sender`
    progress: called with (messages sent, messages in all)
    """
    limit = options.get("limit")
    steps = counts.shape[0] if limit is None else min(limit, counts.shape[0])
    total = steps + (0 if options.get("protocol") == "array-1.0" else 2)

    def report(sent: int) -> None:
        if progress is not None:
            progress(sent, total)

    with Sender(bind, pattern) as sender:
        return sender.send(messages(counts, geometry, **options), rate_hz=rate_hz, stop=stop, progress=report)


def _frames(
    counts: NDArray[Any], placement: Placement, series: str, encoding: str, protocol: Protocol
) -> Iterator[Frame]:
    """Compress frames, 16 bits deep where that is enough, as a detector does."""
    dtype = np.dtype("<u2" if counts.max(initial=0) < np.iinfo(np.uint16).max else "<u4")
    name = encode.wire_encoding(encoding, protocol, dtype)
    for index, recorded in enumerate(counts):
        payload = compression.compress(placement(recorded, dtype), name)
        yield Frame(series=series, index=index, shape=placement.shape, dtype=dtype, encoding=name, payload=payload)


def _sent_geometry(geometry: Geometry, steps: int, pixel_size_m: tuple[float, float] | None) -> Geometry:
    """The geometry of the frames that are sent; recorded pixels keep their size on another detector."""
    cut = Geometry(rocking_motor=geometry.rocking_motor, rocking_deg=geometry.rocking_deg[:steps])
    return cut.completed_by(geometry).completed_by(Geometry(pixel_size_m=pixel_size_m))
