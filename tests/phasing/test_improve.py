"""Objects from elsewhere."""

import numpy as np
import pytest

from braggd.config import PhasingConfig
from braggd.errors import PhasingError
from braggd.phasing.align import accuracy, align
from braggd.phasing.improve import improved
from braggd_models.simulate.dataset import random_crystal


@pytest.fixture(scope="module")
def crystal():
    made = random_crystal(2, shape=(40, 40, 40), strain="cosines", phase_range=(4, 4), peak_counts=(1e5, 1e5))
    return made, np.sqrt(made.counts), np.abs(made.density) > 0.02 * np.abs(made.density).max()


def scored(density, made):
    return accuracy(align(made.density, density).density, made.density)


def test_the_true_object_explains_the_pattern_and_stays(crystal):
    made, amplitude, inside = crystal
    density, support, quality = improved(made.density, inside, amplitude, made.valid, PhasingConfig())
    assert quality.llk < 2
    assert quality.free_llk == pytest.approx(quality.llk, rel=0.5)
    assert (quality.components, quality.fault) == (1, "")
    assert density is made.density
    assert support is inside


def test_an_object_without_its_phase_is_made_better(crystal):
    made, amplitude, inside = crystal
    flat = np.abs(made.density).astype(np.complex64)
    density, support, _ = improved(flat, inside, amplitude, made.valid, PhasingConfig())
    assert scored(density, made) > scored(flat, made) + 5
    assert not density[~support].any()
    assert 0.5 < support.sum() / inside.sum() < 2


def test_a_pattern_that_shows_no_crystal_leaves_it_as_it_is():
    noise = np.random.default_rng(0).poisson(3, (24, 24, 24)).astype(np.float32)
    box = np.zeros(noise.shape, bool)
    box[9:15, 9:15, 9:15] = True
    density, _, quality = improved(box.astype(np.complex64), box, np.sqrt(noise), noise >= 0, PhasingConfig())
    assert quality.support_voxels == np.count_nonzero(density)


def test_an_object_of_another_shape_is_refused(crystal):
    made, amplitude, inside = crystal
    with pytest.raises((PhasingError, ValueError)):
        improved(made.density[1:], inside[1:], amplitude, made.valid, PhasingConfig())
