"""What the score command measures, against cases whose answer is known."""

import numpy as np
import pytest

from braggd_models.benchmarks import replace_section, table
from braggd_models.gaps import score
from braggd_models.gaps.classical import fillers
from braggd_models.gaps.commands import score_gaps
from braggd_models.gaps.score import Part, off, plot
from braggd_models.simulate.gaps import cross


def test_sections_are_replaced_in_place_and_others_stay(tmp_path):
    path = tmp_path / "deep" / "BENCHMARKS.md"
    replace_section(path, "a", "first")
    replace_section(path, "b", "second")
    replace_section(path, "a", "third")
    text = path.read_text()
    assert text.startswith("# Benchmarks")
    assert "first" not in text
    assert text.index("third") < text.index("second")
    assert text.count("<!-- begin a -->") == text.count("<!-- end a -->") == 1


def test_tables_round_numbers():
    assert table(["a", "b"], [["x", 0.123456]]).splitlines()[-1] == "| x | 0.123 |"


@pytest.mark.parametrize("name", list(fillers()))
def test_classical_fillers_keep_what_was_measured_and_reproduce_what_they_are_exact_for(name):
    z, y, x = np.mgrid[:4, :30, :28]
    pixels = cross((30, 28), (12, 10), (4, 5))
    if "nearest" in name:
        truth = np.full(z.shape, 7.0)
    elif "log" in name:
        truth = np.expm1(0.1 * y + 0.05 * x + 1)
    else:
        truth = 3.0 * y + 2.0 * x + 5 + z
    counts = truth.astype(np.float32)
    filled = fillers()[name](np.where(pixels, counts, 0).astype(np.float32), pixels)
    np.testing.assert_array_equal(filled[:, pixels], counts[:, pixels])
    np.testing.assert_allclose(filled, counts, rtol=1e-3)


def test_cubic_splines_reproduce_a_cubic():
    x = np.arange(30.0)
    truth = np.broadcast_to(1000 + 0.1 * (x - 14) ** 3, (3, 20, 30)).astype(np.float32)
    pixels = np.ones((20, 30), bool)
    pixels[:, 12:18] = False
    np.testing.assert_allclose(fillers()["cubic, counts"](truth * pixels, pixels), truth, rtol=1e-4)


def test_the_score_is_one_minus_pearson_s_correlation_within_the_gap():
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 100, (4, 5, 6)).astype(np.float32)
    inside = rng.random(truth.shape) < 0.5
    filled = truth + rng.normal(size=truth.shape).astype(np.float32)
    expected = 1 - np.corrcoef(filled[inside], truth[inside])[0, 1]
    assert off(filled, truth, inside)[1] == pytest.approx(expected, rel=1e-4)
    assert off(3 * truth, truth, inside)[1] == pytest.approx(0, abs=1e-6)
    assert off(np.zeros_like(truth), truth, inside) == (1.0, 1.0)


def test_curves_are_drawn(tmp_path):
    part = Part("text", {"strain": {"left in": ([3, 6], [0.1, 0.2])}})
    (file,) = plot(part, tmp_path)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_a_section_names_the_command_that_made_it(tmp_path, monkeypatch):
    monkeypatch.setitem(score.PARTS, "speed", lambda model, size: Part(f"{size.crystals}, {size.minutes}, {size.side}"))
    score_gaps(quick=True, crystals=3, minutes=1.5, part=["speed"], model="auto", output=tmp_path)
    text = (tmp_path / "BENCHMARKS.md").read_text()
    assert "3, 1.5, 96" in text
    assert "`braggd-models score gaps --quick --crystals 3 --minutes 1.5 --part speed`" in text
