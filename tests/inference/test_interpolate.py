"""Interpolation of gaps: exact where it must be, sensible where little is known, and as good as published."""

import time

import h5py
import numpy as np
import pytest
from scipy.interpolate import interp1d

from braggd.errors import ModelError
from braggd.example import example_scan
from braggd.inference.interpolate import interpolate


def exponential(shape=(12, 40, 50), slopes=(0.1, 0.07, 0.05)):
    """exp of a plane, less 1: its log(1 + counts) is linear along every axis."""
    grid = np.indices(shape, dtype=float)
    return np.expm1(2 + sum(slope * axis for slope, axis in zip(slopes, grid, strict=True)))


def gaps(shape, rows=(), columns=(), steps=()):
    valid = np.ones(shape, bool)
    for span in rows:
        valid[:, slice(*span)] = False
    for span in columns:
        valid[:, :, slice(*span)] = False
    for span in steps:
        valid[slice(*span)] = False
    return valid


@pytest.mark.parametrize(
    "where",
    [
        {"columns": [(20, 26)]},
        {"rows": [(15, 27)]},
        {"rows": [(12, 18)], "columns": [(20, 26)]},
        {"columns": [(6, 44)]},
        {"steps": [(5, 6)]},
        {"steps": [(3, 5)], "rows": [(10, 13)], "columns": [(30, 36)]},
    ],
    ids=["stripe", "wide stripe", "cross", "38 pixels", "lost frame", "all at once"],
)
def test_what_is_linear_in_log_counts_is_restored_exactly(where):
    counts = exponential()
    valid = gaps(counts.shape, **where)
    filled = interpolate(np.where(valid, counts, 1e9), valid)
    np.testing.assert_allclose(filled, counts, rtol=1e-5)


def test_scattered_dead_pixels_are_restored_exactly():
    counts = exponential()
    valid = np.ones(counts.shape, bool)
    valid[:, 20, 20] = valid[:, 8:11, 40:42] = valid[6, 30, 30] = False
    np.testing.assert_allclose(interpolate(counts, valid), counts, rtol=1e-5)


def test_a_stripe_is_filled_as_scipy_interpolates_the_logs(measured):
    valid = gaps(measured.shape, columns=[(40, 46)])
    filled = interpolate(measured, valid)
    known = np.flatnonzero(valid[0, 0])
    expected = np.expm1(interp1d(known, np.log1p(measured[..., known].astype(float)), axis=2)(np.arange(64)))
    np.testing.assert_allclose(filled, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint16, np.float64])
def test_measured_voxels_stay_as_they_were_bit_for_bit(measured, dtype):
    counts = np.minimum(measured, 60_000).astype(dtype)
    before = counts.copy()
    valid = np.random.default_rng(1).random(counts.shape) > 0.1
    filled = interpolate(counts, valid)
    assert filled.dtype == np.float32
    assert (filled[valid] == counts[valid].astype(np.float32)).all()
    np.testing.assert_array_equal(counts, before)


def test_fillings_lie_between_nothing_and_the_brightest_neighbour(measured):
    rng = np.random.default_rng(2)
    valid = gaps(measured.shape, rows=[(30, 36), (60, 64)], columns=[(0, 7), (28, 40)], steps=[(10, 12)])
    valid &= rng.random(valid.shape) > 0.01
    filled = interpolate(np.where(valid, measured, np.nan), valid)
    assert np.isfinite(filled).all()
    assert filled.min() >= 0
    assert filled[~valid].max() <= measured[valid].max()


def test_negative_counts_of_dark_corrected_data_make_no_negative_fillings():
    counts = np.random.default_rng(3).normal(0, 1, (6, 20, 20)).astype(np.float32)
    valid = gaps(counts.shape, columns=[(8, 12)])
    filled = interpolate(counts, valid)
    assert filled[~valid].min() >= 0
    assert (filled[valid] == counts[valid]).all()


def test_a_masked_border_continues_what_lies_beside_it():
    counts = np.full((4, 10, 10), 5.0)
    valid = gaps(counts.shape, rows=[(0, 3)], columns=[(8, 10)])
    np.testing.assert_allclose(interpolate(np.where(valid, counts, 0), valid), 5, rtol=1e-6)


def test_a_single_measured_voxel_is_enough():
    valid = np.zeros((3, 4, 5), bool)
    valid[1, 2, 3] = True
    np.testing.assert_allclose(interpolate(np.where(valid, 7, np.nan), valid), 7, rtol=1e-6)


def test_nothing_measured_is_refused():
    with pytest.raises(ModelError, match="no voxel"):
        interpolate(np.zeros((3, 3, 3)), np.zeros((3, 3, 3), bool))


def test_another_mask_shape_is_refused():
    with pytest.raises(ModelError, match=r"\(3, 3, 3\).*\(3, 3\)"):
        interpolate(np.zeros((3, 3, 3)), np.ones((3, 3), bool))


def test_a_cross_in_the_whole_measured_scan_is_filled_well_and_in_a_second():
    """In-gap correlation of log counts, at 8 and 32 pixels from the peak; linear interpolation gives 0.89 and 0.54."""
    with h5py.File(example_scan(), "r") as file:
        counts = file["entry/data/data"][()]
    about_peak = (slice(35, 163), slice(62, 190), slice(63, 191))
    for distance, expected in ((8, 0.89), (32, 0.53)):
        valid = gaps(counts.shape, rows=[(126 + distance, 132 + distance)], columns=[(127 + distance, 133 + distance)])
        best = np.inf
        for _ in range(3):
            began = time.process_time()
            filled = interpolate(counts, valid)
            best = min(best, time.process_time() - began)
        inside = ~valid[about_peak]
        logs = np.log1p(filled[about_peak][inside]), np.log1p(counts[about_peak][inside])
        assert np.corrcoef(*logs)[0, 1] > expected - 0.01
        assert best < 1
