"""From the stream to scans: one thread that receives, spools, decodes and assembles."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from braggd.config import Config
from braggd.data import Corrupt, Event, Frame, Geometry, Ledger, Outcome, Result, SeriesEnd, SeriesStart
from braggd.errors import BraggdError, SourceError
from braggd.scan.assemble import Assembly, SharedScan
from braggd.sources.messages import decode
from braggd.sources.spool import SpoolReader, SpoolWriter

_LIVE_EVERY_S = 0.5
_REMEMBERED = 64  # closed series whose late frames are still recognised as stray

log = logging.getLogger(__name__)


class Preparation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client may say of the next scan before it begins (`PrepareScan`).

    scan_id: its name; peak: (row, column) of the Bragg peak on the detector
    """

    scan_id: str = ""
    geometry: Geometry = Geometry()
    peak: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Closed:
    """A series that has ended.

    scan: None where it failed, and `reason` says why
    spool: the file that holds its messages, None where it could not be kept
    ended_at: time.monotonic() of its last frame
    """

    scan_id: str
    scan: SharedScan | None
    ledger: Ledger
    spool: Path | None
    ended_at: float
    reason: str = ""


class Ingest:
    """Assembles what the stream brings. `handle` and `tick` are called by one thread; the rest may be read by any.

    A series closes when its end message or its last expected frame comes, when another one begins, or when nothing
    came for `idle_timeout_s`.
    """

    def __init__(
        self,
        config: Config,
        spool: Path,
        on_closed: Callable[[Closed], None],
        on_live: Callable[[Result], None],
        on_frame: Callable[[Outcome, int], None],
        again: Path | None = None,
    ) -> None:
        """Begin with nothing in hand.

        spool: folder that exists; on_frame is told every outcome and how many; again: the spooled series that is
        to be taken once more, under its own name
        """
        self._again = again
        self._config = config
        self._spool_folder = spool
        self._on_closed, self._on_live, self._on_frame = on_closed, on_live, on_frame
        self._lock = threading.Lock()
        self._prepared = Preparation()
        self._assembly: Assembly | None = None
        self._spool: _SeriesSpool | None = None
        self._closed: list[str] = []
        self._headed = False  # whether the open series' header has come
        self._last_frame = self._last_live = time.monotonic()
        self.accepting = True
        self.spool_fault = ""
        self.fault = ""

    @property
    def scan_id(self) -> str:
        """Name of the scan that is open, or ""."""
        assembly = self._assembly
        return assembly.scan_id if assembly is not None else ""

    @property
    def ledger(self) -> Ledger:
        """Of the scan that is open."""
        assembly = self._assembly
        return assembly.ledger if assembly is not None else Ledger()

    def prepare(self, preparation: Preparation) -> None:
        """Say something of the next scan before it begins."""
        with self._lock:
            self._prepared = preparation

    def handle(self, parts: Sequence[bytes | memoryview], offset: int | None = None) -> None:
        """Take one message of the stream; `offset` tells where a spooled one lies."""
        events = decode(parts)
        begins = next((e for e in events if isinstance(e, SeriesStart)), None)
        if begins is not None:
            self._begin(begins)
        elif self._assembly is None or self._is_next(events):
            self._begin_without_header(events)
        if self._spool is not None:
            self._spool.keep(parts, events, offset)
            self.spool_fault = self._spool.fault
        for event in events:
            self._take(event)

    def tick(self) -> None:
        """Publish what is known, and close a series that has gone silent."""
        now = time.monotonic()
        assembly = self._assembly
        if assembly is None:
            return
        if now - self._last_live >= _LIVE_EVERY_S and self._last_frame > self._last_live:
            self._publish_live(assembly)
        if now - self._last_frame > self._config.source.idle_timeout_s:
            assembly.warn(f"no end of the series came within {self._config.source.idle_timeout_s:g} s; it was closed")
            self.close()

    def close(self) -> None:
        """End the open series, if there is one, and hand it over."""
        assembly, spool = self._let_go()
        if assembly is None:
            return
        self._publish_live(assembly)
        path = spool.path if spool is not None and not spool.fault else None
        closed = Closed(
            scan_id=assembly.scan_id, scan=None, ledger=assembly.ledger, spool=path, ended_at=self._last_frame
        )
        try:
            scan = assembly.finish()
        except BraggdError as error:
            assembly.discard()
            reason = self.fault if self.fault and not assembly.ledger.used else str(error)
            closed = replace(closed, reason=reason, ledger=assembly.ledger)
        else:
            closed = replace(closed, scan=scan, ledger=scan.ledger)
            self._on_frame(Outcome.LOST, scan.ledger.lost)
        finally:
            if spool is not None:
                spool.close()
        self._on_closed(closed)

    def abort(self) -> None:
        """Drop the open series; its late frames are stray."""
        assembly, spool = self._let_go()
        if assembly is None:
            return
        assembly.discard()
        if spool is not None:
            spool.close()
        self._on_closed(
            Closed(
                scan_id=assembly.scan_id,
                scan=None,
                ledger=assembly.ledger,
                spool=spool.path if spool is not None else None,
                ended_at=time.monotonic(),
                reason="aborted",
            )
        )

    def suspend(self) -> None:
        """Stop in the middle of a series, which stays in the spool as it is."""
        assembly, spool = self._let_go()
        if assembly is not None:
            assembly.discard()
        if spool is not None:
            spool.close()

    def _let_go(self) -> tuple[Assembly | None, _SeriesSpool | None]:
        """The open series, which is from now on a closed one, and its spool."""
        assembly, spool = self._assembly, self._spool
        self._assembly = self._spool = None
        if assembly is not None:
            self._closed = [*self._closed, assembly.series][-_REMEMBERED:]
        return assembly, spool

    def _take(self, event: Event) -> None:
        assembly = self._assembly
        if isinstance(event, Frame):
            self._last_frame = time.monotonic()
            if assembly is None or event.series != assembly.series:
                self._stray(assembly)
                return
            self._on_frame(self._add(assembly, event), 1)
            if assembly.complete:
                self.close()
        elif isinstance(event, SeriesEnd):
            if assembly is not None and event.series == assembly.series:
                self.close()
        elif isinstance(event, Corrupt):
            log.warning("a message was left out: %s", event.reason)
            self._on_frame(Outcome.CORRUPT, 1)
            if assembly is not None:
                self._last_frame = time.monotonic()
                assembly.count(Outcome.CORRUPT)
                assembly.warn(event.reason)

    def _add(self, assembly: Assembly, frame: Frame) -> Outcome:
        try:
            outcome = assembly.add(frame)
        except BraggdError as error:  # a configured detector that does not fit: the series stays in the spool
            self.fault = str(error)
            assembly.warn(str(error))
            assembly.count(Outcome.DROPPED)
            return Outcome.DROPPED
        self.fault = ""
        return outcome

    def _stray(self, assembly: Assembly | None) -> None:
        self._on_frame(Outcome.STRAY, 1)
        if assembly is not None:
            assembly.count(Outcome.STRAY)

    def _begin(self, start: SeriesStart) -> None:
        assembly = self._assembly
        if assembly is not None and assembly.series == start.series and not self._headed:
            assembly.announce(start)  # images came before their header
            self._headed = True
            return
        if assembly is not None:
            assembly.warn(f"series {start.series} began before the end of series {assembly.series} came")
            self.close()
        if not self.accepting:
            return
        self._open(start)
        self._headed = True

    def _is_next(self, events: list[Event]) -> bool:
        """Whether an image of a newer series than the open one shows that the open one is over."""
        series = next((e.series for e in events if isinstance(e, Frame)), None)
        if self._assembly is None or series is None or series == self._assembly.series or series in self._closed:
            return False
        try:
            return int(series) > int(self._assembly.series)
        except ValueError:
            return False

    def _begin_without_header(self, events: list[Event]) -> None:
        frame = next((e for e in events if isinstance(e, Frame)), None)
        if frame is None or frame.series in self._closed or not self.accepting:
            return
        if self._assembly is not None:
            self._assembly.warn(f"series {frame.series} began before the end of series {self._assembly.series} came")
            self.close()
        self._open(SeriesStart(series=frame.series, shape=frame.shape))
        self._headed = False
        if self._assembly is not None:
            self._assembly.warn(
                f"series {frame.series} has no header; connect before the detector is armed so that "
                "the number of frames, the pixel mask and the energy are known"
            )

    def _open(self, start: SeriesStart) -> None:
        with self._lock:
            prepared, self._prepared = self._prepared, Preparation()
        config = msgspec.structs.replace(
            self._config,
            geometry=prepared.geometry.completed_by(self._config.geometry),
            scan=msgspec.structs.replace(self._config.scan, peak=prepared.peak or self._config.scan.peak),
        )
        if self._again is not None:
            scan_id = self._again.name.split(".stream")[0]
            spool = _SeriesSpool(self._again, again=True)
        else:
            scan_id = self._name(prepared.scan_id or self._config.scan.name, start.series)
            spool = _SeriesSpool(self._spool_folder / f"{scan_id}.stream")
            _write_preparation(spool.path, prepared)
        self._closed = [series for series in self._closed if series != start.series]
        try:
            self._assembly = Assembly(scan_id, start, config, spool.frame)
        except BraggdError as error:
            self.fault = str(error)
            self._assembly = Assembly(scan_id, replace(start, shape=None), config, spool.frame)
            self._assembly.warn(str(error))
        self._spool = spool
        self._last_frame = time.monotonic()
        log.info("scan %s: series %s begins, %s frames expected", scan_id, start.series, start.frames_expected)

    def _name(self, pattern: str, series: str) -> str:
        now = time.localtime()
        name = pattern.format(series=series, date=time.strftime("%Y%m%d", now), time=time.strftime("%H%M%S", now))
        name = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in name).lstrip(".") or "scan"
        archive = Path(self._config.archive.folder) if self._config.archive.folder else None
        candidate, count = name, 1
        while any(self._spool_folder.glob(f"{candidate}.stream*")) or (
            archive is not None and (archive / f"{candidate}.cxi").exists()
        ):
            count += 1
            candidate = f"{name}-{count}"
        return candidate

    def _publish_live(self, assembly: Assembly) -> None:
        self._last_live = time.monotonic()
        if (live := assembly.live()) is not None:
            self._on_live(live)


