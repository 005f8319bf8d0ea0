import numpy as np
import pytest

from braggd.errors import PhasingError
from braggd.phasing.align import accuracy, twin_of
from braggd.phasing.modes import aligned, decompose

SHAPE = (32, 30, 36)


def soft_crystal(seed=0, shape=SHAPE):
    """Band-limited and without any symmetry, so that it can be shifted by parts of a voxel."""
    random = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij")
    modulus = np.exp(-((z / 4) ** 2) - (y / 5) ** 2 - (x / 4) ** 2) + 0.6 * np.exp(
        -(((z - 4) / 2.5) ** 2) - ((y - 3) / 2.5) ** 2 - ((x + 4) / 2.5) ** 2
    )
    a, b, c = random.uniform(-1, 1, 3)
    bump = np.exp(-(((z - 3 * a) / 4) ** 2) - ((y - 3 * b) / 4) ** 2 - ((x - 3 * c) / 4) ** 2)
    return (modulus * np.exp(1.5j * bump)).astype(np.complex64)


def moved(density, shift, ramp=0.0):
    wave = np.fft.fftn(density)
    for axis, s in enumerate(shift):
        slope = np.exp(-2j * np.pi * s * np.fft.fftfreq(density.shape[axis]))
        wave = wave * np.expand_dims(slope, tuple(a for a in range(3) if a != axis))
    return (np.fft.ifftn(wave) * np.exp(2j * np.pi * ramp * np.arange(density.shape[2]) / density.shape[2])).astype(
        np.complex64
    )


def norm(density):
    return float(np.sum(np.abs(density.astype(np.complex128)) ** 2))


def orthogonal_pair(shape=SHAPE):
    """Two objects of norm 1 and a scalar product of 0."""
    one, two = soft_crystal(0, shape).astype(complex), soft_crystal(7, shape).astype(complex)
    two = two - one * (np.vdot(one, two) / np.vdot(one, one))
    return one / np.sqrt(norm(one)), two / np.sqrt(norm(two))


def overlap(one, other):
    return abs(np.vdot(one, other)) / np.sqrt(norm(one) * norm(other))


def test_two_known_modes_are_found_again_with_their_weights():
    one, two = orthogonal_pair()
    # orthogonal mixing coefficients over the four runs, so that the modes are the singular vectors
    runs = [(3 * one + s * two).astype(np.complex64) for s in (1, -1, 1j, -1j)]
    modes = decompose(runs, None)
    assert modes.weights == pytest.approx((0.9, 0.1, 0, 0), abs=1e-6)
    assert overlap(modes.densities[0], one) == pytest.approx(1, abs=1e-5)
    assert overlap(modes.densities[1], two) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(modes.densities[0], 3 * one, atol=1e-5)


def test_modes_are_those_of_the_singular_value_decomposition():
    random = np.random.default_rng(0)
    runs = [soft_crystal(0) + 0.3 * random.uniform() * soft_crystal(seed) for seed in range(1, 5)]
    modes = decompose([run.astype(np.complex64) for run in runs], None)
    _, singular, vectors = np.linalg.svd(np.stack(runs).reshape(4, -1).astype(complex), full_matrices=False)
    assert modes.weights == pytest.approx(singular**2 / np.sum(singular**2), abs=1e-6)
    for found, true in zip(modes.densities[:2], vectors, strict=False):
        assert overlap(found, true.reshape(SHAPE)) == pytest.approx(1, abs=1e-4)


def test_modes_are_orthogonal_and_hold_the_mean_intensity_of_the_runs():
    runs = [soft_crystal(seed) for seed in range(4)]
    modes = decompose(runs)
    for i, one in enumerate(modes.densities):
        assert norm(one) == pytest.approx(modes.weights[i] * sum(map(norm, modes.densities)), rel=1e-4)
        for other in modes.densities[i + 1 :]:
            assert abs(np.vdot(one, other)) < 1e-4 * norm(modes.densities[0])
    over = aligned(runs)
    mean = np.mean([np.abs(run) ** 2 for run in over], axis=0)
    np.testing.assert_allclose(sum(np.abs(mode) ** 2 for mode in modes.densities), mean, atol=1e-5)


def test_runs_that_differ_by_trivial_symmetries_are_one_mode_on_its_own_scale():
    density = 700 * soft_crystal()
    runs = [
        density,
        moved(density, (1.5, -2.3, 0.7)),
        (twin_of(density) * np.exp(2.1j)).astype(np.complex64),
        moved(twin_of(density), (-3, 0.4, 2), ramp=1.3),
    ]
    modes = decompose(runs)
    assert modes.weights[0] > 0.999
    assert accuracy(modes.densities[0], density) > 99.8
    np.testing.assert_allclose(modes.densities[0], density, atol=0.02 * 700)
    assert decompose(runs, 2).weights[0] > 0.999


def test_the_reference_stays_and_the_order_too():
    runs = [moved(soft_crystal(), (0, i, 0)) for i in range(3)]
    over = aligned(runs, 1)
    assert over[1] is runs[1]
    for run in over:
        assert overlap(run, runs[1]) > 0.999


def test_merging_takes_off_the_noise_of_the_single_runs():
    random = np.random.default_rng(3)
    density = soft_crystal()
    noise = 0.1 * (random.standard_normal((6, *SHAPE)) + 1j * random.standard_normal((6, *SHAPE)))
    runs = [(density + each).astype(np.complex64) for each in noise]
    merged = decompose(runs, None).densities[0]
    left, single = norm(merged * np.vdot(merged, density) / norm(merged) - density), norm(runs[0] - density)
    assert left < 0.25 * single


def test_a_single_run_is_its_own_mode():
    density = soft_crystal()
    modes = decompose([density])
    assert modes.weights == (1.0,)
    np.testing.assert_allclose(modes.densities[0], density, atol=1e-6)


@pytest.mark.parametrize(
    ("runs", "reference"),
    [
        ([], 0),
        ([np.ones((8, 8, 8), np.complex64), np.ones((8, 8, 9), np.complex64)], 0),
        ([np.ones((8, 8, 8), np.complex64)], 1),
        ([np.zeros((8, 8, 8), np.complex64)], None),
        ([np.full((8, 8, 8), np.nan, np.complex64)], None),
    ],
)
def test_what_cannot_be_merged_is_refused(runs, reference):
    with pytest.raises(PhasingError):
        decompose(runs, reference)
