import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from braggd.phasing.align import accuracy
from braggd_models.errors import SimulationError
from braggd_models.simulate.dataset import PLAIN, REAL, Recipe, atomistic_crystal, crystals, numbered, random_crystal
from braggd_models.simulate.gaps import GAPS
from braggd_models.simulate.shapes import SHAPES
from braggd_models.simulate.strain import DISLOCATIONS, STRAINS

CUBE = {"crystal": "cube", "strain": "none", "rotate": False, "noise": False}


def test_a_seed_makes_the_same_scan_again_and_another_seed_does_not():
    one, same, other = (random_crystal(seed, REAL, shape=(32, 36, 40)) for seed in (5, 5, 6))
    for name in ("counts", "noiseless", "valid", "density", "support"):
        assert np.array_equal(getattr(one, name), getattr(same, name))
    assert one.parameters == same.parameters
    assert not np.array_equal(one.counts, other.counts)


def test_a_series_is_the_same_however_many_workers_make_it():
    shape = (24, 24, 24)
    alone = [scan.counts for scan in crystals(3, 4, shape=shape)]
    shared = [scan.counts for w in (0, 1) for scan in crystals(3, 2, start=w, step=2, shape=shape)]
    assert all(np.array_equal(a, b) for a, b in zip(alone, [shared[n] for n in (0, 2, 1, 3)], strict=True))
    assert np.array_equal(alone[3], numbered(3, 3, shape=shape).counts)


