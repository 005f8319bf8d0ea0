"""The way from messages to scans, through the real encoder and decoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from braggd import shared
from braggd.config import ArchiveConfig, Config, DetectorConfig, ScanConfig, SourceConfig
from braggd.data import Geometry, Ledger, Outcome, Result
from braggd.ingest import Closed, Ingest, Preparation, take_again
from braggd.sources.replay import prepare

pytestmark = pytest.mark.usefixtures("no_shared_memory_left")
Message = list[bytes]


@dataclass
class Desk:
    """An ingest and what came out of it."""

    spool: Path
    config: Config
    closed: list[Closed] = field(default_factory=list)
    live: list[Result] = field(default_factory=list)
    outcomes: dict[Outcome, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ingest = self.new()

    def new(self, again: Path | None = None) -> Ingest:
        def count(outcome: Outcome, number: int) -> None:
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + number

        return Ingest(self.config, self.spool, self.closed.append, self.live.append, count, again)

    def play(self, messages: list[Message]) -> None:
        for parts in messages:
            self.ingest.handle(parts)
            self.ingest.tick()

    def arrays(self, index: int = 0) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        scan = self.closed[index].scan
        assert scan is not None, self.closed[index].reason
        counts, valid = shared.attach(scan.counts).copy(), shared.attach(scan.valid).copy()
        scan.release()
        return counts, valid


def make_desk(tmp_path: Path, **sections: Any) -> Desk:
    config = Config(archive=ArchiveConfig(folder=""), scan=ScanConfig(window=(64, 64)))
    return Desk(tmp_path, msgspec.structs.replace(config, **sections))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return make_desk(tmp_path)


@pytest.fixture(scope="module")
def counts(measured_counts: NDArray[np.int32]) -> NDArray[np.uint32]:
    """41 frames about the peak, 128 x 128 pixels; the peak at (64, 63)."""
    return measured_counts[79:120, 62:190, 64:192].astype(np.uint32)


@pytest.fixture(scope="module", params=["simplon-v1", "simplon-v2"])
def stream(request: pytest.FixtureRequest, counts: NDArray[np.uint32]) -> Callable[..., list[Message]]:
    def make(data: NDArray[np.uint32] = counts, **options: Any) -> list[Message]:
        return [list(m) for m in prepare(data, Geometry(), protocol=request.param, **options)]

    return make


def balanced(ledger: Ledger) -> bool:
    return ledger.expected == ledger.used + ledger.lost


def test_every_frame_arrives_and_the_window_lies_about_the_peak(
    desk: Desk, stream: Callable[..., list[Message]], counts: NDArray[np.uint32]
) -> None:
    desk.play(stream())
    closed = desk.closed[0]
    volume, valid = desk.arrays()
    assert closed.ledger == Ledger(expected=41, used=41)
    assert closed.scan is not None
    _, row, column = closed.scan.origin
    assert abs(row + 32 - 64) <= 8
    assert abs(column + 32 - 63) <= 8
    assert valid.all()
    np.testing.assert_array_equal(volume, counts[:, row : row + 64, column : column + 64])
    assert desk.outcomes == {Outcome.USED: 41, Outcome.LOST: 0}


def test_frames_may_come_in_any_order(
    desk: Desk, stream: Callable[..., list[Message]], counts: NDArray[np.uint32]
) -> None:
    head, *images, end = stream()
    desk.play([head, *(images[i] for i in np.random.default_rng(3).permutation(41)), end])
    volume, _ = desk.arrays()
    scan = desk.closed[0].scan
    assert scan is not None
    _, row, column = scan.origin
    np.testing.assert_array_equal(volume, counts[:, row : row + 64, column : column + 64])


def test_lost_frames_become_masked_planes_never_zeros(desk: Desk, stream: Callable[..., list[Message]]) -> None:
    messages = stream()
    del messages[21], messages[5]  # images 20 and 4
    desk.play(messages)
    _, valid = desk.arrays()
    assert list(np.flatnonzero(~valid.any(axis=(1, 2)))) == [4, 20]
    assert valid[[0, 3, 5, 19, 21, 40]].all()
    assert desk.closed[0].ledger == Ledger(expected=41, used=39, lost=2)
    assert any("2 of 41 frames missing, first 4" in w for w in desk.closed[0].scan.warnings)  # type: ignore[union-attr]


def test_duplicate_stray_and_corrupt_frames_are_counted_and_not_used(
    desk: Desk, stream: Callable[..., list[Message]], counts: NDArray[np.uint32]
) -> None:
    head, *images, end = stream()
    stray = stream(counts + 1000, series=0)[7]
    cut = [part[: len(part) // 2] if len(part) > 2000 else part for part in images[9]]
    garbage = [b"\x81\xa1\x00 nothing of this world"]
    desk.play([head, *images[:9], cut, images[3], stray, garbage, *images[10:], end])
    volume, valid = desk.arrays()
    ledger = desk.closed[0].ledger
    assert (ledger.used, ledger.lost, ledger.duplicate, ledger.stray, ledger.corrupt) == (40, 1, 1, 1, 2)
    assert ledger.received == 44
    assert balanced(ledger)
    assert not valid[9].any()
    assert volume.max() == counts.max()


def test_a_frame_of_another_shape_is_left_out(
    desk: Desk, stream: Callable[..., list[Message]], counts: NDArray[np.uint32]
) -> None:
    head, *images, end = stream()
    other = stream(counts[:, :100, :90])[8]
    desk.play([head, *images[:7], other, *images[8:], end])
    _, valid = desk.arrays()
    assert desk.closed[0].ledger.corrupt == 1
    assert list(np.flatnonzero(~valid.any(axis=(1, 2)))) == [7]
    assert any("100x90 pixels, not 128x128" in w for w in desk.closed[0].scan.warnings)  # type: ignore[union-attr]


def test_a_header_that_comes_after_images_is_taken(desk: Desk, stream: Callable[..., list[Message]]) -> None:
    head, *images, end = stream()
    desk.play([*images[:5], head, *images[5:], end])
    _, valid = desk.arrays()
    assert valid.all()
    assert desk.closed[0].ledger == Ledger(expected=41, used=41)


def test_a_series_without_header_is_assembled_and_says_so(desk: Desk, stream: Callable[..., list[Message]]) -> None:
    desk.play(stream()[1:])
    volume, valid = desk.arrays()
    assert volume.shape == (41, 64, 64)
    assert valid.all()
    assert any("has no header" in w for w in desk.closed[0].scan.warnings)  # type: ignore[union-attr]


def test_a_series_restarted_midway_gives_two_scans(desk: Desk, stream: Callable[..., list[Message]]) -> None:
    messages = stream()
    desk.play([*messages[:31], *messages])
    assert [c.ledger.used for c in desk.closed] == [30, 41]
    assert [c.ledger.lost for c in desk.closed] == [11, 0]
    assert desk.closed[0].scan_id != desk.closed[1].scan_id
    assert not desk.arrays(0)[1][30:].any()
    desk.arrays(1)


def test_the_next_series_closes_one_whose_end_is_missing(desk: Desk, stream: Callable[..., list[Message]]) -> None:
    desk.play([*stream()[:20], *stream(series=2), *stream()[25:27]])
    assert [c.ledger.used for c in desk.closed] == [19, 41]
    assert desk.outcomes[Outcome.STRAY] == 2
    for index in range(2):
        desk.arrays(index)


def test_silence_closes_an_incomplete_scan(tmp_path: Path, stream: Callable[..., list[Message]]) -> None:
    desk = make_desk(tmp_path, source=SourceConfig(idle_timeout_s=0.05))
    desk.play(stream()[:-4])
    import time

    time.sleep(0.1)
    desk.ingest.tick()
    _, valid = desk.arrays()
    assert list(np.flatnonzero(~valid.any(axis=(1, 2)))) == [38, 39, 40]
    assert any("no end of the series" in w for w in desk.closed[0].scan.warnings)  # type: ignore[union-attr]


def test_the_scan_is_closed_with_its_last_frame(desk: Desk, stream: Callable[..., list[Message]]) -> None:
    desk.play(stream()[:-1])
    assert len(desk.closed) == 1
    desk.arrays()


def test_gap_and_saturated_pixels_are_masked(desk: Desk, measured_counts: NDArray[np.int32]) -> None:
    data = measured_counts[79:120].astype(np.uint32)
    data[20, 126, 120] = 2_000_000  # beyond what a MAXIPIX counts
    desk.play([list(m) for m in prepare(data, Geometry(), detector="maxipix-2x2", at=(243, 243))])
    volume, valid = desk.arrays()
    scan = desk.closed[0].scan
    assert scan is not None
    _, row, column = scan.origin
    assert not valid[:, 255 - row : 261 - row].any()
    assert not valid[:, :, 255 - column : 261 - column].any()
    assert not valid[20, 243 - row, 236 - column]
    assert valid[20, 243 - row, 243 - column]
    assert (volume[~valid] == 0).all()


def test_counts_are_divided_by_the_flat_field_and_dead_pixels_masked(
    tmp_path: Path, stream: Callable[..., list[Message]], counts: NDArray[np.uint32]
) -> None:
    gain = np.random.default_rng(7).uniform(0.6, 1.4, (128, 128))
    gain[60, 70] = 0.02
    np.save(tmp_path / "flat.npy", 8000 * gain)
    desk = make_desk(tmp_path, detector=DetectorConfig(flatfield=str(tmp_path / "flat.npy")))
    desk.play(stream())
    volume, valid = desk.arrays()
    scan = desk.closed[0].scan
    assert scan is not None
    _, row, column = scan.origin
    assert not valid[:, 60 - row, 70 - column].any()
    assert valid.sum() == valid.size - 41
    part = np.s_[row : row + 64, column : column + 64]
    expected = counts[:, *part] / (gain[part] / np.median(gain))
    np.testing.assert_allclose(volume[valid], expected[valid], rtol=1e-5)


def test_a_hot_pixel_is_not_taken_for_the_peak(
    desk: Desk, stream: Callable[..., list[Message]], counts: NDArray[np.uint32]
) -> None:
    hot = counts.copy()
    hot[:, 10, 110] = 900_000
    hot[:, 120, 7:9] = 900_000
    desk.play(stream(hot))
    scan = desk.closed[0].scan
    assert scan is not None
    assert abs(scan.origin[1] + 32 - 64) <= 8
    assert abs(scan.origin[2] + 32 - 63) <= 8
    desk.arrays()


def test_an_alien_cut_off_by_the_scan_is_not_taken_for_the_peak(
    desk: Desk, stream: Callable[..., list[Message]], counts: NDArray[np.uint32]
) -> None:
    z, y, x = np.ogrid[:41, :128, :128]
    alien = 4e5 * np.exp(-(((y - 15) / 2.0) ** 2) - ((x - 108) / 2.0) ** 2 - ((z - 0) / 14.0) ** 2)
    desk.play(stream(counts + alien.astype(np.uint32)))
    scan = desk.closed[0].scan
    assert scan is not None
    assert abs(scan.origin[1] + 32 - 64) <= 8
    assert abs(scan.origin[2] + 32 - 63) <= 8
    desk.arrays()


def test_a_detector_that_does_not_fit_is_named_and_the_frames_stay_in_the_spool(
    tmp_path: Path, stream: Callable[..., list[Message]]
) -> None:
    desk = make_desk(tmp_path, detector=DetectorConfig(name="maxipix-2x2"))
    desk.play(stream())
    assert desk.closed[0].scan is None
    assert "frames are 128x128; correct the name or leave it out" in desk.closed[0].reason
    desk.config = Config(archive=ArchiveConfig(folder=""), scan=ScanConfig(window=(64, 64)))
    spool = desk.closed[0].spool
    assert spool is not None
    take_again(spool, desk.new(again=spool))
    assert desk.closed[1].ledger == Ledger(expected=41, used=41)
    assert desk.closed[1].scan_id == desk.closed[0].scan_id
    desk.arrays(1)


def test_a_scan_from_the_spool_equals_the_scan_from_the_stream(
    desk: Desk, stream: Callable[..., list[Message]]
) -> None:
    desk.ingest.prepare(Preparation(scan_id="Au 111/7", peak=(60, 60), geometry=Geometry(energy_kev=9.0)))
    desk.play(stream())
    first = desk.closed[0]
    spool = first.spool
    assert spool is not None
    assert first.scan_id == "Au_111_7"
    take_again(spool, desk.new(again=spool))
    second = desk.closed[1]
    assert first.scan is not None
    assert second.scan is not None
    assert (second.scan_id, second.scan.origin) == (first.scan_id, (0, 28, 28))
    assert second.scan.geometry.energy_kev == 9.0
    for ours, theirs in zip(desk.arrays(0), desk.arrays(1), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_an_aborted_series_leaves_nothing_but_strays(desk: Desk, stream: Callable[..., list[Message]]) -> None:
    messages = stream()
    desk.play(messages[:20])
    desk.ingest.abort()
    desk.play(messages[20:])
    assert desk.closed[0].reason == "aborted"
    assert len(desk.closed) == 1
    assert desk.outcomes == {Outcome.USED: 19, Outcome.STRAY: 22}


def test_live_results_carry_the_rocking_curve(
    desk: Desk, stream: Callable[..., list[Message]], counts: NDArray[np.uint32]
) -> None:
    desk.play(stream())
    desk.arrays()
    scan = desk.closed[0].scan
    assert scan is not None
    _, row, column = scan.origin
    window = counts[:, row : row + 64, column : column + 64]
    live = desk.live[-1]
    curve = np.asarray(live.array("rocking_curve"))
    placed = curve > 0
    assert placed.sum() >= 30  # frames before the peak was found are filled in at the end
    np.testing.assert_allclose(curve[placed], window.sum(axis=(1, 2))[placed], rtol=1e-6)
    assert abs(live.metrics["peak_row"] - 64) <= 8
