import numpy as np

from braggd.phasing import fourier
from braggd.phasing.pattern import prepare


def test_only_where_the_pattern_is_faint_are_gaps_held():
    amplitude, valid = np.ones((32, 32, 32), np.float32), np.ones((32, 32, 32), bool)
    amplitude[14:18, 14:18, 14:18] = 100
    valid[:, 15:17] = valid[:, 27:29] = False
    withheld = np.zeros_like(valid)
    withheld[:, 22] = True
    faint = np.zeros(valid.size, bool)
    pattern = prepare(amplitude, valid, amplitude, withheld)
    faint[pattern.faint_gaps()] = True
    held = fourier.centre(faint.reshape(valid.shape))
    assert held[:, 27:29].all()
    assert not held[valid].any()
    assert not held[14:18, 15:17, 14:18].any()


def test_a_guess_is_kept_where_it_is_bright_and_tempered_by_the_average_where_it_is_faint():
    amplitude, valid = np.ones((32, 64, 32), np.float32), np.ones((32, 64, 32), bool)
    amplitude[14:18, 30:34, 14:18] = 100
    valid[:, 31:33] = valid[:, 40:60] = False
    guess = np.full_like(amplitude, 2.5)
    guess[14:18, 31:33, 14:18] = 70
    filled = fourier.centre(prepare(amplitude, valid, guess).filled)
    np.testing.assert_array_equal(filled[valid], amplitude[valid])
    np.testing.assert_array_equal(filled[15:17, 31:33, 15:17], 70)
    beside, amid = filled[2, 40, 2], filled[2, 50, 2]
    assert 1 < amid < beside < 2.5  # the average of what was measured is 1
    none = fourier.centre(prepare(amplitude, valid, np.zeros_like(amplitude)).filled)
    np.testing.assert_array_equal(none[2, 40:60], 0)


def test_a_guess_is_kept_where_nothing_was_measured_far_and_wide():
    amplitude, valid = np.ones((16, 160, 16), np.float32), np.ones((16, 160, 16), bool)
    amplitude[8, 10, 8] = 100
    valid[:, 20:] = False
    guess = np.full_like(amplitude, 0.5)
    filled = fourier.centre(prepare(amplitude, valid, guess).filled)
    np.testing.assert_array_equal(filled[:, 130:], 0.5)
