import numpy as np
import pytest

from braggd.config import PhasingConfig
from braggd.phasing.align import twin_of
from braggd_models.phasing.score import Case, Outcome, cases, errors, report, run


@pytest.fixture(scope="module")
def truth():
    case = Case(number=3, shape=(40, 40, 40), strain="gaussians", phase_range=3.0, peak=1e6)
    return case.simulate()


def test_the_truth_itself_has_no_error_whatever_its_shift_ramp_phase_and_twin(truth):
    ramp = np.exp(2j * np.pi * 0.3 * np.arange(40) / 40)
    moved = np.roll(twin_of(truth.density) * ramp * np.exp(1.1j), (2, -1, 3), axis=(0, 1, 2))
    accuracy, phase = errors(moved.astype(np.complex64), truth)
    assert accuracy > 99
    assert phase < 0.01


def test_a_wrong_phase_is_seen_as_large_as_it_is(truth):
    z = np.arange(40)[:, None, None]
    bent = truth.density * np.exp(0.2j * np.sign(np.sin(z)))  # no ramp can take it off
    assert errors(bent.astype(np.complex64), truth)[1] == pytest.approx(0.2, abs=0.03)
    half = np.where(z < 20, truth.density, 0).astype(np.complex64)
    assert errors(half, truth)[1] > 0.3


def test_the_cases_are_the_same_every_time_and_cover_what_they_promise():
    study = cases(60)
    assert study == cases(60)
    assert {case.strain for case in study} == {"gaussians", "cosines", "random"}
    assert {(64, 64, 64), (128, 180, 230)} <= {case.shape for case in study}
    assert min(case.phase_range for case in study) < 3
    assert max(case.phase_range for case in study) > 4 * np.pi
    assert all(1e4 <= case.peak <= 1e6 for case in study)


def test_the_report_counts_what_was_solved_and_names_what_was_not():
    easy, hard = cases(2)
    outcomes = [
        Outcome(case=easy, one=(98.0, 0.02), several=(98.0, 0.02), final=(98.5, 0.01), starts=2, seconds=3.0),
        Outcome(case=hard, one=(60.0, 1.0), several=(96.0, 0.03), final=(96.0, 0.03), starts=5, seconds=9.0),
    ]
    text = report(outcomes)
    assert "| all | 2 | 50% | 100% | 100% | 0.02 | 3.5 | 6 |" in text
    assert f"number {hard.number}" in text
    assert f"number {easy.number}," not in text


def test_a_crystal_is_phased_without_a_hand_in_between():
    case = Case(number=5, shape=(48, 48, 48), strain="cosines", phase_range=2.0, peak=1e6)
    (outcome,) = run([case], PhasingConfig(starts=2))
    assert outcome.final[0] >= 95
    assert outcome.final[1] < 0.1
