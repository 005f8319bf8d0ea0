"""SIMPLON v2 messages, written by hand after the specification and RFC 8746."""

import base64
from datetime import UTC, datetime

import cbor2
import numpy as np
import pytest
from cbor2 import CBORTag

from braggd.compression import compress, decompress
from braggd.data import Corrupt, Frame, SeriesEnd, SeriesStart
from braggd.sources.messages import decode

PIXELS = np.arange(12, dtype="<u4").reshape(3, 4)
TYPED_TAGS = [*range(64, 76), *range(77, 83), 84, 85, 86]
UNSIGNED = ["u1", ">u2", ">u4", ">u8", "u1", "<u2", "<u4", "<u8"]
SIGNED = ["i1", ">i2", ">i4", ">i8", "<i2", "<i4", "<i8"]
TYPES = [*UNSIGNED, *SIGNED, ">f2", ">f4", ">f8", "<f2", "<f4", "<f8"]
START = {
    "type": "start",
    "arm_date": datetime(2024, 1, 1, tzinfo=UTC),
    "series_id": 12,
    "series_unique_id": "01HBV3JPF9T4ZDPADX6EMK6XMZ",
    "number_of_images": 50,
    "channels": ["threshold_1", "threshold_2"],
    "image_dtype": "uint32",
    "image_size_x": 4,
    "image_size_y": 3,
    "pixel_size_x": 7.5e-05,
    "pixel_size_y": 7.4e-05,
    "saturation_value": 3000,
    "detector_description": "Dectris EIGER2 Si 1M",
    "detector_translation": [0.1, 0.2, -1.5],
    "incident_energy": 9000.0,
    "goniometer": {"omega": {"start": 1.0, "increment": -0.01}, "chi": {"start": 90.0, "increment": 0.0}},
}


def array(pixels, tag=70, *, dims=None, order=40, content=None):
    return CBORTag(order, [dims or list(pixels.shape), CBORTag(tag, pixels.tobytes() if content is None else content)])


def image(data, index=5, **changed):
    message = {
        "type": "image",
        "series_id": 12,
        "image_id": index,
        "series_date": datetime(2024, 1, 1, tzinfo=UTC),
        "real_time": [215873, 50000000],
        "start_time": CBORTag(30, [0, 1]),
        "data": data,
    }
    return [cbor2.dumps(message | changed)]


def start(**changed):
    return [cbor2.dumps(CBORTag(55799, {**START, **changed}))]


def test_a_start_message_tells_everything():
    (event,) = decode(start(pixel_mask={"threshold_2": array(7 * PIXELS), "threshold_1": array(PIXELS)}))
    assert isinstance(event, SeriesStart)
    assert (event.series, event.frames_expected, event.shape) == ("12", 50, (3, 4))
    np.testing.assert_array_equal(event.pixel_mask, PIXELS)
    assert event.saturation == 3000
    assert event.warnings == ("the detector sends 2 thresholds, and threshold_1 is used",)
    geometry = event.geometry
    assert geometry.energy_kev == 9.0
    assert geometry.distance_m == 1.5
    assert geometry.pixel_size_m == (7.4e-05, 7.5e-05)
    assert geometry.angles_deg == {"chi": 90.0}
    assert geometry.rocking_motor == "omega"
    assert geometry.rocking_deg == pytest.approx(tuple(1 - 0.01 * step for step in range(50)))


def test_only_type_and_series_are_needed():
    (event,) = decode([cbor2.dumps({"type": "start", "series_id": 3})])
    assert isinstance(event, SeriesStart)
    assert (event.series, event.frames_expected, event.shape, event.pixel_mask) == ("3", None, None, None)
    (event,) = decode([cbor2.dumps({"type": "end", "series_id": 3})])
    assert event == SeriesEnd(series="3")


def test_a_constant_unique_id_does_not_matter():
    first, second = (decode(start(series_id=number))[0].series for number in (1, 2))
    assert first != second


@pytest.mark.parametrize("encoding", ["bslz4", "lz4"])
def test_compressed_images_are_read(encoding):
    content = CBORTag(56500, [encoding, 4, compress(PIXELS, encoding)])
    (frame,) = decode(image({"threshold_1": array(PIXELS, content=content)}))
    assert isinstance(frame, Frame)
    assert (frame.series, frame.index, frame.shape, frame.encoding) == ("12", 5, (3, 4), encoding)
    np.testing.assert_array_equal(decompress(frame), PIXELS)


@pytest.mark.parametrize(
    ("tag", "dtype"),
    list(zip(TYPED_TAGS, TYPES, strict=True)),
)
def test_every_typed_array_is_read(tag, dtype):
    (frame,) = decode(image({"threshold_1": array(PIXELS.astype(dtype), tag)}))
    np.testing.assert_array_equal(decompress(frame), PIXELS)


@pytest.mark.parametrize("encoding", [None, "bslz4"])
def test_column_major_images_are_put_in_order(encoding):
    columns_first = np.ascontiguousarray(PIXELS.T)
    content = columns_first.tobytes()
    if encoding:
        content = CBORTag(56500, [encoding, 4, compress(columns_first, encoding)])
    (frame,) = decode(image({"threshold_1": array(PIXELS, order=1040, content=content)}))
    assert frame.shape == (3, 4)
    np.testing.assert_array_equal(decompress(frame), PIXELS)


