"""SIMPLON v1 messages, written by hand after the specification."""

import base64
import json

import numpy as np
import pytest

from braggd.compression import decompress
from braggd.data import Corrupt, Frame, SeriesEnd, SeriesStart
from braggd.sources.messages import decode

CONFIG = {
    "description": "Dectris EIGER2 Si 1M",
    "nimages": 20,
    "ntrigger": 5,
    "photon_energy": 8500.0,
    "detector_distance": 0.8,
    "x_pixel_size": 7.5e-05,
    "y_pixel_size": 7.4e-05,
    "x_pixels_in_detector": 4,
    "y_pixels_in_detector": 3,
    "countrate_correction_count_cutoff": 21517,
    "omega_start": 10.0,
    "omega_increment": 0.02,
    "phi_start": 3.0,
    "phi_increment": 0.0,
}
MASK = np.arange(12, dtype="<u4").reshape(3, 4)


def j(**header):
    return json.dumps(header).encode()


def header(detail="all", *, flatfield="dflatfield-1.0", mask=MASK.tobytes(), appendix=None):
    parts = [j(htype="dheader-1.0", series=9, header_detail=detail)]
    if detail != "none":
        parts.append(j(**CONFIG))
    if detail == "all":
        parts += [j(htype=flatfield, shape=[4, 3], type="float32"), np.ones(12, "<f4").tobytes()]
        parts += [j(htype="dpixelmask-1.0", shape=[4, 3], type="uint32"), mask]
        parts += [j(htype="dcountrate_table-1.0", shape=[2, 1000], type="float32"), bytes(8000)]
    return parts + ([appendix] if appendix is not None else [])


def image(index=0, pixels=MASK, appendix=None, **changed):
    layout = {"htype": "dimage_d-1.0", "encoding": "<", "shape": [4, 3], "size": 48, "type": "uint32"} | changed
    parts = [j(htype="dimage-1.0", frame=index, hash="", series=9), j(**layout), pixels.tobytes()]
    parts.append(j(htype="dconfig-1.0", real_time=1, start_time=2, stop_time=3))
    return parts + ([appendix] if appendix is not None else [])


@pytest.mark.parametrize("appendix", [None, b"free text", b"", b'{"my": "json"}', b'{"htype": "mine-1.0"}'])
@pytest.mark.parametrize("flatfield", ["dflatfield-1.0", "flatfield-1.0"])
def test_a_full_header_tells_everything(flatfield, appendix):
    (start,) = decode(header(flatfield=flatfield, appendix=appendix))
    assert isinstance(start, SeriesStart)
    assert start.series == "9"
    assert start.frames_expected == 100
    assert start.shape == (3, 4)
    assert start.saturation == 21517
    assert start.detector == "Dectris EIGER2 Si 1M"
    np.testing.assert_array_equal(start.pixel_mask, MASK)
    assert start.pixel_mask.dtype == np.uint32
    geometry = start.geometry
    assert geometry.energy_kev == 8.5
    assert geometry.distance_m == 0.8
    assert geometry.pixel_size_m == (7.4e-05, 7.5e-05)
    assert geometry.angles_deg == {"phi": 3.0}
    assert geometry.rocking_motor == "omega"
    assert geometry.rocking_deg == pytest.approx(tuple(10 + 0.02 * step for step in range(100)))


def test_a_basic_header_has_no_mask_and_a_bare_one_only_its_series():
    (basic,) = decode(header("basic"))
    assert basic.pixel_mask is None
    assert basic.frames_expected == 100
    (bare,) = decode(header("none"))
    assert bare.series == "9"
    assert bare.frames_expected is None
    assert bare.shape is None
    (with_appendix,) = decode(header("none", appendix=b'{"nimages": 5}'))
    assert with_appendix.frames_expected is None


@pytest.mark.parametrize("appendix", [None, b"free text", b'{"my": "json"}'])
def test_an_image_has_rows_and_columns_in_numpys_order(appendix):
    (frame,) = decode(image(4, appendix=appendix))
    assert isinstance(frame, Frame)
    assert (frame.series, frame.index, frame.shape) == ("9", 4, (3, 4))
    np.testing.assert_array_equal(decompress(frame), MASK)


def test_big_endian_pixels_are_read():
    (frame,) = decode(image(pixels=MASK.astype(">u4"), encoding=">"))
    np.testing.assert_array_equal(decompress(frame), MASK)


def test_header_and_images_glued_into_one_message_come_apart():
    parts = header("basic") + image(0) + image(1, appendix=b"x") + [j(htype="dseries_end-1.0", series=9)]
    start, first, second, end = decode(parts)
    assert isinstance(start, SeriesStart)
    assert isinstance(end, SeriesEnd)
    assert [first.index, second.index] == [0, 1]
    assert end.series == "9"


def test_a_mask_in_base64_is_read():
    (start,) = decode(header(mask=base64.b64encode(MASK.tobytes())))
    np.testing.assert_array_equal(start.pixel_mask, MASK)


def test_a_mask_of_another_size_is_left_out_and_said_so():
    (start,) = decode(header(mask=b"1234"))
    assert start.pixel_mask is None
    assert "pixel mask cannot be read" in start.warnings[0]
    assert start.frames_expected == 100


@pytest.mark.parametrize(
    "changed",
    [
        {"shape": [10**9, 10**9]},
        {"shape": [4, -3]},
        {"shape": [4]},
        {"shape": None},
        {"shape": [4.0, 3.0]},
        {"shape": [True, 3]},
        {"shape": "43"},
        {"type": "complex64"},
        {"type": 5},
        {"encoding": "bs32-zip<"},
        {"encoding": None},
    ],
)
def test_an_impossible_image_is_corrupt_and_keeps_its_index(changed):
    (event,) = decode(image(6, **changed))
    assert isinstance(event, Corrupt)
    assert (event.series, event.index) == ("9", 6)


@pytest.mark.parametrize("frame", [-1, "1", 1.5, None, True, 2**64, 2**200])
def test_an_impossible_index_is_corrupt(frame):
    (event,) = decode([j(htype="dimage-1.0", frame=frame, series=9), *image()[1:]])
    assert isinstance(event, Corrupt)
    assert event.series == "9"


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_an_image_that_lost_parts_is_corrupt(missing):
    (event,) = decode(image(6)[: 4 - missing] if missing > 1 else [image(6)[0], *image(6)[2:]])
    assert isinstance(event, Corrupt)
    assert event.index == 6


def test_an_unknown_message_is_corrupt():
    for parts in ([j(htype="dother-1.0")], [b"{"], [b"{}"], [b""], [], [b'{"htype": 5}'], [b"[1]"], [b"{" * 10**5]):
        (event,) = decode(parts)
        assert isinstance(event, Corrupt)
        assert event.reason


def test_a_motor_that_stands_still_is_not_rocked():
    config = CONFIG | {"omega_increment": 0.0}
    (start,) = decode([j(htype="dheader-1.0", series=9, header_detail="basic"), j(**config)])
    assert start.geometry.rocking_motor == ""
    assert start.geometry.rocking_deg == ()
    assert start.geometry.angles_deg == {"omega": 10.0, "phi": 3.0}


def test_fields_that_make_no_sense_stay_unknown():
    config = CONFIG | {"photon_energy": "high", "detector_distance": None, "x_pixel_size": -1, "omega_start": [1]}
    (start,) = decode([j(htype="dheader-1.0", series=9, header_detail="basic"), j(**config)])
    assert start.geometry.energy_kev is None
    assert start.geometry.distance_m is None
    assert start.geometry.pixel_size_m is None
    assert start.geometry.rocking_motor == ""
