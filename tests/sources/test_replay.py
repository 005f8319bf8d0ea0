"""The sender speaks as a detector does: what it sends is what was recorded."""

import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

import braggd
from braggd.compression import decompress
from braggd.data import Frame, Geometry, SeriesEnd, SeriesStart
from braggd.errors import DetectorError
from braggd.scan.detector import detector
from braggd.sources.embed import Placement, module_centre, peak_position
from braggd.sources.messages import decode
from braggd.sources.replay import Sender, messages, prepare, replay
from braggd.sources.stream import FrameStream

STREAMS = [("simplon-v1", encoding) for encoding in ("none", "lz4", "bslz4")] + [
    ("simplon-v2", encoding) for encoding in ("none", "lz4", "bslz4")
]
GEOMETRY = Geometry(
    energy_kev=9.0,
    distance_m=1.85,
    pixel_size_m=(5.5e-05, 5.4e-05),
    angles_deg={"delta": 30.5, "gamma": -12.25},
    rocking_motor="theta",
    rocking_deg=tuple(-0.28 + 0.005 * np.arange(5)),
)


def counts(steps=5, peak=(20, 30), shape=(41, 53), largest=1000):
    rows, columns = np.indices(shape)
    spot = largest * np.exp(-((rows - peak[0]) ** 2 + (columns - peak[1]) ** 2) / 18)
    return np.random.default_rng(0).poisson(spot, (steps, *shape)).astype(np.int32)


@pytest.fixture(scope="module")
def measured():
    with h5py.File(Path(braggd.__file__).parent / "example" / "aps_34idc_S0054.h5") as file:
        return file["entry/data/data"][90:110]


def decoded(sent):
    return [event for message in sent for event in decode(message)]


@pytest.mark.parametrize(("protocol", "encoding"), STREAMS)
@pytest.mark.parametrize("largest", [1000, 100_000])
def test_what_is_sent_is_what_was_recorded(protocol, encoding, largest):
    recorded = counts(largest=largest)
    start, *frames, end = decoded(prepare(recorded, GEOMETRY, protocol=protocol, encoding=encoding, series=4))
    assert isinstance(start, SeriesStart)
    assert end == SeriesEnd(series="4")
    assert (start.series, start.frames_expected, start.shape) == ("4", 5, recorded.shape[1:])
    assert start.geometry.rocking_deg == pytest.approx(GEOMETRY.rocking_deg)
    for name in ("energy_kev", "distance_m", "pixel_size_m", "angles_deg", "rocking_motor"):
        assert getattr(start.geometry, name) == getattr(GEOMETRY, name)
    assert [frame.index for frame in frames] == list(range(5))
    assert {frame.dtype.itemsize for frame in frames} == {2 if largest == 1000 else 4}
    np.testing.assert_array_equal([decompress(frame) for frame in frames], recorded)


def test_array1_sends_images_only():
    frames = decoded(prepare(counts(), GEOMETRY, protocol="array-1.0", series=4))
    assert all(isinstance(frame, Frame) for frame in frames)
    np.testing.assert_array_equal([decompress(frame) for frame in frames], counts())
    assert {frame.series for frame in frames} == {"4"}


@pytest.mark.parametrize("header_detail", ["none", "basic", "all"])
def test_the_header_tells_as_much_as_was_asked(header_detail):
    start = decoded(prepare(counts(), GEOMETRY, protocol="simplon-v1", header_detail=header_detail))[0]
    assert (start.frames_expected is None) == (header_detail == "none")
    assert (start.pixel_mask is None) == (header_detail != "all")


@pytest.mark.parametrize("name", ["EIGER2 1M", "ESRF ID01 EIGER 2M"])
@pytest.mark.parametrize("protocol", ["simplon-v1", "simplon-v2"])
def test_a_scan_on_another_detector_loses_only_what_falls_into_gaps(measured, name, protocol):
    chosen = detector(name)
    row, column = peak_position(measured)
    at = (530, 600)
    start, *frames, _ = decoded(prepare(measured, GEOMETRY, detector=name, at=at, protocol=protocol, limit=3))
    assert start.shape == chosen.shape
    np.testing.assert_array_equal(start.pixel_mask != 0, chosen.mask)
    assert start.frames_expected == len(frames) == 3
    for recorded, frame in zip(measured, frames, strict=False):
        pixels = decompress(frame).copy()
        assert (pixels[chosen.mask] == np.iinfo(pixels.dtype).max).all()
        top, left = at[0] - row, at[1] - column
        window = (slice(top, top + recorded.shape[0]), slice(left, left + recorded.shape[1]))
        seen = ~chosen.mask[window]
        np.testing.assert_array_equal(pixels[window][seen], recorded[seen])
        pixels[window] = 0
        assert not pixels[~chosen.mask].any()


def test_bright_scans_are_blanked_as_an_eiger_does():
    _, frame, *_ = decoded(prepare(counts(largest=100_000), GEOMETRY, detector="EIGER2 1M"))
    pixels = decompress(frame)
    assert pixels.dtype == np.uint32
    assert (pixels[detector("EIGER2 1M").mask] == 2**32 - 1).all()


