import numpy as np
import pytest
from scipy import ndimage
from scipy.special import gammaln

from braggd.errors import PhasingError
from braggd.phasing import fourier
from braggd.phasing.free import free_voxels, log_likelihoods
from braggd.phasing.pattern import prepare
from braggd.phasing.recipe import parse
from braggd.phasing.solver import Schedule, Solver

BALL_3 = 123  # voxels within a distance of 3


def gapped(shape, seed=0):
    valid = np.ones(shape, bool)
    valid[:, shape[1] // 3 : shape[1] // 3 + 5] = False
    valid &= np.random.default_rng(seed).random(shape) > 0.01
    return valid


@pytest.mark.parametrize("shape", [(64, 48, 56), (33, 57, 70), (24, 24, 24)])
@pytest.mark.parametrize("fraction", [0.02, 0.05, 0.1])
def test_the_wanted_share_of_the_measured_voxels_is_withheld(shape, fraction):
    valid = gapped(shape)
    free = free_voxels(valid, fraction, 1)
    assert 0 <= free.sum() - fraction * valid.sum() < BALL_3


def test_no_masked_voxel_is_free():
    valid = gapped((48, 48, 48))
    assert not (free_voxels(valid) & ~valid).any()


def test_free_voxels_are_whole_balls_that_do_not_overlap():
    valid = np.ones((64, 64, 64), bool)
    free = free_voxels(valid, 0.1, 5)
    z, y, x = np.ogrid[-3:4, -3:4, -3:4]
    ball = z**2 + y**2 + x**2 <= 9
    centres = ndimage.binary_erosion(free, ball)
    assert free.sum() == centres.sum() * BALL_3
    np.testing.assert_array_equal(ndimage.binary_dilation(centres, ball), free)


@pytest.mark.parametrize("peak", [None, (20, 40, 31)])
def test_the_middle_of_the_peak_stays_in_the_fit(peak):
    shape = (60, 80, 72)
    z, y, x = np.ogrid[: shape[0], : shape[1], : shape[2]]
    top = peak or (30, 40, 36)
    inside = sum(((i - p) / (0.1 * n)) ** 2 for i, p, n in zip((z, y, x), top, shape, strict=True)) <= 1
    for seed in range(5):
        assert not (free_voxels(np.ones(shape, bool), 0.1, seed, centre=0.1, peak=peak) & inside).any()


def test_the_choice_is_the_seeds():
    valid = gapped((40, 40, 40))
    one = free_voxels(valid, 0.05, 3)
    np.testing.assert_array_equal(one, free_voxels(valid, 0.05, 3))
    assert (one != free_voxels(valid, 0.05, 4)).any()


def test_every_part_of_the_volume_is_as_likely_to_be_withheld():
    valid = np.ones((40, 40, 40), bool)
    hits = sum(free_voxels(valid, 0.05, seed).astype(float) for seed in range(60)) / 60
    corners = [hits[5:18, 5:18, 5:18], hits[-18:-5, 5:18, -18:-5], hits[5:18, -18:-5, 5:18]]
    assert all(abs(corner.mean() / hits[5:-5, 5:-5, 5:-5].mean() - 1) < 0.15 for corner in corners)


@pytest.mark.parametrize(
    ("valid", "fraction"),
    [
        (np.ones((32, 32, 32), bool), 0.0),
        (np.ones((32, 32, 32), bool), 0.5),
        (np.zeros((32, 32, 32), bool), 0.05),
        (np.ones((6, 32, 32), bool), 0.05),
    ],
)
def test_what_cannot_be_withheld_is_refused(valid, fraction):
    with pytest.raises(PhasingError):
        free_voxels(valid, fraction)


def test_the_likelihood_is_poissons_against_a_perfect_fit():
    random = np.random.default_rng(0)
    calculated = random.uniform(0.01, 40, (8, 9, 10)).astype(np.float32)
    counts = random.poisson(calculated * random.uniform(0.5, 2, calculated.shape)).astype(np.float32)
    valid, free = random.random(counts.shape) > 0.2, random.random(counts.shape) > 0.7

    def logarithm(expected):
        n, lam = counts.astype(float), np.maximum(expected.astype(float), 1e-300)
        return np.where(n > 0, n * np.log(lam), 0) - expected - gammaln(n + 1)

    lost = logarithm(counts) - logarithm(calculated)
    found = log_likelihoods(calculated, np.where(valid, counts, np.nan), valid, free)
    assert found == pytest.approx((lost[valid & ~free].mean(), lost[valid & free].mean()), rel=1e-5)


def test_a_perfect_fit_has_no_likelihood_to_lose():
    counts = np.random.default_rng(1).poisson(10.0 ** np.linspace(-3, 7, 1000)).astype(np.float32).reshape(10, 10, 10)
    valid = np.ones(counts.shape, bool)
    assert log_likelihoods(counts, counts, valid, valid & (counts % 2 == 0)) == pytest.approx((0, 0), abs=1e-5)


def test_no_count_costs_what_was_expected_and_a_count_from_nothing_stays_finite():
    valid = np.ones((8, 8, 8), bool)
    free = np.zeros_like(valid)
    free[0] = True
    nothing, some = np.zeros(valid.shape, np.float32), np.full(valid.shape, 3, np.float32)
    assert log_likelihoods(some, nothing, valid, free) == pytest.approx((3, 3))
    assert 30 < log_likelihoods(nothing, some, valid, free)[1] < 60
    assert np.isnan(log_likelihoods(some, some, valid, nothing > 0)[1])


def test_the_truth_is_likelier_than_anything_near_it(crystals):
    density, _ = crystals.faceted(32, radius=6.0)
    counts = crystals.noisy_counts(density, 1e4)
    true = np.abs(crystals.wave_of(density)) ** 2
    true *= 1e4 / true.max()
    valid = np.ones(counts.shape, bool)
    free = free_voxels(valid)
    best = log_likelihoods(true.astype(np.float32), counts, valid, free)
    random = np.random.default_rng(2)
    for spread in (0.05, 0.2, 0.5):
        wrong = true * np.exp(spread * random.standard_normal(true.shape))
        found = log_likelihoods(wrong.astype(np.float32), counts, valid, free)
        assert found[0] > best[0]
        assert found[1] > best[1]
    bright = true > 30
    assert log_likelihoods(true.astype(np.float32), counts, bright, ~valid)[0] == pytest.approx(0.5, abs=0.1)


def test_the_free_likelihood_tells_a_support_that_is_too_large(crystals):
    density, support = crystals.faceted(32, radius=6.0, phase=1.5)
    counts = crystals.noisy_counts(density, 3e3)
    valid = np.ones(counts.shape, bool)
    free = free_voxels(valid, 0.05, 0)
    pattern = prepare(np.sqrt(counts), valid & ~free, None)
    scale = np.sqrt(counts.sum() / np.sum(np.abs(crystals.wave_of(density)) ** 2))
    fitted, withheld = [], []
    for grown in (0, 2, 6):
        inside = ndimage.binary_dilation(support, iterations=grown) if grown else support
        start = fourier.corner((density * scale).astype(np.complex64))
        solver = Solver(pattern.target, start, fourier.corner(inside), None)
        solver.run(parse("60*ER"), Schedule(support_every=0), lambda _: None)
        calculated = np.abs(crystals.wave_of(fourier.centre(solver.density * solver.support))) ** 2
        llk, free_llk = log_likelihoods(calculated.astype(np.float32), counts, valid, free)
        fitted.append(llk)
        withheld.append(free_llk)
    assert fitted[0] > fitted[1] > fitted[2]
    assert withheld[0] < withheld[1] < withheld[2]
    assert withheld[2] > 1.2 * withheld[0]
