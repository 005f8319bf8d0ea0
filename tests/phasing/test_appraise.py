"""Figures of objects from elsewhere."""

import numpy as np
import pytest

from braggd.config import PhasingConfig
from braggd.phasing.appraise import appraise
from braggd_models.simulate.dataset import random_crystal


def test_the_true_object_explains_the_pattern_and_a_flat_one_does_not():
    made = random_crystal(2, shape=(40, 40, 40), strain="cosines", phase_range=(4, 4), peak_counts=(1e5, 1e5))
    amplitude = np.sqrt(made.counts)
    inside = np.abs(made.density) > 0.02 * np.abs(made.density).max()
    true = appraise(made.density, inside, amplitude, made.valid, PhasingConfig())
    flat = appraise(np.abs(made.density).astype(np.complex64), inside, amplitude, made.valid, PhasingConfig())
    assert true.llk < 2 < 10 * true.llk < flat.llk
    assert true.free_llk == pytest.approx(true.llk, rel=0.5)
    assert true.support_voxels == np.count_nonzero(inside)
    assert (true.components, true.fault) == (1, "")