@pytest.mark.parametrize("shape", [(48, 48, 48), (36, 60, 48)])
@pytest.mark.parametrize("oversampling", [2, 3, 4])
@pytest.mark.parametrize("finer", [1, 3])
def test_fringes_are_as_wide_as_the_oversampling_asked_for(shape, oversampling, finer):
    scan = random_crystal(
        1, PLAIN, **CUBE, shape=shape, oversampling=(oversampling, oversampling), finer=finer, peak_counts=(1e6, 1e6)
    )
    for axis, size in enumerate(shape):
        line = np.moveaxis(scan.noiseless, axis, 0)[:, *(n // 2 for a, n in enumerate(shape) if a != axis)]
        zeros = line[size // 2 + oversampling :: oversampling]
        tops = line[size // 2 + oversampling + oversampling // 2 :: oversampling]
        assert zeros.max() < 1.0
        assert tops[:4].min() > 100
    assert scan.noiseless.max() == scan.noiseless[tuple(n // 2 for n in shape)]


def test_the_crystal_lies_in_the_middle_and_an_unstrained_pattern_is_symmetric():
    scan = random_crystal(4, PLAIN, crystal="random", strain="none", noise=False, shape=(32, 36, 40))
    places = np.argwhere(scan.support)
    assert np.allclose(places.mean(axis=0), [16, 18, 20], atol=0.5)
    inner = scan.noiseless[1:, 1:, 1:]
    assert np.allclose(inner, inner[::-1, ::-1, ::-1], rtol=1e-3, atol=1e-5 * inner.max())


def test_sub_voxel_shifts_move_the_crystal_by_as_much():
    for seed in range(5):
        scan = random_crystal(seed, PLAIN, strain="none", oversampling=(3, 3), shift=0.5)
        weight = np.abs(scan.density) * scan.support
        middle = [np.sum(np.arange(64) * weight.sum(axis=tuple({0, 1, 2} - {a}))) / weight.sum() for a in range(3)]
        assert np.allclose(np.array(middle) - 32, scan.parameters["shift"], atol=0.05)


@pytest.mark.parametrize("kind", STRAINS)
@pytest.mark.parametrize("finer", [1, 2])
def test_the_truth_has_the_phase_asked_for(kind, finer):
    scan = random_crystal(2, PLAIN, strain=kind, phase_range=(5.0, 5.0), finer=finer, oversampling=(2, 2))
    expected = 0.0 if kind == "none" else 5.0
    if kind in DISLOCATIONS:
        assert scan.parameters["phase_range"] > 5.0
    else:
        assert scan.parameters["phase_range"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    if kind not in ("surface", *DISLOCATIONS):
        # as seen on the voxels: the narrow extremes may lie between them
        turned = scan.density * np.exp(-1j * np.angle(scan.density[scan.support].sum()))
        inside = scan.support & (np.abs(turned) > 0.6 * np.abs(turned).max())
        seen = np.ptp(np.angle(turned[inside])) if expected < 6 else expected
        assert seen <= 2 * np.pi
        if kind == "none":
            assert seen < 0.2


def test_the_support_is_where_the_truth_is():
    for seed in range(5):
        scan = random_crystal(seed, shape=(48, 48, 48), rough=0.0, edge=0.0)
        modulus = np.abs(scan.density)
        assert np.mean(modulus[scan.support]) > 8 * np.mean(modulus[~scan.support])
        assert np.allclose(np.abs(scan.wave) ** 2, scan.noiseless, rtol=1e-3, atol=1e-4 * scan.noiseless.max())


def test_parameters_are_drawn_from_their_ranges():
    recipe = Recipe(shape=(24, 24, 24), oversampling=(2, 3), phase_range=(1, 4), peak_counts=(1e3, 1e4))
    scans = list(crystals(0, 40, recipe))
    assert {scan.parameters["crystal"] for scan in scans} == set(SHAPES)
    assert {scan.parameters["strain"] for scan in scans} == set(STRAINS) - set(DISLOCATIONS)
    tightest = np.array([min(scan.parameters["oversampling"]) for scan in scans])
    assert tightest.min() >= 2 - 1e-6
    assert tightest.max() <= 3 + 1e-6
    assert all(1e3 <= scan.parameters["peak_counts"] <= 1e4 for scan in scans)
    ranges = [scan.parameters["phase_range"] for scan in scans if scan.parameters["strain"] != "none"]
    assert min(ranges) >= 1 - 1e-4
    assert max(ranges) <= 4 + 1e-4


def test_scans_with_everything_are_whole():
    seen = set()
    for scan in crystals(7, 30, REAL, shape=(40, 48, 56)):
        seen.add(scan.parameters["gap"])
        assert scan.counts.shape == scan.valid.shape == scan.support.shape == (40, 48, 56)
        assert np.isfinite(scan.counts).all()
        assert (scan.counts >= 0).all()
        assert not scan.counts[~scan.valid].any()
        assert np.isfinite(scan.density).all()
        assert scan.noiseless.min() >= 0
    assert seen == set(GAPS)


def test_gaps_lie_where_the_peak_is():
    for seed in range(8):
        scan = random_crystal(
            seed, keep_slope=True, strain="cosines", gap="stripe", gap_width=(3, 6), gap_distance=(0, 0)
        )
        _, row, column = np.unravel_index(int(np.argmax(np.abs(scan.wave))), scan.wave.shape)
        assert not scan.valid[:, row, column].any()


def test_heavily_oversampled_scans_of_unequal_axes():
    """As the measured scan: a crystal of about 16 x 35 x 50 voxels in 200 x 256 x 256."""
    scan = random_crystal(
        0, PLAIN, shape=(104, 128, 128), crystal="cube", rotate=False, stretch=(0.4, 0.7, 1.0), oversampling=(5, 5)
    )
    assert np.allclose(scan.parameters["oversampling"], (12.5, 50 / 7, 5))
    assert scan.support.sum() == pytest.approx(8.32 * 17.92 * 25.6, rel=0.15)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_seed_gives_the_same_crystal_in_atoms_and_in_voxels(seed):
    recipe = dataclasses.replace(
        REAL,
        shape=(40, 48, 44),
        finer=3,
        binary=0.0,
        edge=0.0,
        rough=0.0,
        strain="gaussians",
        phase_range=(4.0, 4.0),
        crystal=("wulff", "random"),
        peak_counts=(1e5, 1e5),
    )
    voxels = random_crystal(seed, recipe)
    atomic = atomistic_crystal(seed, recipe, size=60_000, relaxation="none")
    assert np.mean(voxels.support == atomic.support) > 0.999
    assert voxels.parameters["off_peak"] == atomic.parameters["off_peak"]
    overlap = np.vdot(voxels.density, atomic.density)
    assert abs(overlap) > 0.99 * np.linalg.norm(voxels.density) * np.linalg.norm(atomic.density)
    assert accuracy(atomic.density * np.exp(-1j * np.angle(overlap)), voxels.density) > 97
    near = voxels.noiseless > 1
    logs = [np.log(scan.noiseless[near]) for scan in (voxels, atomic)]
    assert np.corrcoef(logs)[0, 1] > 0.98


def test_binary_voxels_are_full_or_empty():
    scan = random_crystal(3, PLAIN, binary=1.0, strain="none", noise=False)
    modulus = np.abs(scan.density) / np.abs(scan.density).max()
    assert np.allclose(modulus[scan.support], 1, atol=1e-4)
    assert np.allclose(modulus[~scan.support], 0, atol=1e-4)


def test_relaxation_moves_the_surface_only():
    plain, moved = (
        atomistic_crystal(1, PLAIN, size=20_000, relaxation=kind, noise=False, strain="none", shape=(40, 40, 40))
        for kind in ("none", "surface")
    )
    inside = np.abs(plain.density) > 0.5 * np.abs(plain.density).max()
    difference = np.abs(np.angle(moved.density * np.conj(plain.density)))
    deep = ndimage.binary_erosion(inside, iterations=4)
    assert deep.any()
    assert difference[deep].mean() < 0.3 * difference[inside & ~deep].mean()
    least = atomistic_crystal(1, PLAIN, size=2000, relaxation="energy", noise=False, shape=(24, 24, 24))
    assert least.parameters["relaxation"] == "energy"
    assert np.isfinite(least.counts).all()
    with pytest.raises(SimulationError, match="choose one of none, surface"):
        atomistic_crystal(1, PLAIN, relaxation="hot", size=2000)


def test_recipes_that_cannot_be_are_refused():
    with pytest.raises(SimulationError, match="no such field"):
        random_crystal(0, colour="red")
    with pytest.raises(SimulationError, match="no room"):
        random_crystal(0, oversampling=(0.5, 2))
    with pytest.raises(SimulationError, match="too small"):
        random_crystal(0, shape=(4, 4, 4))
    with pytest.raises(SimulationError, match="smaller than a voxel"):
        random_crystal(0, oversampling=(5000, 5000), finer=1)
