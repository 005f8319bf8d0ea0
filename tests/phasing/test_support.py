import numpy as np
import pytest
from scipy import ndimage

from braggd.phasing import fourier
from braggd.phasing.support import (
    LARGEST_SHARE,
    components,
    dense,
    fill_smoothly,
    first_support,
    free_bound,
    local_level,
    middle,
    shrink_wrap,
    solid,
    specks,
)
from tests.phasing.bodies import ball


def test_the_first_support_covers_the_object_wherever_the_mask_is(crystals):
    density, support = crystals.faceted(48, radius=7.0, phase=2.0)
    amplitude = np.abs(crystals.wave_of(density)).astype(np.float32)
    valid = np.ones(amplitude.shape, bool)
    whole = first_support(fourier.corner(amplitude))[0]
    valid[:, :, 28:32] = False
    amplitude[~valid] = np.nan
    masked = first_support(fourier.corner(fill_smoothly(amplitude, valid)))[0]
    for found in (whole, masked):
        centred = fourier.centre(found)
        assert centred[support].mean() > 0.99
        assert found.mean() < LARGEST_SHARE
    assert np.mean(whole != masked) < 0.01


def test_filling_leaves_measured_voxels_and_stays_between_its_neighbours():
    random = np.random.default_rng(0)
    amplitude = (5 + random.random((16, 16, 16))).astype(np.float32)
    valid = np.ones(amplitude.shape, bool)
    valid[:, 4:6] = False
    dirty = np.where(valid, amplitude, np.nan).astype(np.float32)
    filled = fill_smoothly(dirty, valid)
    np.testing.assert_array_equal(filled[valid], amplitude[valid])
    assert np.all((filled[~valid] >= 5) & (filled[~valid] <= 6))


def test_a_wide_gap_is_filled_to_its_middle():
    amplitude, valid = np.full((8, 64, 8), 5, np.float32), np.ones((8, 64, 8), bool)
    valid[:, 16:48] = False
    np.testing.assert_allclose(fill_smoothly(np.where(valid, amplitude, np.nan), valid), 5, rtol=1e-3)


def test_a_free_voxel_may_be_brighter_where_it_is_bright_and_stays_dark_where_it_is_dark():
    amplitude, valid = np.full((32, 32, 32), 5, np.float32), np.ones((32, 32, 32), bool)
    amplitude[14:18, 14:18, 14:18] = 100
    valid[:, 15:17] = valid[:, 4:6] = False
    bound = free_bound(amplitude, local_level(amplitude), valid)
    assert np.all(bound[16, 16, 14:18] > 300)
    assert np.all((bound[:, 4] >= 3 * 5) & (bound[:, 4] <= 3 * 5 * 1.5))
    assert np.all(free_bound(np.zeros_like(amplitude), np.zeros_like(amplitude), valid) > 0)
    valid[:, 18:] = False
    bound = free_bound(amplitude, local_level(amplitude), valid)
    assert np.all(bound[:, 26:] >= 300)  # nothing near tells how bright it may be


def test_the_autocorrelation_tells_how_many_voxels_a_crystal_fills_however_strained(crystals):
    for phase in (0.0, 3.0, 9.0):
        density, support = crystals.faceted(48, radius=8.0, phase=phase, seed=3)
        counts = crystals.noisy_counts(density, 1e5)
        first, voxels = first_support(fourier.corner(np.sqrt(counts)))
        assert 0.75 * support.sum() < voxels < 1.3 * support.sum()
        assert fourier.centre(first)[support].mean() > 0.95


@pytest.mark.parametrize("relative", ["rms", "max"])
def test_shrink_wrap_finds_the_object_grows_and_shrinks_to_it(relative):
    shape, at = (32, 32, 32), (1, 30, 0)
    truth = ball(shape, 6, at)
    modulus = truth.astype(np.float32)
    for before in (ball(shape, 4, at), ball(shape, 9, at)):
        found = before
        for _ in range(3):
            found = shrink_wrap(modulus.copy(), (0.8,) * 3, 0.35, found, relative=relative)
        assert np.mean(found != truth) < 0.01


