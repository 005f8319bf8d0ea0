import math

import numpy as np
import pytest

from braggd.errors import PhasingError
from braggd.phasing.free import free_voxels
from braggd.phasing.modes import aligned
from braggd.phasing.resolution import Curve, free_detail, prtf, resolution_nm

EDGE = 48


def frequencies(edge=EDGE):
    """|q| in shares of the Nyquist frequency, zero at n // 2."""
    axis = 2 * np.fft.fftshift(np.fft.fftfreq(edge))
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    return np.sqrt(z**2 + y**2 + x**2)


def object_of(wave):
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(wave))).astype(np.complex64)


def random_phases(random, shape=(EDGE,) * 3):
    return np.exp(2j * np.pi * random.random(shape))


def runs_with(wave, agreement, number, seed=0):
    """Runs with that modulus, whose phases agree at a share `agreement` of the voxels and are random at the others."""
    random = np.random.default_rng(seed)
    return [
        object_of(np.where(random.random(wave.shape) < agreement, wave, np.abs(wave) * random_phases(random)))
        for _ in range(number)
    ]


@pytest.fixture(scope="module")
def wave():
    """The wave of a speckle pattern that falls off with |q|."""
    return 100 * random_phases(np.random.default_rng(9)) * np.exp(-frequencies())


def everywhere(wave):
    return np.abs(wave).astype(np.float32), np.ones(wave.shape, bool)


def test_runs_that_agree_have_1_at_every_frequency(wave):
    curve = prtf([object_of(wave)] * 3, *everywhere(wave))
    np.testing.assert_allclose(curve.value, 1, atol=1e-4)
    assert curve.resolution == pytest.approx(1 / curve.frequency[-1])
    assert math.log(curve.level) == pytest.approx(-1)


@pytest.mark.parametrize("number", [2, 3, 8])
def test_random_phases_have_0_for_however_few_runs(wave, number):
    curve = prtf(runs_with(wave, np.zeros(wave.shape), number), *everywhere(wave), shells=12)
    assert curve.value[3:].max() < 0.15
    assert curve.resolution > 1 / curve.frequency[3]


@pytest.mark.parametrize("number", [2, 5])
def test_a_gaussian_cut_has_the_resolution_of_its_width(wave, number):
    width = 0.4  # of Nyquist; a share g of agreeing phases gives a PRTF of g
    runs = runs_with(wave, np.exp(-0.5 * (frequencies() / width) ** 2), number)
    curve = prtf(runs, *everywhere(wave), shells=16)
    expected = np.exp(-0.5 * (curve.frequency / width) ** 2)
    np.testing.assert_allclose(curve.value[2:9], expected[2:9], atol=0.07)
    assert curve.resolution == pytest.approx(1 / (math.sqrt(2) * width), rel=0.06)


def test_many_runs_give_the_published_function(wave):
    agreement = np.where(frequencies() < 0.5, 0.9, 0.6)
    runs = runs_with(wave, agreement, 40)
    curve = prtf(runs, *everywhere(wave), shells=6)
    mean = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(np.mean(runs, axis=0))))
    shell = np.minimum((frequencies() * 6).astype(int), 6)
    published = [(np.abs(mean) / np.abs(wave))[shell == i].mean() for i in range(6)]
    np.testing.assert_allclose(curve.value[1:], published[1:], atol=0.04)


def test_a_sharp_end_of_the_agreement_is_the_resolution_in_nm(wave):
    runs = runs_with(wave, (frequencies() < 0.5).astype(float), 4)
    q = prtf(runs, *everywhere(wave), voxel_nm=6.0)
    assert q.per_nm
    assert q.frequency[-1] == pytest.approx(math.pi / 6, rel=0.05)
    assert q.resolution == pytest.approx(12, rel=0.05)
    assert resolution_nm(runs, *everywhere(wave), 6.0) == q.resolution
    edges = np.array([[0, 6, 0], [6, 0, 0], [0, 0, -6]])
    assert prtf(runs, *everywhere(wave), voxel_nm=edges).resolution == pytest.approx(12, rel=0.05)


