"""Looking for an object at low resolution, and going on from there."""

import numpy as np
import pytest
from scipy import ndimage

from braggd.config import PhasingConfig
from braggd.framing import EDGE
from braggd.phasing import fourier
from braggd.phasing.align import accuracy, align
from braggd.phasing.course import Course
from braggd.phasing.pattern import prepare
from braggd.phasing.reduced import FULL, Reduced
from braggd.phasing.search import search

CONFIG = PhasingConfig(quick="200*HIO + 100*RAAR + 50*ER", seeded="50*RAAR + 50*ER", recipe="250*HIO + 50*ER")


def everywhere(counts):
    return np.ones(counts.shape, bool)


@pytest.fixture
def pattern(crystals):
    """Of a crystal that is sampled three times as finely as it has to be, its peak off the middle."""
    density, _ = crystals.faceted(96, radius=7.0, phase=1.5, seed=2)
    density = ndimage.gaussian_filter(density, 0.8) * np.exp(2j * np.pi * 5 / 96 * np.arange(96))
    scale = 1e5 / (np.abs(crystals.wave_of(density)) ** 2).max()
    density = (density * np.sqrt(scale)).astype(np.complex64)
    counts = np.abs(crystals.wave_of(density)) ** 2
    return density, prepare(np.sqrt(counts).astype(np.float32), everywhere(counts), None)


@pytest.mark.parametrize("edge", [EDGE, FULL])
def test_at_low_resolution_the_true_object_has_the_measured_moduli(pattern, edge):
    density, whole = pattern
    reduced = Reduced.of(whole, edge, 0.0, 1)
    assert reduced.pattern.target.shape == (reduced.framing.edge,) * 3
    assert reduced.framing.edge <= edge
    assert min(reduced.framing.step) > 1.3
    low = reduced.lower(fourier.corner(density))
    wave = np.empty_like(low)
    fourier.forward(low, wave)
    target, seen = reduced.pattern.target, reduced.pattern.target >= 0
    assert np.abs(np.abs(wave) - target)[seen].sum() < 0.02 * target[seen].sum()


def test_what_is_lowered_is_lifted_again(pattern):
    density, whole = pattern
    reduced = Reduced.of(whole, FULL, 0.0, 1)
    low = reduced.lower(fourier.corner(density))
    lifted, support = reduced.lift(low, np.abs(low) > 0.01 * np.abs(low).max())
    aligned = align(density, fourier.centre(lifted))
    assert aligned.correlation > 0.99
    assert np.abs(aligned.density - density).max() < 0.1 * np.abs(density).max()
    assert np.sum(np.abs(lifted[support]) ** 2) > 0.99 * np.sum(np.abs(lifted) ** 2)
    assert support.sum() < 6 * np.count_nonzero(np.abs(density) > 0.3 * np.abs(density).max())


def test_an_object_across_the_border_of_the_small_field_of_view_is_lifted_in_one_piece(pattern):
    density, whole = pattern
    reduced = Reduced.of(whole, EDGE, 0.0, 1)
    low = reduced.lower(fourier.corner(density))
    support = np.abs(low) > 0.01 * np.abs(low).max()
    straight, _ = reduced.lift(low, support)
    rolled, _ = reduced.lift(*(np.roll(array, (9, 14, -12), (0, 1, 2)) for array in (low, support)))
    assert align(fourier.centre(straight), fourier.centre(rolled)).correlation > 0.999
    again = reduced.lower(np.roll(fourier.corner(density), (40, -30, 45), (0, 1, 2)))
    assert align(fourier.centre(low), fourier.centre(again)).correlation > 0.999


def test_what_was_not_measured_is_not_at_low_resolution_either(pattern):
    _, whole = pattern
    valid = np.ones(whole.target.shape, bool)
    valid[:, 30:42] = False
    counts = fourier.centre(whole.target) ** 2
    reduced = Reduced.of(prepare(np.sqrt(counts), valid, None), EDGE, 0.0, 1)
    missing = fourier.centre(reduced.pattern.target) < 0
    rows = np.flatnonzero(missing.all(axis=(0, 2)))
    assert len(rows) == pytest.approx(12 / reduced.framing.step[1], abs=2.5)  # its edges are half covered
    assert reduced.pattern.masked


def test_the_withheld_voxels_are_seen_and_others_withheld(pattern):
    _, whole = pattern
    counts, free = fourier.centre(whole.target) ** 2, np.zeros(whole.target.shape, bool)
    free[40:43, 50:53, 40:43] = True
    plain, seen = (
        Reduced.of(prepare(np.sqrt(counts), everywhere(counts), None, withheld), EDGE, 0.05, 1)
        for withheld in (None, free)
    )
    np.testing.assert_allclose(plain.pattern.target, seen.pattern.target)
    assert 0.02 < (seen.pattern.withheld >= 0).mean() < 0.08


def test_starts_at_low_resolution_come_to_the_crystal(crystals):
    density, _ = crystals.faceted(48, radius=8.0, phase=1.5, seed=2)
    counts = crystals.noisy_counts(density, 1e5)
    whole = prepare(np.sqrt(counts), everywhere(counts), None)
    doing = []
    reduced, ensemble = search(whole, CONFIG, [], Course(lambda _, done: doing.append(done), None, 0.0))
    assert 2 <= ensemble.searched < 16
    assert "start 1 of 16" in doing
    assert reduced is None  # 64^3 voxels would be more
    assert not ensemble.best.quality.fault
    assert {run.origin for run in ensemble.runs} == {"random"}
    found = fourier.centre(ensemble.best.solver.density)
    assert accuracy(align(density, found).density, density) > 90


def test_where_no_crystal_is_told_all_starts_are_on_the_whole_pattern():
    counts = np.random.default_rng(0).poisson(3, (24, 24, 24)).astype(np.float32)
    whole = prepare(np.sqrt(counts), everywhere(counts), None)
    assert Reduced.of(whole, EDGE, 0.0, 1) is None
    config = PhasingConfig(recipe="2*ER", quick="9*ER", starts=2)
    reduced, ensemble = search(whole, config, [], Course(None, None, 0.0))
    assert reduced is None
    assert ensemble.pattern is whole
    assert ensemble.searched == 0
    assert 1 <= len(ensemble.runs) <= 2