def test_a_few_bright_voxels_do_not_shrink_the_support():
    shape = (24, 24, 24)
    truth = ball(shape, 6, (12, 12, 12))
    modulus = truth.astype(np.float32)
    modulus[12, 12, 11:13] = 20
    assert shrink_wrap(modulus.copy(), (0.5,) * 3, 0.3, truth)[truth].mean() > 0.99
    assert shrink_wrap(modulus.copy(), (0.5,) * 3, 0.3, truth, relative="max").sum() < 0.1 * truth.sum()


def test_a_support_that_is_too_large_does_not_let_itself_grow():
    shape, at = (24, 24, 24), (12, 12, 12)
    truth, large = ball(shape, 5, at), ball(shape, 10, at)
    modulus = np.where(truth, 1, 0.12 * ball(shape, 11, at)).astype(np.float32)
    assert np.sqrt(np.mean(modulus[large] ** 2)) * 0.3 < 0.12  # what a plain root mean square would come to
    found = shrink_wrap(modulus.copy(), (0.3,) * 3, 0.3, large)
    np.testing.assert_array_equal(found, truth)


def test_the_solid_part_leaves_out_the_border_and_what_is_empty():
    shape, at = (24, 24, 24), (12, 12, 12)
    truth = ball(shape, 6, at)
    places, level = solid(2 * truth.astype(np.float32), ball(shape, 9, at))
    found = np.zeros(shape, bool)
    found.reshape(-1)[places] = True
    assert found[ball(shape, 4, at)].all()
    assert not found[~ball(shape, 7, at)].any()
    assert level == pytest.approx(2, rel=0.1)
    assert solid(np.zeros(shape, np.float32), truth)[1] == 0


def test_specks_are_small_pieces_apart_from_the_crystal():
    shape = (24, 24, 24)
    modulus = np.where(ball(shape, 7, (1, 12, 12)), 1, 0).astype(np.float32)  # across the volume's edge
    modulus[12, 12, 12] = 0.25
    modulus[12, 12, 13] = 0.15
    found = specks(modulus)
    assert found[12, 12, 12]
    assert found.sum() == 2
    assert not specks(ball(shape, 7, (12, 12, 12)).astype(np.float32)).any()


def test_the_dense_part_leaves_out_a_faint_shell_and_keeps_its_holes():
    shape, at = (24, 24, 24), (12, 12, 12)
    support, crystal = ball(shape, 9, at), ball(shape, 6, at)
    density = np.where(crystal, 2 + 1j, 0.1 * support).astype(np.complex64)
    density[12, 12, 12] = 0  # a dislocation's core
    np.testing.assert_array_equal(dense(density, support), crystal)
    np.testing.assert_array_equal(dense(np.zeros(shape, np.complex64), support), support)


def test_shrink_wrap_neither_vanishes_nor_fills_the_volume():
    shape = (24, 24, 24)
    before = ball(shape, 6, (12, 12, 12))
    np.testing.assert_array_equal(shrink_wrap(np.zeros(shape, np.float32), (0.5,) * 3, 0.2, before), before)
    flat = np.random.default_rng(0).random(shape).astype(np.float32) + 10
    assert shrink_wrap(flat.copy(), (0.5,) * 3, 0.2, before).mean() <= LARGEST_SHARE
    assert shrink_wrap(flat.copy(), (0.5,) * 3, 0.2, before, most=500).sum() <= 500


def test_only_the_border_of_the_support_changes_where_that_is_asked_for():
    shape = (24, 24, 24)
    before, wanted = ball(shape, 6, (12, 12, 12)), ball(shape, 9, (12, 12, 12))
    modulus = wanted.astype(np.float32)
    modulus[12, 12, 12] = 0  # inside, and far from the border
    found = shrink_wrap(modulus, (0.1,) * 3, 0.3, before, border=1)
    assert found[12, 12, 12]
    assert found[before].all()
    faces = ndimage.binary_dilation(before)
    np.testing.assert_array_equal(found, faces & wanted)


def test_pieces_are_counted_across_the_edges_of_the_periodic_volume():
    shape = (24, 24, 24)
    one = ball(shape, 5, (0, 0, 23))
    number, largest = components(one)
    assert number == 1
    np.testing.assert_array_equal(largest, one)
    two = one | ball(shape, 2, (10, 2, 20))
    number, largest = components(two)
    assert number == 2
    np.testing.assert_array_equal(largest, one)
    np.testing.assert_allclose(
        np.exp(2j * np.pi * np.array(middle(one)) / 24), np.exp(2j * np.pi * np.array([0, 0, 23]) / 24)
    )
