"""Which starts are gone on with."""

from dataclasses import replace

import numpy as np
import pytest

from braggd.config import PhasingConfig
from braggd.phasing import fourier
from braggd.phasing.ensemble import Ensemble, refine
from braggd.phasing.pattern import prepare, withheld_voxels
from braggd.phasing.ranking import BEHIND
from braggd.phasing.recipe import parse

CONFIG = PhasingConfig()


@pytest.fixture
def ensemble(crystals):
    density, _ = crystals.faceted(32, radius=6.0, phase=1.0, seed=2)
    counts = crystals.noisy_counts(density, 1e5)
    pattern = prepare(np.sqrt(counts), np.ones(counts.shape, bool), None)
    seed = fourier.corner((density * np.sqrt(counts.sum() / np.sum(np.abs(density) ** 2) / density.size)).astype("c8"))
    return Ensemble(pattern, CONFIG, [("truth", seed)], recipe="2*HIO + 2*ER", seeded="2*ER", starts=2)


def ranked(run, free_llk, fault=""):
    return replace(run, quality=replace(run.quality, free_llk=free_llk, unevenness=0.0, fault=fault))


def test_a_seeded_start_has_a_recipe_and_a_support_of_its_own(ensemble):
    asked = []
    first, second = ensemble.start(asked.append), ensemble.start(asked.append)
    assert (first.origin, second.origin) == ("truth", "random")
    assert asked == [1, 2, 1, 2, 3, 4]
    assert first.quality.support_voxels < 0.8 * np.count_nonzero(ensemble.support)


def test_another_object_that_is_nearly_as_good_contends(ensemble):
    runs = [ensemble.start(lambda _: None) for _ in range(3)]
    ensemble.runs = [ranked(runs[0], 1.0), ranked(runs[1], 2.0, BEHIND), ranked(runs[2], 5.0, BEHIND)]
    assert [run.number for run in ensemble.contenders()] == [0, 1]
    ensemble.runs[1] = ranked(runs[1], 2.0, "fell into pieces")
    assert [run.number for run in ensemble.contenders()] == [0]
    ensemble.runs = [ranked(runs[0], 1.0), ranked(runs[0], 1.1)]  # the same object twice: nothing is left to decide
    assert len(ensemble.contenders()) == 1


def test_voxels_that_are_withheld_have_no_part_in_the_refinement(crystals):
    density, _ = crystals.faceted(32, radius=6.0, phase=1.0, seed=2)
    amplitude = np.sqrt(crystals.noisy_counts(density, 1e5))
    valid = np.ones(amplitude.shape, bool)
    free = withheld_voxels(amplitude, valid, 0.05, 1)
    assert 0.03 < free.mean() < 0.06
    spoiled = np.where(free, 7.0, amplitude).astype(np.float32)
    start = Ensemble(prepare(amplitude, valid, None, free), CONFIG, recipe="30*HIO + 9*ER", starts=1).start(
        lambda _: None
    )
    one, other = (
        refine(start, prepare(seen, valid, None, free), parse("9*RAAR + 9*ER"), CONFIG, lambda _: None, 1.0)
        for seen in (amplitude, spoiled)
    )
    np.testing.assert_allclose(one.solver.density, other.solver.density, atol=1e-4)
    assert other.quality.free_llk > 5 * one.quality.free_llk
