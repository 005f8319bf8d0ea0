"""Smoothing only where a volume is bright."""

import numpy as np

from braggd.bright import bright_piece, gaussian, smoothed


def test_smoothing_where_it_is_bright_is_smoothing_all():
    rng = np.random.default_rng(0)
    for _ in range(20):
        volume = 0.01 * rng.random((20, 24, 18)).astype(np.float32)
        for _ in range(2):
            z, y, x = (int(rng.integers(n)) for n in volume.shape)
            volume[z : z + 4, y : y + 4, x : x + 4] += rng.random()
        smoother, reach = gaussian(rng.uniform(0.4, 1.2, 3))
        box, made = smoothed(volume, smoother, 0.1, reach)
        whole = smoother(volume)
        bright, mine = whole > 0.1 * whole.max(), np.zeros(volume.shape, bool)
        mine[box] = made > 0.1 * made.max()
        np.testing.assert_array_equal(mine, bright)
        np.testing.assert_allclose(made[bright[box]], whole[bright], rtol=1e-5)


def test_the_largest_bright_piece_is_found_and_no_other():
    volume = np.zeros((20, 24, 28), np.float32)
    volume[3:9, 4:10, 5:12] = 1
    volume[14:17, 15:19, 20:24] = 1.2
    volume[12, 3, 3] = 0.05
    piece = bright_piece(volume, (0.5, 0.5, 0.5), 0.3)
    np.testing.assert_array_equal(piece[14:17, 15:19, 20:24], False)
    assert piece[3:9, 4:10, 5:12].all()
    assert not piece[12, 3, 3]
