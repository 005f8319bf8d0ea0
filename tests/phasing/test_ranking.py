import numpy as np

from braggd.phasing import fourier
from braggd.phasing.align import twin_of
from braggd.phasing.ranking import Quality, choose, compare, judge, simplest
from tests.phasing.bodies import ball


def judged(llk, support, free_llk=float("nan")):
    return judge(llk, 0.1, support.astype(np.complex64), support, free_llk)


def test_the_free_voxels_rank_the_runs_and_tell_which_fell_behind():
    whole = ball((24, 24, 24), 5, (12, 12, 12))
    fits_noise, honest, far = judged(0.3, whole, 0.8), judged(0.4, whole, 0.6), judged(0.5, whole, 3.0)
    assert choose([fits_noise, honest, far]) == 1
    assert [run.fault for run in compare([fits_noise, honest, far])] == ["", "", "fell behind"]


def test_an_uneven_object_loses_to_an_even_one_that_fits_a_little_worse():
    support = ball((24, 24, 24), 8, (12, 12, 12))
    even = support.astype(np.complex64)
    bright = np.where(ball((24, 24, 24), 4, (12, 12, 12)), 1.0, 0.55) * support
    uneven = (bright * np.random.default_rng(0).uniform(0.5, 1.5, support.shape)).astype(np.complex64)
    fits, honest, far = (
        judge(0.5, 0.1, uneven, support),
        judge(0.7, 0.1, even, support),
        judge(800.0, 0.1, even, support),
    )
    assert honest.unevenness < 0.01 < 0.3 < fits.unevenness
    assert choose([fits, honest]) == 1
    assert choose([fits, far]) == 0


def test_a_run_that_is_both_twins_at_once_is_rejected_beside_one_that_is_not(crystals):
    density, _ = crystals.faceted(32, radius=7.0, phase=4.0, seed=1)
    twins = density + twin_of(density)
    good, mixed = (
        judge(llk, 0.1, fourier.corner(d.astype(np.complex64)), fourier.corner(abs(d) > 0.1))
        for llk, d in ((0.5, density), (5.0, twins))
    )
    assert mixed.twin_overlap > 0.95
    assert good.twin_overlap < 0.8
    assert [run.fault for run in compare([mixed, good])] == ["mixes both twins", ""]
    assert not compare([judge(0.5, 0.1, twins, abs(twins) > 0.1)])[0].fault  # a symmetric crystal is no fault


def test_runs_that_are_no_single_crystal_lose_to_one_that_is():
    shape = (24, 24, 24)
    whole, halves = ball(shape, 5, (12, 12, 12)), ball(shape, 4, (6, 12, 12)) | ball(shape, 4, (17, 12, 12))
    good = judged(1.0, whole)
    faults = {
        "fell into pieces": judged(0.5, halves),
        "collapsed": judged(0.5, ball(shape, 1, (3, 3, 3))),
        "fills the volume": judged(0.5, np.arange(24**3).reshape(shape) < 0.3 * 24**3),
        "diverged": judged(float("nan"), whole),
    }
    assert not good.fault
    assert {name: quality.fault for name, quality in faults.items()} == {name: name for name in faults}
    better = judged(0.9, whole)
    assert choose([*faults.values(), good, better]) == 5
    assert isinstance(good, Quality)


def test_of_supports_that_explain_about_as_much_the_tightest_is_taken():
    whole = ball((24, 24, 24), 5, (12, 12, 12))
    loose, tight, cut_off = judged(0.30, whole, 0.50), judged(0.35, whole, 0.59), judged(0.5, whole, 0.8)
    assert choose([loose, tight, cut_off]) == 0
    assert simplest([loose, tight, cut_off], [0.8, 1.0, 1.8]) == 1
    assert simplest([loose, judged(0.31, whole, 0.61), cut_off], [0.8, 1.0, 1.8]) == 0
    diverged = judged(float("nan"), whole, 0.5)
    assert simplest([diverged, loose], [1.8, 1.0]) == 1
    assert simplest([diverged], [1.0]) == 0
