"""Crystals simulated in batches: what is drawn must be what was asked for, by means that do not share its code."""

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from braggd_models.phasing import facets, fourier, strained  # noqa: E402
from braggd_models.phasing.crystals import EDGE, Ranges, draw  # noqa: E402

WHOLE = Ranges(gaps=0, cropped=0, blurred=0, alien=0, background=0, off_peak=0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_same_seed_makes_the_same_crystals():
    one, other = (draw(3, generator(4)) for _ in range(2))
    assert torch.equal(one.intensity, other.intensity)
    assert torch.equal(one.wave, other.wave)
    assert not torch.equal(one.wave, draw(3, generator(5)).wave)


def test_counts_are_the_wave_s_intensity_with_poisson_noise():
    made = draw(4, generator(), WHOLE)
    expected = made.wave.abs().square() * made.photons[:, None, None, None]
    bright = expected > 30
    off = ((made.intensity - expected) / expected.sqrt())[bright].numpy()
    assert abs(off.mean()) < 0.02
    assert off.std() == pytest.approx(1, abs=0.03)
    assert made.wave.abs().amax((1, 2, 3)).numpy() == pytest.approx(1, abs=1e-5)


def test_a_crystal_fills_its_box_and_lies_in_the_middle():
    made = draw(8, generator(1), Ranges(**{**_fields(WHOLE), "oversampling": (2.3, 2.3), "phase_range": (0, 0)}))
    density = fourier.inverse(made.wave, EDGE).abs()
    for one in density.numpy():
        inside = np.argwhere(one > 0.4 * np.percentile(one, 99.5))
        assert np.ptp(inside, axis=0) + 1 == pytest.approx(EDGE / 2.3, abs=4)
        assert inside.mean(axis=0) == pytest.approx(EDGE // 2, abs=1.2)


def test_the_phase_has_the_range_that_was_asked_for_and_no_slope():
    rng = generator(2)
    line = (torch.arange(40) - 19.5) / 2
    half = torch.full((6, 3), 7.0)
    modulus = facets.filled(facets.placed(facets.draw(6, rng), half, rng), line, torch.full((6,), 0.5))
    wanted = torch.linspace(1, 15, 6)
    phase, kind = strained.draw(modulus, line, half, wanted, rng)
    assert set(kind.tolist()) <= set(range(len(strained.KINDS)))
    for one, body, span in zip(phase.numpy(), modulus.numpy(), wanted.tolist(), strict=True):
        inside = body > 0.5
        assert np.ptp(one[inside]) == pytest.approx(span, rel=1e-3)
        places = np.argwhere(inside)
        slopes = np.linalg.lstsq(np.column_stack([np.ones(len(places)), places]), one[inside], rcond=None)[0][1:]
        assert np.abs(slopes).max() < 0.01 * span


def test_facets_fill_the_volume_that_they_enclose():
    cube = _cube()
    line = (torch.arange(48) - 23.5) / 2
    filled = facets.filled(cube, line, torch.tensor([0.5]))
    assert filled.sum().item() / 8 == pytest.approx(10 * 12 * 14, rel=0.01)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_gaps_hold_no_counts(share):
    made = draw(4, generator(6), Ranges(**{**_fields(WHOLE), "gaps": share}))
    assert (made.measured.amin((1, 2, 3)) < 1).all() == bool(share)
    assert not made.intensity[made.measured == 0].any()
    assert made.measured.mean() > 0.5


def test_strain_spreads_the_pattern():
    calm, strained_ = (
        draw(6, generator(7), Ranges(**{**_fields(WHOLE), "phase_range": (r, r)})) for r in (0.1, 5 * math.pi)
    )
    share = [made.wave.abs().square().sum((1, 2, 3)).mean().item() for made in (calm, strained_)]
    assert share[1] > 3 * share[0]  # of the brightest voxel, which is 1


def _cube():
    normals = torch.tensor([[[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]])
    return normals, torch.tensor([[5.0, 5, 6, 6, 7, 7]])


def _fields(ranges):
    return {name: getattr(ranges, name) for name in Ranges.__slots__}
