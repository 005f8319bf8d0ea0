# Slow: three retrievals of the shipped scan at full size, some four minutes on two free cores.
import msgspec
import numpy as np
import pytest

from braggd.config import PhasingConfig
from braggd.inference.interpolate import interpolate
from braggd.phasing.align import align
from braggd.phasing.retrieve import retrieve

PEAK = (99, 126, 127)
GAP = slice(76, 82)  # 12 pixels beside the peak in the crop, 6 wide: a MAXIPIX cross with its bad edges


@pytest.fixture(scope="module")
def crop(measured_counts):
    return measured_counts[tuple(slice(p - 64, p + 64) for p in PEAK)].astype(np.float32)


def phased(counts, valid, seed):
    guess = np.sqrt(interpolate(np.where(valid, counts, 0), valid))
    amplitude = np.sqrt(np.where(valid, counts, 0))
    return retrieve(amplitude, valid, msgspec.structs.replace(PhasingConfig(), seed=seed), guess=guess)


@pytest.mark.timeout(1500)
def test_the_measured_scan_gives_one_compact_crystal_whatever_the_seed_and_the_gap(crop):
    whole, cross = np.ones(crop.shape, bool), np.ones(crop.shape, bool)
    cross[:, GAP] = cross[:, :, GAP] = False
    one, other, gapped = phased(crop, whole, 1), phased(crop, whole, 2), phased(crop, cross, 1)
    for found in (one, other, gapped):
        assert not found.warnings
        assert found.metrics["components"] == 1
        assert 8000 < found.metrics["support_voxels"] < 11000
        occupied = [np.flatnonzero(found.support.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
        extent = [np.ptp(places) + 1 for places in occupied]
        assert all(abs(places.mean() - 64) < 4 for places in occupied)
        for found_extent, least, most in zip(extent, (14, 26, 33), (22, 36, 45), strict=True):
            assert least <= found_extent <= most
    again, beside = align(one.density, other.density), align(one.density, gapped.density)
    assert again.correlation > 0.95
    assert beside.correlation > 0.90
    assert not again.twin
    assert not beside.twin
