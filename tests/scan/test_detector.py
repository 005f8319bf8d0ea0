"""Detectors: their gaps against the published table, their names, their shapes, extra masks."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from braggd.errors import DetectorError
from braggd.scan.detector import detector, from_shape, load_mask

# Detector, (rows, columns), blind rows, blind columns, saturation, pixel; half-open and 0-based.
GAPS = [
    ("MAXIPIX 2x2", (516, 516), [(255, 261)], [(255, 261)], 1e6, 55e-6),
    ("EIGER2 1M", (1062, 1028), [(512, 550)], [], 1e7, 75e-6),
    ("EIGER2 4M", (2162, 2068), [(512, 550), (1062, 1100), (1612, 1650)], [(1028, 1040)], 1e7, 75e-6),
    (
        "ESRF ID01 EIGER 2M",
        (2164, 1030),
        [(255, 259), (511, 552), (804, 809), (1061, 1102), (1355, 1359), (1611, 1652), (1905, 1909)],
        [(255, 259), (513, 517), (771, 775)],
        1e7,
        75e-6,
    ),
    ("Merlin", (515, 515), [(255, 260)], [(255, 260)], None, 55e-6),
]


@pytest.mark.parametrize(("name", "shape", "rows", "columns", "saturation", "pixel"), GAPS, ids=[g[0] for g in GAPS])
def test_a_detector_is_blind_in_its_gaps_and_nowhere_else(name, shape, rows, columns, saturation, pixel):
    found = detector(name)
    expected = np.zeros(shape, bool)
    for start, stop in rows:
        expected[start:stop] = True
    for start, stop in columns:
        expected[:, start:stop] = True
    if "ID01" in name:
        expected[0:257, 72:80] = expected[1649:1910, 620:628] = True
        expected[1248:1290, 478] = expected[1214:1298, 481] = True
    assert found.shape == shape
    assert found.mask.dtype == np.bool_
    np.testing.assert_array_equal(found.mask, expected)
    assert found.saturation == saturation
    assert found.pixel_size_m == pytest.approx((pixel, pixel))


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("eiger2-1m", "EIGER2 1M"),
        ("Eiger2 1M", "EIGER2 1M"),
        ("EIGER2_1M", "EIGER2 1M"),
        ("eiger21m", "EIGER2 1M"),
        ("Dectris EIGER2 Si 1M", "EIGER2 1M"),
        ("DECTRIS EIGER2 XE 16M", "EIGER2 16M"),
        ("maxipix-2x2", "MAXIPIX 2x2"),
        ("Maxipix2x2", "MAXIPIX 2x2"),
        ("id01-eiger2m", "ESRF ID01 EIGER 2M"),
        ("Eiger 2M", "ESRF ID01 EIGER 2M"),
        ("merlin 515x515", "Merlin"),
    ],
)
def test_any_spelling_of_a_name_means_the_same_detector(spelling, name):
    assert detector(spelling) is detector(name)


def test_cdte_models_keep_their_additional_blind_columns():
    blind = detector("DECTRIS EIGER2 CdTe 1M").mask
    assert blind[:, 513:515].all()
    assert not detector("EIGER2 1M").mask[:512].any()


@pytest.mark.parametrize(("wrong", "meant"), [("eigr2 1m", "Eiger2 1M"), ("maxpix2x2", "MAXIPIX 2x2")])
def test_an_unknown_name_is_answered_with_the_names_near_it(wrong, meant):
    with pytest.raises(DetectorError, match=meant):
        detector(wrong)


@pytest.mark.parametrize("name", ["", "  ", "qwxyz", "detector"])
def test_a_name_that_is_like_no_other_is_refused_in_one_sentence(name):
    with pytest.raises(DetectorError) as caught:
        detector(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("shape", "name"),
    [
        ((1062, 1028), "EIGER2 1M"),
        ((2162, 2068), "EIGER2 4M"),
        ((4362, 4148), "EIGER2 16M"),
        ((516, 516), "MAXIPIX 2x2"),
        ((515, 515), "Merlin"),
        ((2164, 1030), "ESRF ID01 EIGER 2M"),
        ((1065, 1030), "EIGER 1M"),
    ],
)
def test_a_frame_tells_its_detector_by_its_shape(shape, name):
    assert from_shape(shape) is detector(name)


@pytest.mark.parametrize("shape", [(256, 256), (512, 512), (300, 200), (1028, 1062)])
def test_a_shape_that_may_be_a_cut_out_tells_nothing(shape):
    assert from_shape(shape) is None


def test_a_mask_is_not_changed_by_whoever_uses_it():
    with pytest.raises(ValueError, match="read-only"):
        detector("EIGER2 1M").mask[0, 0] = True


def test_pyfai_keeps_silent_even_where_warnings_are_errors():
    code = "import logging; logging.basicConfig(level='INFO')\nfrom braggd.scan.detector import detector\n"
    code += "detector('EIGER2 4M'); detector('lambda 9m')\ntry: detector('nonsense')\nexcept Exception: pass"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture
def bad_pixels():
    mask = np.zeros((5, 7), np.uint8)
    mask[1, 2] = 1
    mask[4, 6] = 255
    return mask


def write_npy(path: Path, mask):
    np.save(path / "m.npy", mask)
    return f"{path}/m.npy"


def write_npz(path: Path, mask):
    np.savez(path / "m.npz", flat=np.ones(3), mask=mask)
    return f"{path}/m.npz"


def write_hdf5(path: Path, mask):
    with h5py.File(path / "m.h5", "w") as file:
        file["entry/mask"] = mask
    return f"{path}/m.h5::/entry/mask"


@pytest.mark.parametrize("write", [write_npy, write_npz, write_hdf5])
def test_a_mask_comes_back_as_it_was_written(write, tmp_path, bad_pixels):
    np.testing.assert_array_equal(load_mask(write(tmp_path, bad_pixels), (5, 7)), bad_pixels != 0)


def test_a_mask_of_another_shape_is_refused_with_both_shapes(tmp_path, bad_pixels):
    with pytest.raises(DetectorError, match=r"\(5, 7\).*\(7, 5\)"):
        load_mask(write_npy(tmp_path, bad_pixels), (7, 5))


def test_an_unreadable_mask_is_refused_in_one_sentence_with_its_name(tmp_path, bad_pixels):
    (tmp_path / "text.npy").write_text("not an array")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04 and then nothing")
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n and then nothing")
    hdf5 = write_hdf5(tmp_path, bad_pixels).partition("::")[0]
    np.savez(tmp_path / "two.npz", one=bad_pixels, two=bad_pixels)
    specs = ["text.npy", "cut.npz", "cut.h5::x", "no-such.npy", "two.npz", ""]
    for spec in [f"{tmp_path}/{name}" for name in specs] + [hdf5, hdf5 + "::/wrong", hdf5 + "::/entry"]:
        with pytest.raises(DetectorError) as caught:
            load_mask(spec, (5, 7))
        assert spec.partition("::")[0] in str(caught.value)
        assert "\n" not in str(caught.value)
