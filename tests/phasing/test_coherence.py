import numpy as np
import pytest

from braggd.phasing import coherence, fourier, plain, projections
from braggd.phasing.projections import convolve, gaussian

DELTA = np.ones(1, np.float32)


def lorentzian(width):
    at = np.arange(-coherence.RADIUS, coherence.RADIUS + 1)
    kernel = width**2 / (at**2 + width**2)
    return (kernel / kernel.sum()).astype(np.float32)


KERNELS = {
    "gaussian": (gaussian(0.7), gaussian(0.4), gaussian(0.55)),
    "lorentzian": (lorentzian(0.5), lorentzian(0.3), lorentzian(0.4)),
    "one axis": (DELTA, gaussian(0.8), DELTA),
}


def pattern(crystals, peak, edge=64):
    """The coherent intensity of a crystal, corner-centred, scaled to that peak."""
    density, _ = crystals.faceted(edge, radius=10.0, phase=1.5, seed=2)
    intensity = fourier.corner(np.abs(crystals.wave_of(density)) ** 2)
    return (intensity * (peak / intensity.max())).astype(np.float32)


def seen(intensity, kernels, background=0.0):
    """Counts of it as a partially coherent beam shows it; a gap, and a target that says so."""
    blurred = np.empty_like(intensity)
    convolve(intensity, blurred, kernels)
    counts = np.random.default_rng(0).poisson(blurred + background)
    target = np.sqrt(counts).astype(np.float32)
    target[20:23] = target[:, :, 5:7] = -50
    return target


def fitted(intensity, target, times=12):
    kernels = coherence.START
    for _ in range(times):
        kernels = coherence.fit_kernels(intensity, target, kernels)
    return kernels


def padded(kernel):
    return np.pad(kernel, coherence.RADIUS - kernel.size // 2)


@pytest.mark.parametrize("name", KERNELS)
def test_a_known_point_spread_is_found_from_noisy_counts(crystals, name):
    intensity = pattern(crystals, 1e5)
    found = fitted(intensity, seen(intensity, KERNELS[name]))
    for one, truth in zip(found, KERNELS[name], strict=True):
        np.testing.assert_allclose(padded(one), padded(truth), atol=0.05)
        assert one.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_array_equal(one, one[::-1])
    np.testing.assert_allclose(coherence.widths(found), coherence.widths(KERNELS[name]), atol=0.08)


def test_tails_heavier_than_a_gaussians_are_found(crystals):
    intensity = pattern(crystals, 1e5)
    tails = [kernel[:2].sum() for kernel in fitted(intensity, seen(intensity, KERNELS["lorentzian"]))]
    np.testing.assert_allclose(tails, [kernel[:2].sum() for kernel in KERNELS["lorentzian"]], rtol=0.2)


def test_a_coherent_beam_has_no_point_spread(crystals):
    intensity = pattern(crystals, 1e5)
    found = fitted(intensity, seen(intensity, (DELTA,) * 3))
    for kernel in found:
        assert kernel.max() > 0.99
    assert max(coherence.widths(found)) < 0.1


def test_neither_background_nor_scale_are_taken_for_a_point_spread(crystals):
    intensity = pattern(crystals, 1e5)
    target = seen(intensity, KERNELS["gaussian"], background=3.0)
    found = fitted(intensity * np.float32(0.7), target)
    np.testing.assert_allclose(coherence.widths(found), coherence.widths(KERNELS["gaussian"]), atol=0.08)


def test_unmeasured_voxels_do_not_count(crystals):
    intensity = pattern(crystals, 1e5)
    target = seen(intensity, KERNELS["gaussian"])
    other = np.where(target < 0, target * 3, target)
    for one, same in zip(fitted(intensity, target, 2), fitted(intensity, other, 2), strict=True):
        np.testing.assert_array_equal(one, same)


def test_a_point_spread_does_not_run_away(crystals):
    intensity = pattern(crystals, 1e5)
    unlike = np.roll(intensity, 9, axis=(0, 1, 2))
    found = fitted(unlike, seen(intensity, (DELTA,) * 3), 30)
    assert max(coherence.widths(found)) <= coherence.WIDEST + 1e-3
    empty = fitted(np.zeros_like(intensity), seen(intensity, (DELTA,) * 3), 2)
    dark = fitted(intensity, np.zeros_like(intensity), 2)
    for kernel in (*found, *empty, *dark):
        assert np.isfinite(kernel).all()
        assert kernel.sum() == pytest.approx(1, abs=1e-5)


def test_volumes_smaller_than_the_kernels_are_fitted_too():
    intensity = np.random.default_rng(0).exponential(100, (6, 20, 3)).astype(np.float32)
    found = fitted(intensity, np.sqrt(intensity), 2)
    assert all(np.isfinite(kernel).all() for kernel in found)


def test_plain_kernels_fit_the_same_point_spread(crystals, monkeypatch):
    intensity = pattern(crystals, 1e5, 48)
    target = seen(intensity, KERNELS["lorentzian"])
    before = fitted(intensity, target, 2)
    monkeypatch.setattr(projections, "kernels", plain)
    for one, other in zip(before, fitted(intensity, target, 2), strict=True):
        np.testing.assert_allclose(padded(one), padded(other), atol=1e-3)