class _SeriesSpool:
    """The messages of one series on disk, and where each of its frames is."""

    def __init__(self, path: Path, again: bool = False) -> None:
        self.path = path
        self.fault = ""
        self._offsets: dict[int, int] = {}
        self._writer: SpoolWriter | None = None
        self._reader: SpoolReader | None = None
        try:
            self._writer = None if again else SpoolWriter(path)
            self._reader = SpoolReader(path)
        except (OSError, SourceError) as error:
            self._fail(error)

    def keep(self, parts: Sequence[bytes | memoryview], events: list[Event], offset: int | None) -> None:
        """Write a message; a disk that refuses it is a fault that is shown, and no reason to stop."""
        if offset is None:
            if self._writer is None:
                return
            try:
                offset = self._writer.append(parts)
            except (OSError, SourceError) as error:
                self._fail(error)
                return
        for event in events:
            if isinstance(event, Frame):
                self._offsets.setdefault(event.index, offset)

    def frame(self, step: int) -> Frame:
        """Read the frame of a rocking step again."""
        if self._reader is None or step not in self._offsets:
            raise SourceError(f"frame {step} is not in the spool")
        for event in decode(self._reader.read(self._offsets[step])):
            if isinstance(event, Frame) and event.index == step:
                return event
        raise SourceError(f"frame {step} is no longer readable in {self.path}")

    def close(self) -> None:
        for file in (self._writer, self._reader):
            if file is not None:
                file.close()

    def _fail(self, error: Exception) -> None:
        self.fault = f"the spool {self.path} cannot be written ({error}); free the disk"
        log.error("%s", self.fault)
        self._writer = None


def take_again(path: Path, ingest: Ingest) -> bool:
    """Take a spooled series as if it came once more; `ingest` was made with `again=path`.

    Returns whether it held anything to take. Raises SourceError where the file is damaged.
    """
    ingest.prepare(_read_preparation(path))
    reader = SpoolReader(path)
    try:
        taken = False
        for offset, parts in reader:
            ingest.handle(parts, offset)
            taken = taken or bool(ingest.scan_id)
    finally:
        reader.close()
    ingest.close()
    return taken


def _preparation_file(spool: Path) -> Path:
    return spool.with_name(spool.name.split(".stream")[0] + ".prepared.json")


def _write_preparation(spool: Path, prepared: Preparation) -> None:
    if prepared != Preparation():
        _preparation_file(spool).write_bytes(msgspec.json.encode(prepared))


def _read_preparation(spool: Path) -> Preparation:
    try:
        return msgspec.json.decode(_preparation_file(spool).read_bytes(), type=Preparation)
    except FileNotFoundError:
        return Preparation()
