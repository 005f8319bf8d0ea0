"""Which slabs a mask falls into, against gaps that are put in by hand."""

import numpy as np

from braggd.inference.slabs import CHANNELS, CONTEXT, WIDEST, inverted, lines_across, slabs_of


def spans(measured, least=1):
    slabs, _ = slabs_of(~measured, least)
    return sorted((slab.axis, slab.start, slab.stop, int(slab.lines.sum())) for slab in slabs)


def test_a_stripe_is_one_slab_along_its_normal():
    for axis in range(3):
        measured = np.ones((20, 24, 28), bool)
        np.moveaxis(measured, axis, 0)[7:11] = False
        assert spans(measured) == [(axis, 7, 11, measured.size // measured.shape[axis])]


def test_a_cross_is_two_slabs_about_a_crossing_that_is_two_slabs_itself():
    measured = np.ones((50, 54, 58), bool)
    measured[:, 5:9] = measured[:, :, 10:14] = False
    assert spans(measured) == [(1, 5, 9, 50 * 54), (2, 10, 14, 50 * 50)]
    _, buried = slabs_of(~measured, 1)
    expected = np.zeros(measured.shape, bool)
    expected[:, 5:9, 10:14] = True
    np.testing.assert_array_equal(buried, expected)
    assert spans(~buried) == [(1, 5, 9, 50 * 4), (2, 10, 14, 50 * 4)]


def test_small_wide_and_open_gaps_are_in_no_slab():
    measured = np.ones((20, 24, 100), bool)
    measured[:, 3, 3] = measured[:, 22:] = measured[:, :, 40 : 41 + WIDEST] = False
    assert spans(measured, least=30) == []


def test_lines_are_ordered_away_from_the_gap_and_marked():
    logs = np.arange(60, dtype=np.float32)[:, None, None] * np.ones((1, 3, 4), np.float32)
    measured = np.ones(logs.shape, bool)
    measured[20:26] = measured[30] = False
    lines = lines_across(logs, measured, 20, 26)
    assert lines.shape == (CHANNELS, 3, 4)
    level = (19 + 18 + 26 + 27) / 4
    assert (lines[-1] == level).all()
    np.testing.assert_array_equal(lines[:CONTEXT, 1, 1], np.arange(19, 3, -1) - level)
    np.testing.assert_array_equal(lines[CONTEXT : 2 * CONTEXT, 1, 1], np.arange(26, 42) - level)
    flags = lines[2 * CONTEXT : 4 * CONTEXT, 2, 3]
    assert np.flatnonzero(flags == 0).tolist() == [CONTEXT + 4]


def test_inverted_lines_are_those_of_the_inverted_volume():
    rng = np.random.default_rng(0)
    logs, measured = rng.random((40, 5, 6)).astype(np.float32), rng.random((40, 5, 6)) < 0.8
    turned = lines_across(logs[::-1, ::-1, ::-1], measured[::-1, ::-1, ::-1], 40 - 14, 40 - 9)
    np.testing.assert_allclose(inverted(lines_across(logs, measured, 9, 14)), turned, atol=1e-6)


def test_beyond_the_volume_nothing_counts_as_measured():
    logs = np.ones((12, 2, 2), np.float32)
    lines = lines_across(logs, np.ones(logs.shape, bool), 4, 6)
    assert lines[2 * CONTEXT : 4 * CONTEXT, 0, 0].tolist() == [1] * 4 + [0] * 12 + [1] * 6 + [0] * 10
