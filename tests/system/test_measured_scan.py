# Slow: four retrievals of the shipped scan.
import msgspec
import numpy as np
import pytest

from braggd.config import PhasingConfig
from braggd.phasing.align import align
from braggd.phasing.retrieve import retrieve

PEAK = (99, 126, 127)
HALF = 48  # of the edge: three quarters of the shipped resolution, at less than half the time
NARROW, WIDE = slice(HALF + 12, HALF + 18), slice(HALF + 12, HALF + 24)  # 12 pixels beside the peak: MAXIPIX crosses


@pytest.fixture(scope="module")
def crop(measured_counts):
    return measured_counts[tuple(slice(p - HALF, p + HALF) for p in PEAK)].astype(np.float32)


def phased(counts, seed, starts, gap=None):
    """With the voxels of a cross left free, what they hide unknown."""
    valid = np.ones(counts.shape, bool)
    if gap is not None:
        valid[:, gap] = valid[:, :, gap] = False
    config = msgspec.structs.replace(PhasingConfig(), seed=seed, starts=starts)
    return retrieve(np.sqrt(np.where(valid, counts, 0)), valid, config), ~valid


@pytest.mark.timeout(1800)
def test_the_measured_scan_gives_one_compact_crystal_whatever_the_seed_and_the_gap(crop):
    (one, _), (other, _) = phased(crop, 1, 3), phased(crop, 2, 3)
    (narrow, in_narrow), (wide, in_wide) = phased(crop, 1, 3, NARROW), phased(crop, 1, 3, WIDE)
    for found in (one, other, narrow, wide):
        assert not found.warnings
        assert found.metrics["components"] == 1
        assert 3000 < found.metrics["support_voxels"] < 4700
        occupied = [np.flatnonzero(found.support.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        extent = [np.ptp(places) + 1 for places in occupied]
        assert all(abs(places.mean() - HALF) < 4 for places in occupied)
        for found_extent, least, most in zip(extent, (10, 19, 25), (17, 28, 34), strict=True):
            assert least <= found_extent <= most
    assert align(one.density, other.density).correlation > 0.95
    for found, gap in ((narrow, in_narrow), (wide, in_wide)):
        assert align(one.density, found.density).correlation > 0.90
        wave = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(found.density)))
        assert 0.5 < np.sum(np.abs(wave[gap]) ** 2) / np.sum(crop[gap]) < 2
    assert not any(align(one.density, found.density).twin for found in (other, narrow, wide))
