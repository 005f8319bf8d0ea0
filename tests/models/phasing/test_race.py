"""The race of starts from the network's object against starts at random."""

import numpy as np
import pytest

from braggd.inference.phase import Predicted
from braggd_models.phasing import race
from braggd_models.phasing.race import Finish, report
from braggd_models.phasing.study import Case

CASE = Case(number=1, strain="cosines", phase_range=9.0)


@pytest.mark.parametrize("spoilt", [0.0, 0.8])
def test_a_start_from_the_truth_is_there_first(monkeypatch, spoilt):
    """Spoilt: phases off by so much, rad; the object is not there at once then."""
    monkeypatch.setattr(race, "ONE_RUN", "20*RAAR + 20*ER")
    monkeypatch.setattr(race, "_STARTS", 2)

    def oracle(truth, config):
        wave = np.abs(np.fft.fftn(truth.density))
        scale = np.sqrt(truth.counts.sum() / np.sum(wave**2))
        off = spoilt * np.random.default_rng(0).standard_normal(truth.density.shape)
        return Predicted(density=(scale * truth.density * np.exp(1j * off)).astype(np.complex64), seconds=0.001)

    monkeypatch.setattr(race, "predicted_for", oracle)
    (finish,) = race.race([CASE], (64, 64, 64))
    assert 0 < finish.network < finish.random
    assert (finish.network == 0.001) == (spoilt == 0)


def test_the_report_gives_medians_and_who_never_came():
    finishes = [Finish(case=CASE, network=n, random=r) for n, r in ((1, 4), (2, 4), (3, float("inf")))]
    text = report(finishes)
    assert "| cosines | 3 | 2 | 4 | 0.5 | 100% | 67% |" in text
    assert text.count("| 3 | 2 | 4 |") == pytest.approx(2)  # once for the strain, once for all