def test_the_peak_lies_in_the_middle_of_the_largest_module_by_default():
    for name in ("EIGER2 1M", "ESRF ID01 EIGER 2M", "Maxipix 2x2"):
        blind = detector(name).mask
        row, column = module_centre(blind)
        distance = distance_transform_edt(np.pad(~blind, 1))[1:-1, 1:-1]
        assert distance[row, column] >= distance.max() - 1
        placed = Placement.at_peak(counts(), detector(name))
        assert placed(counts()[0], np.dtype("u4"))[row, column] > 500


def test_parts_outside_of_the_frame_are_cut():
    recorded = counts()
    placed = Placement.at_peak(recorded, detector("EIGER2 1M"), (0, 1027))
    peak = peak_position(recorded)
    full = placed(recorded[0], np.dtype("u4"))
    np.testing.assert_array_equal(full[: 41 - peak[0], 1027 - peak[1] :], recorded[0, peak[0] :, : peak[1] + 1])
    assert full[:512].sum() == recorded[0, peak[0] :, : peak[1] + 1].sum()


def test_a_hot_pixel_is_not_the_peak():
    recorded = counts()
    recorded[:, 3, 4] = 10**6
    row, column = peak_position(recorded)
    assert abs(row - 20) <= 2
    assert abs(column - 30) <= 2


def test_negative_counts_are_blanked():
    recorded = counts()
    recorded[1, 2, 3] = -1
    frames = decoded(prepare(recorded, GEOMETRY))[1:-1]
    assert decompress(frames[1])[2, 3] == 65535


def test_wrong_wishes_are_refused_before_anybody_listens():
    with pytest.raises(DetectorError):
        replay(counts(), GEOMETRY, "tcp://127.0.0.1:*", detector="no such detector")
    with pytest.raises(DetectorError, match="outside"):
        messages(counts(), GEOMETRY, detector="EIGER2 1M", at=(5000, 3))
    with pytest.raises(ValueError, match="integers"):
        messages(counts().astype(float), GEOMETRY)


def test_the_sender_waits_for_a_listener_and_delivers_all_before_it_closes():
    with FrameStream("bind:tcp://127.0.0.1:*") as probe:
        endpoint = probe.endpoint
    seen = []
    sender = threading.Thread(
        target=replay, args=(counts(), GEOMETRY, endpoint), kwargs={"progress": lambda *done: seen.append(done)}
    )
    sender.start()
    time.sleep(0.3)
    assert not seen
    with FrameStream(endpoint, queue_frames=1) as stream:
        time.sleep(0.3)
        events = [event for _ in range(7) for event in decode(stream.receive(5))]
    sender.join()
    assert [type(event) for event in events] == [SeriesStart, *[Frame] * 5, SeriesEnd]
    assert seen == [(sent, 7) for sent in range(1, 8)]


def test_a_slow_receiver_gets_what_was_sent_before_the_sender_closed():
    sent, closed = threading.Event(), threading.Event()

    def send(endpoint):
        with Sender(endpoint) as sender:
            sender.send([bytes([index]) * 1_000_000] for index in range(40))
            sent.set()
        closed.set()

    with FrameStream("bind:tcp://127.0.0.1:*") as probe:
        endpoint = probe.endpoint
    with FrameStream(endpoint, queue_frames=1) as stream:
        thread = threading.Thread(target=send, args=(endpoint,))
        thread.start()
        assert sent.wait(5)
        assert not closed.wait(0.3)
        assert [stream.receive(5)[0][0] for _ in range(40)] == list(range(40))
        thread.join()


@pytest.mark.parametrize("pattern", ["push", "pub"])
def test_stop_ends_the_waiting(pattern):
    stop = threading.Event()
    sent = []
    thread = threading.Thread(
        target=lambda: sent.append(replay(counts(), GEOMETRY, "tcp://127.0.0.1:*", pattern=pattern, stop=stop))
    )
    thread.start()
    stop.set()
    thread.join(5)
    assert sent == [0]


def test_stop_ends_a_sending_that_nobody_takes():
    stop, sent = threading.Event(), []
    endless = ([bytes(1_000_000)] for _ in range(10**6))
    with Sender("tcp://127.0.0.1:*", queue_frames=2) as sender, FrameStream(sender.endpoint, queue_frames=1):
        thread = threading.Thread(target=lambda: sent.append(sender.send(endless, stop=stop)))
        thread.start()
        time.sleep(0.3)
        stop.set()
        thread.join(5)
    assert 0 < sent[0] < 1000


def test_the_rate_is_kept():
    with Sender("tcp://127.0.0.1:*") as sender, FrameStream(sender.endpoint):
        began = time.monotonic()
        sender.send([[b"x"]] * 21, rate_hz=50)
        assert 0.39 < time.monotonic() - began < 1


def test_a_publisher_loses_nothing_to_a_slow_subscriber():
    with (
        Sender("tcp://127.0.0.1:*", "pub", queue_frames=2) as sender,
        FrameStream(sender.endpoint, "sub", queue_frames=1) as stream,
    ):
        thread = threading.Thread(target=sender.send, args=([[b"%d" % index] for index in range(300)],))
        thread.start()
        time.sleep(0.2)
        found = [int(bytes(stream.receive(5)[0])) for _ in range(300)]
        thread.join()
    assert found == list(range(300))
