"""Which starts are gone on with."""

from dataclasses import replace

import numpy as np
import pytest

from braggd.config import PhasingConfig
from braggd.phasing import fourier
from braggd.phasing.ensemble import Ensemble
from braggd.phasing.pattern import prepare
from braggd.phasing.ranking import BEHIND

CONFIG = PhasingConfig(recipe="2*HIO + 2*ER", seeded="2*ER", starts=2)


@pytest.fixture
def ensemble(crystals):
    density, _ = crystals.faceted(32, radius=6.0, phase=1.0, seed=2)
    counts = crystals.noisy_counts(density, 1e5)
    pattern = prepare(np.sqrt(counts), np.ones(counts.shape, bool), None)
    seed = fourier.corner((density * np.sqrt(counts.sum() / np.sum(np.abs(density) ** 2) / density.size)).astype("c8"))
    return Ensemble(pattern, CONFIG, [("truth", seed)])


def ranked(run, free_llk, fault=""):
    return replace(run, quality=replace(run.quality, free_llk=free_llk, unevenness=0.0, fault=fault))


def test_a_seeded_start_has_a_recipe_and_a_support_of_its_own(ensemble):
    asked = []
    first, second = ensemble.start(asked.append), ensemble.start(asked.append)
    assert (first.origin, second.origin) == ("truth", "random")
    assert asked[:3] == [1, 2, 1]  # the second falls behind the truth and is stopped
    assert first.quality.support_voxels < 0.8 * np.count_nonzero(ensemble.support)


def test_another_object_that_is_nearly_as_good_contends(ensemble):
    runs = [ensemble.start(lambda _: None) for _ in range(3)]
    ensemble.runs = [ranked(runs[0], 1.0), ranked(runs[1], 2.0, BEHIND), ranked(runs[2], 5.0, BEHIND)]
    assert [run.number for run in ensemble.contenders()] == [0, 1]
    ensemble.runs[1] = ranked(runs[1], 2.0, "fell into pieces")
    assert [run.number for run in ensemble.contenders()] == [0]
    ensemble.runs = [ranked(runs[0], 1.0), ranked(runs[0], 1.1)]  # the same object twice: nothing is left to decide
    assert len(ensemble.contenders()) == 1
