import numpy as np
import pytest

from braggd_models.errors import SimulationError
from braggd_models.simulate.pattern import Alien, Exposure, expose, object_of, propagate, wave_of
from braggd_models.simulate.shapes import cube, random_convex, voxelise


def numpy_wave(density):
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(density)))


def fine_axis(half, finer):
    return (np.arange(-half * finer, half * finer) + 0.5) / finer


@pytest.fixture(scope="module")
def density():
    rng = np.random.default_rng(4)
    crystal = random_convex(rng).centred().scaled(6.0)
    axes = [np.arange(-16, 16), np.arange(-15, 15), np.arange(-20, 20)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    return (voxelise(crystal, axes) * np.exp(1j * (np.sin(z / 4) + 0.02 * x * y))).astype(np.complex64)


def recorded(density, seed=0, **options):
    support = np.abs(density) > 0.5
    return expose(wave_of(density), Exposure(**options), np.random.default_rng(seed), support=support)


def test_a_box_scatters_as_a_product_of_sincs():
    shape, edges = (32, 40, 30), (9.3, 12.0, 10.7)
    box = cube().scaled(np.array(edges) / 2)
    axes = [fine_axis(8, 8)] * 3
    wave = propagate(voxelise(box, axes), axes, shape)
    z, y, x = (edge * np.sinc((np.arange(n) - n // 2) * edge / n) for n, edge in zip(shape, edges, strict=True))
    truth = z[:, None, None] * y[:, None] * x
    assert np.abs(wave - truth).max() < 1e-3 * truth.max()
    # far fringes too, where plain voxels alias
    assert np.corrcoef(np.log(truth**2 + 1e-2).ravel(), np.log(np.abs(wave.ravel()) ** 2 + 1e-2))[0, 1] > 0.999


def test_numpy_s_convention(density):
    assert np.allclose(wave_of(density), numpy_wave(density), atol=1e-4 * np.abs(density).sum())
    assert np.allclose(object_of(wave_of(density)), density, atol=1e-5)
    axes = [np.arange(n) - n // 2 for n in density.shape]
    assert np.allclose(propagate(density, axes, density.shape), numpy_wave(density), atol=1e-5 * np.abs(density).sum())


@pytest.mark.parametrize("shape", [(16, 16, 16), (15, 17, 20)])
def test_object_wave_object_is_a_circle_for_odd_and_even_shapes(shape):
    rng = np.random.default_rng(1)
    noise = (rng.normal(size=shape) + 1j * rng.normal(size=shape)).astype(np.complex64)
    assert np.allclose(object_of(wave_of(noise)), noise, atol=1e-5)
    assert np.allclose(wave_of(noise), numpy_wave(noise), atol=1e-3)


def test_an_offset_moves_the_pattern(density):
    axes = [np.arange(n) - n // 2 for n in density.shape]
    moved = propagate(density, axes, density.shape, (2, -3, 1))
    assert np.allclose(moved, np.roll(numpy_wave(density), (2, -3, 1), (0, 1, 2)), atol=1e-5 * np.abs(density).sum())


def test_a_finer_grid_changes_the_far_fringes_only(density):
    crystal = random_convex(np.random.default_rng(4)).centred().scaled(6.0)
    coarse_axes, fine_axes = [np.arange(-12, 12)] * 3, [fine_axis(12, 4)] * 3
    coarse = propagate(voxelise(crystal, coarse_axes), coarse_axes, (32, 32, 32))
    fine = propagate(voxelise(crystal, fine_axes), fine_axes, (32, 32, 32))
    near = (slice(12, 21),) * 3
    assert np.abs(coarse - fine)[near].max() < 0.02 * np.abs(fine).max()


def test_the_truth_s_transform_is_the_noiseless_pattern(density):
    scan = recorded(density, peak_counts=3e4)
    assert scan.noiseless.max() == pytest.approx(3e4, rel=1e-5)
    assert np.allclose(np.abs(scan.wave) ** 2, scan.noiseless, atol=0.01, rtol=1e-4)
    assert scan.counts.dtype == scan.noiseless.dtype == np.float32
    assert scan.density.dtype == np.complex64


def test_counts_have_poisson_statistics(density):
    scan = recorded(density, peak_counts=1e6, background=0.3)
    deviation = scan.counts - scan.noiseless
    for low, high in ((0.3, 1), (1, 10), (10, 1e3)):
        chosen = (scan.noiseless > low) & (scan.noiseless < high)
        assert chosen.sum() > 300
        assert np.mean(deviation[chosen] ** 2 / scan.noiseless[chosen]) == pytest.approx(1, abs=0.2)
    assert np.array_equal(scan.counts, np.round(scan.counts))
    assert not np.array_equal(scan.counts, recorded(density, seed=1, peak_counts=1e6).counts)


def test_partial_coherence_damps_the_autocorrelation_as_a_gaussian(density):
    full = recorded(density, peak_counts=1e5).noiseless
    widths = (0.6, 0.9, 0.0)
    blurred = recorded(density, peak_counts=1e5, coherence=widths).noiseless
    one, other = (np.abs(np.fft.fftn(volume)) for volume in (full, blurred))
    for axis, width in enumerate(widths):
        line = tuple(slice(1, 7) if a == axis else 0 for a in range(3))
        lag = np.arange(1, 7) / density.shape[axis]
        assert np.allclose(other[line] / one[line], np.exp(-2 * (np.pi * width * lag) ** 2), atol=0.03)


def test_saturated_voxels_are_not_measured(density):
    scan = recorded(density, peak_counts=1e5, saturation=1e4)
    assert np.array_equal(scan.valid, scan.counts < 1e4)
    assert scan.counts.max() == 1e4
    assert 0 < (~scan.valid).sum() < 200


def test_hot_pixels_glow_in_every_frame_and_spikes_once(density):
    clean = recorded(density, peak_counts=1e4, noise=False).counts
    hot = recorded(density, peak_counts=1e4, noise=False, hot_pixels=1).counts - clean
    assert ((hot > 1).sum(axis=0) == len(clean)).sum() == (hot > 1).any(axis=0).sum() == 1
    assert (recorded(density, peak_counts=1e4, noise=False, spikes=3).counts - clean > 1).sum() == 3


def test_gaps_hold_no_counts_and_the_expectation_stays(density):
    valid = np.ones(density.shape[1:], bool)
    valid[:, 20:24] = False
    scan = expose(wave_of(density), Exposure(), np.random.default_rng(0), valid=valid, support=np.abs(density) > 0.5)
    assert not scan.counts[:, :, 20:24].any()
    assert scan.noiseless[:, :, 20:24].max() > 1e4
    assert np.array_equal(scan.valid, np.broadcast_to(valid, density.shape))


def test_an_alien_adds_its_photons(density):
    spot = np.zeros(density.shape, np.float32)
    spot[3, 4, 5] = 7.0
    scan = expose(
        wave_of(density),
        Exposure(peak_counts=1e4, noise=False),
        np.random.default_rng(0),
        aliens=[Alien(intensity=spot, share=0.5)],
        support=np.abs(density) > 0.5,
    )
    alone = recorded(density, peak_counts=1e4, noise=False)
    assert (scan.counts - alone.counts)[3, 4, 5] == pytest.approx(5e3, rel=1e-4)
    assert np.array_equal(scan.density, alone.density)


def test_dark_patterns_are_refused():
    dark = np.zeros((8, 8, 8), np.complex64)
    with pytest.raises(SimulationError, match="dark"):
        expose(dark, Exposure(), np.random.default_rng(0), support=np.zeros((8, 8, 8), bool))
