import itertools

import numpy as np
import pytest

from braggd.inference.runs import runs_along


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_missing_voxel_knows_its_run(axis):
    missing = np.random.default_rng(axis).random((5, 6, 7)) < 0.5
    runs = runs_along(missing, axis)
    assert sorted(runs.index) == list(np.flatnonzero(missing))
    turned = np.moveaxis(missing, axis, -1)
    for index, place, start, stop in zip(runs.index, runs.place, runs.start, runs.stop, strict=True):
        at = np.unravel_index(index, missing.shape)
        line = turned[tuple(at[other] for other in range(3) if other != axis)]
        assert place == at[axis]
        assert start <= place < stop
        assert line[start:stop].all()
        assert start == 0 or not line[start - 1]
        assert stop == len(line) or not line[stop]


def test_nothing_missing_and_all_missing_are_no_runs_and_whole_lines():
    for axis, missing in itertools.product(range(3), (np.zeros((2, 3, 4), bool), np.ones((2, 3, 4), bool))):
        runs = runs_along(missing, axis)
        assert len(runs.index) == missing.sum()
        assert (runs.start == 0).all()
        assert (runs.stop == missing.shape[axis]).all()
