"""Hot pixels and zingers, put into the measured scan: all found, and nothing of a peak or speckle flagged."""

import h5py
import numpy as np
import pytest

from braggd.example import example_scan
from braggd.scan.hot import hot_pixels, outliers


@pytest.fixture(scope="module")
def measured():
    """Every fourth frame of the measured scan, (51, 256, 256) int32; the peak is at (99 // 4, 126, 127)."""
    with h5py.File(example_scan(), "r") as file:
        return file["entry/data/data"][::4]


def all_valid(counts):
    return np.ones(counts.shape, bool)


def pattern(photons, kind, size=64, crystal=(9, 16, 32)):
    """Diffraction of a box, oversampled exactly twice along the columns; of one strain, or with random phases."""
    density = np.zeros((size, size, size), complex)
    phase = np.random.default_rng(5).uniform(0, 6.283, crystal) if kind == "random phases" else np.zeros(crystal)
    density[tuple(slice(edge) for edge in crystal)] = np.exp(1j * phase)
    intensity = np.abs(np.fft.fftshift(np.fft.fftn(density))) ** 2
    return intensity * (photons / intensity.max())


@pytest.mark.parametrize("strength", ["strong", "weak", "very weak"])
def test_no_pixel_or_voxel_of_a_clean_scan_is_flagged(measured, strength):
    share = {"strong": 1, "weak": 1e-2, "very weak": 1e-4}[strength]
    counts = np.random.default_rng(1).binomial(measured, share)
    assert hot_pixels(counts, all_valid(counts)).sum() == 0
    assert outliers(counts, all_valid(counts)).sum() == 0


@pytest.mark.parametrize("photons", [10, 1e3, 1e6])
@pytest.mark.parametrize("crystal", [(9, 16, 32), (21, 21, 21), (8, 32, 32), (32, 32, 32)])
@pytest.mark.parametrize("kind", ["one strain", "random phases"])
def test_speckles_oversampled_twice_are_not_flagged(photons, crystal, kind):
    expected = pattern(photons, kind, crystal=crystal)
    for counts in (expected, np.random.default_rng(2).poisson(expected)):
        assert hot_pixels(counts, all_valid(counts)).sum() == 0
        assert outliers(counts, all_valid(counts)).sum() == 0


@pytest.mark.parametrize("share", [1, 1e-3])
def test_every_hot_pixel_put_into_the_measured_scan_is_found_and_no_other(measured, share):
    rng = np.random.default_rng(3)
    counts = rng.binomial(measured, share).astype(np.int64)
    peak = (126, 127)
    places = [tuple(place) for place in rng.integers(0, 256, (40, 2)) if np.hypot(*(place - peak)) > 40]
    brightest = int(counts.sum(axis=0).max())
    for number, place in enumerate(places):
        steady = 20 + rng.poisson(20, len(counts))
        flicker = np.where(rng.random(len(counts)) < 0.2, 2000, 0)
        counts[(slice(None), *place)] += (steady, flicker, np.full(len(counts), brightest), 2**32 - 1)[number % 4]
    found = hot_pixels(counts, all_valid(counts))
    assert all(found[place] for place in places)
    assert found.sum() == len(places)


def test_a_stuck_pixel_beside_the_peak_is_found_and_the_peak_kept(measured):
    counts = measured.astype(np.int64)
    counts[:, 130, 120] = 2**20
    found = hot_pixels(counts, all_valid(counts))
    assert found[130, 120]
    assert found.sum() == 1


def test_small_clusters_of_hot_pixels_are_found_whole(measured):
    counts = measured.copy()
    clusters = [[(20, 200), (20, 201)], [(60, 30), (61, 30), (61, 31)], [(0, 0), (0, 1)], [(255, 100)]]
    places = {place for cluster in clusters for place in cluster}
    for row, column in places:
        counts[:, row, column] += 5000
    found = hot_pixels(counts, all_valid(counts))
    assert {tuple(place) for place in np.argwhere(found).tolist()} == places


def test_a_dead_pixel_in_the_peak_is_found_and_dark_ones_far_from_it_are_not(measured):
    counts = measured.copy()
    counts[:, 124, 129] = 0
    found = hot_pixels(counts, all_valid(counts))
    assert found[124, 129]
    assert found.sum() == 1


def test_what_lies_under_the_mask_neither_is_flagged_nor_hides_its_neighbours(measured):
    counts = measured.astype(np.float32)
    valid = all_valid(counts)
    valid[:, 100:106] = valid[7] = False
    counts[~valid] = 2.0**32
    counts[7, 3, 3] = np.nan
    counts[:, 99, 50] += 500
    counts[:, 106, 60] += 500
    found = hot_pixels(counts, valid)
    assert sorted(map(tuple, np.argwhere(found).tolist())) == [(99, 50), (106, 60)]
    assert not outliers(counts, valid)[~valid].any()


def test_every_zinger_is_found_also_when_it_covers_two_voxels(measured):
    rng = np.random.default_rng(4)
    counts = measured.copy()
    places = {tuple(map(int, place)) for place in rng.integers((0, 0, 0), (51, 90, 90), (60, 3))}
    places |= {(10, 200, 200), (10, 200, 201), (0, 0, 0), (50, 255, 255)}
    for place in places:
        counts[place] += rng.integers(500, 100_000)
    found = outliers(counts, all_valid(counts))
    assert {tuple(place) for place in np.argwhere(found).tolist()} == places


@pytest.mark.parametrize("shape", [(0, 5, 5), (1, 5, 5), (3, 1, 1)])
def test_tiny_scans_are_answered(shape):
    counts = np.zeros(shape, np.uint16)
    assert hot_pixels(counts, all_valid(counts)).shape == shape[1:]
    assert outliers(counts, all_valid(counts)).shape == shape


def test_a_pixel_that_never_was_valid_is_not_called_hot(measured):
    valid = all_valid(measured)
    valid[:, 10:20, 10:20] = False
    assert not hot_pixels(measured, valid).any()