def test_the_first_threshold_is_taken():
    (frame,) = decode(image({"threshold_2": array(7 * PIXELS), "threshold_1": array(PIXELS)}))
    np.testing.assert_array_equal(decompress(frame), PIXELS)
    (frame,) = decode(image({"difference": array(PIXELS), "threshold_2": array(7 * PIXELS)}))
    np.testing.assert_array_equal(decompress(frame), PIXELS)


def test_start_and_image_glued_into_one_message_come_apart():
    events = decode(start() + image({"threshold_1": array(PIXELS)}))
    assert [type(event) for event in events] == [SeriesStart, Frame]


def test_masks_in_base64_or_compressed_are_read():
    compressed = array(PIXELS, content=CBORTag(56500, ["bslz4", 4, compress(PIXELS, "bslz4")]))
    for mask in (base64.b64encode(PIXELS.tobytes()), PIXELS.tobytes(), compressed, array(PIXELS.astype("u1"), 64)):
        (event,) = decode(start(pixel_mask={"threshold_1": mask}))
        np.testing.assert_array_equal(event.pixel_mask, PIXELS)
        assert event.pixel_mask.dtype == np.uint32


def test_a_mask_that_cannot_be_read_is_left_out_and_said_so():
    for mask in (b"short", 5, array(PIXELS, dims=[10**9, 10**9]), array(PIXELS, content=b"")):
        (event,) = decode(start(pixel_mask={"threshold_1": mask}, channels=["threshold_1"]))
        assert isinstance(event, SeriesStart)
        assert event.pixel_mask is None
        assert "pixel mask cannot be read" in event.warnings[0]


@pytest.mark.parametrize(
    "data",
    [
        None,
        {},
        5,
        {"threshold_1": b"raw"},
        {"threshold_1": array(PIXELS, dims=[10**9, 10**9])},
        {"threshold_1": array(PIXELS, dims=[-3, 4])},
        {"threshold_1": array(PIXELS, dims=[3])},
        {"threshold_1": array(PIXELS, dims=[2**200, 1])},
        {"threshold_1": array(PIXELS, 76)},
        {"threshold_1": array(PIXELS, 87)},
        {"threshold_1": array(PIXELS, 99)},
        {"threshold_1": array(PIXELS, content=5)},
        {"threshold_1": array(PIXELS, content=CBORTag(56500, ["zip", 4, b""]))},
        {"threshold_1": array(PIXELS, content=CBORTag(56500, ["bslz4", 4]))},
        {"threshold_1": array(PIXELS, content=CBORTag(56500, [["bslz4"], {"a": 1}, b""]))},
        {"threshold_1": array(PIXELS, content=CBORTag(56500, ["bslz4", 4, "text"]))},
        {"threshold_1": array(PIXELS, order=1040, content=b"short")},
        {"threshold_1": CBORTag(40, 5)},
    ],
)
def test_an_impossible_image_is_corrupt_and_keeps_its_index(data):
    (event,) = decode(image(data, 8))
    assert isinstance(event, Corrupt)
    assert (event.series, event.index) == ("12", 8)


@pytest.mark.parametrize("index", [-1, "1", 1.5, None, True, 2**64, pytest.param(2**70000, id="huge")])
def test_an_impossible_index_is_corrupt(index):
    (event,) = decode(image({"threshold_1": array(PIXELS)}, index))
    assert isinstance(event, Corrupt)
    assert (event.series, event.index) == ("12", None)


@pytest.mark.parametrize(
    "part",
    [
        b"",
        b"\x81" * 100_000 + b"\x00",
        b"\xd8\x40" * 100_000 + b"\x00",
        b"\xa1\x61a" * 100_000 + b"\x00",
        b"\x5b" + (2**60).to_bytes(8, "big") + b"a",
        b"\x9b" + (2**60).to_bytes(8, "big") + b"a",
        b"\xbb" + (2**60).to_bytes(8, "big") + b"a",
        b"\xd8\x1c\x81\xd8\x1d\x00",
        cbor2.dumps([1, 2]),
        cbor2.dumps({"type": "other"}),
        cbor2.dumps({"type": ["start"]}),
        cbor2.dumps({"type": "start"}),
        cbor2.dumps({"type": "start", "series_id": 2**70000}),
        cbor2.dumps({"type": "start", "series_id": 1, "number_of_images": -3}),
    ],
)
def test_what_is_no_message_is_corrupt(part):
    (event,) = decode([part])
    assert isinstance(event, Corrupt)
    assert len(event.reason) < 300


def test_odd_dates_and_ratios_do_not_cost_a_frame():
    odd = {"series_date": CBORTag(0, "yesterday"), "real_time": CBORTag(30, [1, 0]), "user_data": CBORTag(35, "(")}
    (frame,) = decode(image({"threshold_1": array(PIXELS)}, **odd))
    assert isinstance(frame, Frame)
