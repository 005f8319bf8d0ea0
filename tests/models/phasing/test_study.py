"""The study of predicted phases."""

import numpy as np
import pytest

from braggd_models.phasing.study import METHODS, Case, Outcome, cases, report, score


def test_every_crystal_comes_with_every_strain_and_range():
    chosen = cases(3, (1.0, 2.0))
    assert len(chosen) == 3 * 2 * 3
    one, other = (Case(number=2, strain="random", phase_range=r).simulate().parameters for r in (1.0, 2.0))
    assert one["crystal"] == other["crystal"]
    assert one["rotation_xyzw"] == other["rotation_xyzw"]
    assert (one["phase_range"], other["phase_range"]) == pytest.approx((1.0, 2.0), rel=1e-3)


def test_the_truth_scores_100_and_no_object_0():
    truth = Case(number=1, strain="cosines", phase_range=3.0).simulate()
    assert score(truth.density, truth) == pytest.approx(100, abs=0.5)
    assert score(None, truth) == 0


def test_the_report_holds_the_means():
    def outcome(strain, phase_range, one, other):
        scores = {"one run": (one, 2.0), "dl + 300 ER": (other, 1.0)}
        return Outcome(case=Case(number=0, strain=strain, phase_range=phase_range), scores=scores)

    text = report([outcome("gaussians", 2 * np.pi, 90, 98), outcome("gaussians", 5 * np.pi, 70, 60)])
    assert "| gaussians | 2 pi to 5 pi | 2 | 80 | 79 |" in text
    assert "| gaussians | 5.0 pi | 1 | 70 | 60 |" in text
    assert "better in 50%" in text
    assert "dl + 300 ER: 50%" in text
    assert set(METHODS) >= {"network", "one run", "dl + 300 ER", "ensemble", "dl, gap"}
