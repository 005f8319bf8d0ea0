"""What of a scan is phased."""

import numpy as np
import pytest

from braggd.errors import RegionError
from braggd.scan.region import selected


def scan(shape=(40, 50, 60), peak=(20, 14, 40)):
    z, y, x = np.ogrid[tuple(slice(n) for n in shape)]
    square = (z - peak[0]) ** 2 + (y - peak[1]) ** 2 + (x - peak[2]) ** 2
    return np.random.default_rng(0).poisson(1e4 * np.exp(-square / 18)).astype(np.float32)


def test_the_part_about_the_peak_is_cut_out_and_its_hot_voxels_masked():
    counts = scan()
    counts[:, 5, 50] = 5000  # a pixel that counts by itself
    valid = np.ones(counts.shape, bool)
    valid[:, :, 30] = False
    part = selected(counts, valid, (32, 32, 32))
    box = tuple(slice(*edge) for edge in part.region)
    assert part.counts.shape == part.valid.shape == (32, 32, 32)
    assert part.counts.flags.c_contiguous
    np.testing.assert_array_equal(part.counts, counts[box])
    assert [start <= at < stop for (start, stop), at in zip(part.region, (20, 14, 40), strict=True)] == [True] * 3
    hot = np.zeros(counts.shape, bool)
    hot[:, 5, 50] = True
    assert part.hot == 1
    np.testing.assert_array_equal(part.valid, (valid & ~hot)[box])


def test_a_scan_without_a_photon_is_refused():
    with pytest.raises(RegionError, match="no photon"):
        selected(np.zeros((16, 16, 16), np.float32), np.ones((16, 16, 16), bool), (16, 16, 16))
