import numpy as np
import pytest

from braggd.phasing.align import accuracy, align, correlation, posed, twin_of


def soft_crystal(shape):
    """A band-limited one, so that it can be shifted by parts of a voxel."""
    z, y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij")
    modulus = np.exp(-((z / 4) ** 2) - (y / 5) ** 2 - (x / 3) ** 2) + 0.6 * np.exp(
        -(((z - 4) / 2) ** 2) - ((y - 3) / 2) ** 2 - ((x + 4) / 2) ** 2
    )
    return (modulus * np.exp(1j * (0.1 * z + 0.02 * y * x))).astype(np.complex64)


def moved(density, shift):
    wave = np.fft.fftn(density)
    for axis, s in enumerate(shift):
        ramp = np.exp(-2j * np.pi * s * np.fft.fftfreq(density.shape[axis]))
        wave = wave * np.expand_dims(ramp, tuple(a for a in range(3) if a != axis))
    return np.fft.ifftn(wave).astype(np.complex64)


@pytest.mark.parametrize("shape", [(32, 36, 40), (33, 31, 40)])
@pytest.mark.parametrize("shift", [(0, 0, 0), (3, -2, 5), (1.5, -2.3, 0.7)])
@pytest.mark.parametrize("twin", [False, True])
def test_trivial_symmetries_are_removed(shape, shift, twin):
    density = soft_crystal(shape)
    x = np.arange(shape[2])
    other = moved(density, shift) * np.exp(1j * (2.1 + 2 * np.pi * 1.3 * x / shape[2]))
    other = (twin_of(other) if twin else other).astype(np.complex64)
    found = align(density, other)
    assert found.twin is twin
    assert found.correlation > 0.999
    assert correlation(density, found.density) > 0.999
    assert accuracy(found.density, density) > 99


def test_the_twin_has_the_same_pattern_and_is_its_own_inverse(crystals):
    for shape in ((16, 16, 16), (15, 12, 9)):
        density = soft_crystal(shape)
        np.testing.assert_array_equal(twin_of(twin_of(density)), density)
        np.testing.assert_allclose(
            np.abs(crystals.wave_of(twin_of(density))), np.abs(crystals.wave_of(density)), atol=1e-3
        )


def test_every_symmetric_copy_gets_the_same_pose_and_keeps_its_pattern(crystals):
    density, support = crystals.faceted(32, radius=6.0)
    reference, reference_support = posed(density, support)
    for copy, inside in (
        (np.roll(density, (4, -9, 14), (0, 1, 2)) * np.exp(0.7j), np.roll(support, (4, -9, 14), (0, 1, 2))),
        (twin_of(density), twin_of(support.astype(np.complex64)).real > 0.5),
    ):
        found, found_support = posed(copy.astype(np.complex64), inside)
        best = align(reference, found)
        assert not best.twin
        assert best.correlation > 0.999
        assert found_support.sum() == reference_support.sum()
        assert abs(np.angle(found[found_support].sum())) < 1e-4
        np.testing.assert_allclose(np.abs(crystals.wave_of(found)), np.abs(crystals.wave_of(copy)), atol=1e-2)
        weight = np.abs(found)
        for axis in range(3):
            centre = np.sum(weight.sum(tuple(a for a in range(3) if a != axis)) * np.arange(32)) / weight.sum()
            assert abs(centre - 16) <= 1


def test_accuracy_is_the_mean_of_both_agreements(crystals):
    density, support = crystals.faceted(24, radius=6.0, phase=0.0)
    assert accuracy(density, density) == pytest.approx(100)
    inside = np.flatnonzero(support)
    half = density.copy()
    half.reshape(-1)[inside[: len(inside) // 2]] *= -1
    assert accuracy(half, density) == pytest.approx(50, abs=0.1)


def test_what_was_empty_stays_empty_between_the_voxels(crystals):
    density, support = crystals.faceted(24, radius=6.0, phase=1.0)
    wave = np.fft.fftn(density) * np.exp(-2j * np.pi * 0.5 * np.fft.fftfreq(24))
    reference = np.fft.ifftn(wave).astype(np.complex64)  # rings all over
    found = align(reference, np.roll(density, 3, 1))
    near = support | np.roll(support, 1, 2) | np.roll(support, -1, 2)
    assert not found.density[~near].any()
    assert accuracy(found.density, reference) > accuracy(np.roll(density, 1, 2), reference)
    assert found.correlation > 0.97
