import numpy as np
import pytest

from braggd.errors import DetectorError
from braggd.scan.detector import detector
from braggd_models.errors import SimulationError
from braggd_models.simulate.gaps import (
    GAPS,
    cross,
    dead_pixels,
    detector_window,
    lost_frames,
    random_gap,
    stripe,
)

OWN = ("MAXIPIX 2x2", "ESRF ID01 EIGER 2M")


def test_a_stripe_covers_its_rows_or_columns():
    rows, columns = stripe((20, 30), 0, 5, 4), stripe((20, 30), 1, 28, 4)
    assert np.flatnonzero(~rows.all(axis=1)).tolist() == [5, 6, 7, 8]
    assert not rows[5:9].any()
    assert np.flatnonzero(~columns.any(axis=0)).tolist() == [28, 29]
    both = cross((20, 30), (5, 10), (4, 3))
    assert (~both).sum() == 4 * 30 + 3 * 20 - 12


@pytest.mark.parametrize("kind", [kind for kind in GAPS if kind not in ("none", "detector")])
def test_random_gaps_keep_to_the_widths_and_distances_asked_for(kind):
    seen = set()
    for seed in range(60):
        valid = random_gap(kind, (96, 128), np.random.default_rng(seed), width=(3, 12), distance=(4, 20))
        runs = [_runs(~valid.any(axis=1)), _runs(~valid.any(axis=0))]
        count = {"stripe": 1, "cross": 2, "two-stripes": 2}[kind]
        assert sum(len(r) for r in runs) in ((1, 2) if kind == "two-stripes" else (count,))
        assert all(width <= 12 for r in runs for _, width in r)
        seen |= {width for r in runs for _, width in r}
        near = [
            min(abs(start - n // 2), abs(start + w - 1 - n // 2))
            for r, n in zip(runs, (96, 128), strict=True)
            for start, w in r
        ]
        assert min(near) <= 20
        if kind == "stripe":
            assert min(near) >= 4
    assert {3, 4, 5, 6, 9} <= seen


def test_a_gap_at_distance_zero_lies_across_the_peak():
    for seed in range(20):
        valid = random_gap("stripe", (64, 64), np.random.default_rng(seed), width=(3, 3), distance=(0, 0))
        assert not valid[32, 32]
        aside = random_gap(
            "stripe", (64, 64), np.random.default_rng(seed), width=(3, 3), distance=(0, 0), peak=(10, 50)
        )
        assert not aside[10, 50]


def test_both_detector_axes_have_gaps():
    rows = [not random_gap("stripe", (64, 64), np.random.default_rng(s)).any(axis=1).all() for s in range(30)]
    assert 5 < sum(rows) < 25


def test_dead_pixels_and_lost_frames_are_as_many_as_asked():
    rng = np.random.default_rng(0)
    assert (~dead_pixels((30, 40), 17, rng)).sum() == 17
    assert (~lost_frames(20, 3, rng)).sum() == 3
    assert lost_frames(4, 10, rng).sum() == 1


@pytest.mark.parametrize("name", OWN)
def test_a_window_is_the_detector_s_own_mask(name):
    real = detector(name).mask
    window = detector_window(name, (64, 80), (256, 257))
    assert np.array_equal(window, ~real[224:288, 217:297])
    beyond = detector_window(name, (40, 40), (5, 5))
    assert not beyond[:15].any()
    assert np.array_equal(beyond[15:, 15:], ~real[:25, :25])


def test_random_windows_have_a_gap_near_the_peak():
    for seed in range(20):
        valid = random_gap("detector", (64, 64), np.random.default_rng(seed), distance=(0, 15), detectors=OWN)
        lines = np.concatenate([np.flatnonzero(valid.mean(axis=a) < 0.1) for a in (0, 1)])
        assert np.abs(lines - 32).min() <= 15
        assert valid.mean() > 0.2


def test_gaps_that_cannot_be_are_refused():
    with pytest.raises(SimulationError, match="axis 2"):
        stripe((8, 8), 2, 0, 3)
    with pytest.raises(SimulationError, match="choose one of none, stripe"):
        random_gap("star", (8, 8), np.random.default_rng(0))
    with pytest.raises(DetectorError, match="outside"):
        detector_window("MAXIPIX 2x2", (8, 8), (600, 5))


def _runs(blind):
    edges = np.flatnonzero(np.diff(np.concatenate([[False], blind, [False]]).astype(int)))
    return [(int(a), int(b - a)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