def test_q_is_that_of_slanted_voxels_of_unequal_edges():
    edges = np.array([[4.0, 0, 0], [1.5, 6.0, 0], [0, 2.0, 9.0]])
    share = np.stack(np.meshgrid(*[(np.arange(EDGE) - EDGE // 2) / EDGE] * 3, indexing="ij"), -1)
    q = np.linalg.norm(2 * np.pi * np.linalg.solve(edges, share[..., None])[..., 0], axis=-1)
    limit = 0.25
    flat = 100 * random_phases(np.random.default_rng(1))
    curve = prtf(runs_with(flat, (q < limit).astype(float), 4), *everywhere(flat), voxel_nm=edges, shells=40)
    assert curve.resolution == pytest.approx(math.pi / limit, rel=0.06)


def test_the_peak_is_where_q_is_0(wave):
    agreement = np.roll(frequencies() < 0.4, (5, -4, 3), (0, 1, 2)).astype(float)
    flat = 100 * random_phases(np.random.default_rng(1))
    runs = runs_with(flat, agreement, 3)
    peak = (EDGE // 2 + 5, EDGE // 2 - 4, EDGE // 2 + 3)
    assert prtf(runs, *everywhere(flat), peak=peak).resolution == pytest.approx(2.5, rel=0.05)


def test_photon_noise_and_masked_voxels_do_not_move_the_function(wave):
    faint = wave * 0.01  # less than one photon per voxel
    random = np.random.default_rng(4)
    counts = random.poisson(np.abs(faint) ** 2).astype(np.float32)
    valid = random.random(counts.shape) > 0.3
    amplitude = np.where(valid, np.sqrt(counts), np.nan).astype(np.float32)
    curve = prtf([object_of(faint)] * 2, amplitude, valid, shells=8)
    np.testing.assert_allclose(curve.value[1:], 1, atol=0.15)


def test_aligned_runs_agree_to_the_last_shell(crystals):
    density, _ = crystals.faceted(32, radius=7.0)
    density = (1e3 * density).astype(np.complex64)
    copies = [density, np.roll(density, (2, -3, 1), (0, 1, 2)), np.conj(density[::-1, ::-1, ::-1])]
    amplitude = np.abs(crystals.wave_of(density)).astype(np.float32)
    valid = np.ones(amplitude.shape, bool)
    assert prtf(copies, amplitude, valid).value.min() < 0.5
    assert prtf(aligned(copies), amplitude, valid).value.min() > 0.95


def intensity(wave):
    return (np.abs(wave) ** 2).astype(np.float32)


def test_one_run_foretells_the_free_voxels_as_far_as_it_is_right():
    random = np.random.default_rng(8)
    ball = frequencies() * EDGE / 2 < 7
    true, other = (np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(ball * random_phases(random)))) for _ in range(2))
    counts = random.poisson(np.abs(true) ** 2).astype(np.float32)
    amplitude, valid = np.sqrt(counts), np.ones(counts.shape, bool)
    free = free_voxels(valid, 0.15, 2)
    whole = free_detail(intensity(true), amplitude, valid, free)
    part = free_detail(intensity(np.where(frequencies() < 0.5, true, other)), amplitude, valid, free)
    wrong = free_detail(intensity(other), amplitude, valid, free)
    assert whole.value.min() > 0.95
    assert whole.resolution == pytest.approx(1 / whole.frequency[-1])
    assert part.resolution == pytest.approx(2, rel=0.1)
    assert wrong.value.max() < 0.3
    assert wrong.resolution == math.inf


def test_the_facets_streaks_alone_do_not_pass_for_a_resolution(crystals):
    density, _ = crystals.faceted(EDGE, radius=9.0, phase=1.5)
    scale = 1e3 / np.abs(crystals.wave_of(density)).max()
    true = crystals.wave_of(density) * scale
    counts = np.random.default_rng(0).poisson(np.abs(true) ** 2).astype(np.float32)
    valid = np.ones(counts.shape, bool)
    free = free_voxels(valid, 0.15, 2)
    wrong = [
        crystals.faceted(EDGE, radius=9.0, phase=1.5, seed=3)[0],
        np.abs(density) * np.exp(-2j * np.angle(density)),
    ]
    assert free_detail(intensity(true), np.sqrt(counts), valid, free).resolution < 1.3
    for each in wrong:
        found = free_detail(intensity(crystals.wave_of(each) * scale), np.sqrt(counts), valid, free)
        assert found.resolution > 3.5


def test_half_of_the_detail_is_foretold_where_the_noise_is_as_large_as_the_detail():
    random = np.random.default_rng(5)
    shape = (EDGE,) * 3
    detail, noise = random.standard_normal((2, *shape))
    amplitude = (50 + detail + noise).astype(np.float32)
    valid = np.ones(shape, bool)
    curve = free_detail(((50 + detail) ** 2).astype(np.float32), amplitude, valid, free_voxels(valid, 0.2), shells=6)
    np.testing.assert_allclose(curve.value[1:], 0.5, atol=0.05)


def test_detail_is_weighed_by_the_brightness_of_its_cluster_and_taken_about_its_mean():
    random = np.random.default_rng(7)
    amplitude = random.uniform(0, 1, (16, 16, 16)).astype(np.float32)
    clusters = (slice(9, 12), slice(9, 12), slice(9, 12)), (slice(4, 7), slice(9, 12), slice(5, 8))
    amplitude[clusters[1]] += 30
    calculated = np.square(amplitude + random.normal(0, 0.2, amplitude.shape)).astype(np.float32)
    free = np.zeros(amplitude.shape, bool)
    left = detail = 0.0
    for cluster in clusters:
        free[cluster] = True
        a, mean = amplitude[cluster].astype(float), amplitude[cluster].mean(dtype=float)
        left += np.sum((np.sqrt(calculated[cluster]) - a) ** 2) / (mean**2 + 1)
        detail += np.sum((a - mean) ** 2) / (mean**2 + 1)
    curve = free_detail(calculated, amplitude, np.ones(free.shape, bool), free, shells=1)
    assert curve.value == pytest.approx([1 - left / detail], rel=1e-5)


def test_only_free_voxels_count_and_of_these_only_the_measured(wave):
    random = np.random.default_rng(6)
    amplitude = (np.abs(wave) * random.uniform(0.5, 1.5, wave.shape)).astype(np.float32)
    valid = random.random(wave.shape) > 0.2
    free = free_voxels(np.ones(wave.shape, bool), 0.1)
    curve = free_detail(intensity(wave), amplitude, valid, free, shells=4)
    spoilt = np.where(free & valid, amplitude, np.nan).astype(np.float32)
    np.testing.assert_array_equal(free_detail(intensity(wave), spoilt, valid, free, shells=4).value, curve.value)


def test_free_voxels_by_ones_and_twos_are_too_few(wave):
    valid = np.ones(wave.shape, bool)
    free = np.zeros_like(valid)
    free[::3, ::3, ::3] = True
    with pytest.raises(PhasingError, match="free clusters"):
        free_detail(intensity(wave), np.abs(wave).astype(np.float32), valid, free)


def test_too_few_photons_end_the_resolution_of_a_single_run(crystals):
    density, _ = crystals.faceted(EDGE, radius=9.0, phase=1.5)
    true = crystals.wave_of(density)
    found = []
    for brightest in (1e6, 1e4, 1e2):
        scaled = true * np.sqrt(brightest) / np.abs(true).max()
        counts = np.random.default_rng(0).poisson(np.abs(scaled) ** 2).astype(np.float32)
        valid = np.ones(counts.shape, bool)
        free = free_voxels(valid, 0.1, 1)
        found.append(resolution_nm([object_of(scaled)], np.sqrt(counts), valid, 5.0, free=free))
    assert 5 <= found[0] < found[1] < found[2]


def test_a_single_run_without_free_voxels_has_no_resolution(wave):
    assert math.isnan(resolution_nm([object_of(wave)], *everywhere(wave), 5.0))
    with pytest.raises(PhasingError, match="two runs"):
        prtf([object_of(wave)], *everywhere(wave))


@pytest.mark.parametrize(
    ("value", "resolution"), [([0.9, 0.8, 0.7], 1.0), ([0.9, 0.5, 0.2], 100 / 81), ([0.2, 0.9, 0.9], math.inf)]
)
def test_the_resolution_is_where_the_level_is_crossed_first(value, resolution):
    level = 0.2 + 0.3 * (1 - 0.62)
    curve = Curve(frequency=np.array([0.2, 0.5, 1.0]), value=np.array(value), level=level, per_nm=False)
    assert curve.resolution == pytest.approx(resolution, rel=1e-6)


@pytest.mark.parametrize("voxel", [[1.0, 2.0], 0.0, math.nan, np.zeros((3, 3))])
def test_an_impossible_voxel_is_refused(wave, voxel):
    with pytest.raises(PhasingError, match="voxel"):
        prtf([object_of(wave)] * 2, *everywhere(wave), voxel_nm=voxel)


def test_unequal_shapes_are_refused(wave):
    with pytest.raises(PhasingError, match="shape"):
        prtf([object_of(wave), object_of(wave)[:-1]], *everywhere(wave))
