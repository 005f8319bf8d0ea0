import numpy as np
import pytest
from scipy.ndimage import binary_erosion
from scipy.spatial.transform import Rotation

from braggd_models.errors import SimulationError
from braggd_models.simulate.atoms import (
    LATTICE,
    displaced,
    fcc_sites,
    reflection,
    sampling,
    scattered,
    surface_relaxation,
    to_voxels,
)
from braggd_models.simulate.pattern import object_of, propagate
from braggd_models.simulate.relax import energy, neighbours, potential, relaxed
from braggd_models.simulate.shapes import cube, voxelise, wulff
from braggd_models.simulate.strain import Gaussians

GOLD = LATTICE["Au"]
SHAPE = (40, 44, 48)


@pytest.fixture(scope="module")
def crystal():
    """Facets midway between two planes of atoms, so that the crystal is as large as its planes say."""
    spacings = {(1, 1, 1): GOLD / np.sqrt(3), (1, 0, 0): GOLD / 2}
    return wulff({(1, 1, 1): 20.5 * spacings[1, 1, 1], (1, 0, 0): 27.5 * spacings[1, 0, 0]}).scaled(
        27.5 * spacings[1, 0, 0]
    )


@pytest.fixture(scope="module")
def field():
    return Gaussians(
        heights=np.array([1.0, -0.7]),
        centres=np.array([[0.3, -0.2, 0.4], [-0.5, 0.4, 0.1]]),
        shapes=np.stack([np.diag([1.6, 2.0, 1.4]), np.diag([1.8, 1.3, 2.2])]),
    )


def test_a_lattice_has_four_atoms_per_cell(crystal):
    sites = fcc_sites(crystal, GOLD)
    assert len(sites) == pytest.approx(4 * crystal.volume() / GOLD**3, rel=0.01)
    assert crystal.inside(sites).all()
    pairs = neighbours(sites, GOLD)
    nearest = np.linalg.norm(sites[pairs[:, 0]] - sites[pairs[:, 1]], axis=1).min()
    assert nearest == pytest.approx(GOLD / np.sqrt(2))


def test_the_fast_sum_over_atoms_is_the_plain_one():
    rng = np.random.default_rng(0)
    for shape in ((24, 21, 30), (16, 16, 16)):
        small = cube().scaled(12.0)
        sites = fcc_sites(small, GOLD) + rng.normal(scale=0.05, size=3)
        basis = sampling(small, (3.0, 2.5, 4.0), Rotation.from_quat(rng.normal(size=4)))
        weights = rng.uniform(0.5, 1.5, len(sites))
        peak = reflection((1, 1, 1), GOLD)
        fast = scattered(sites, peak, basis, shape, weights=weights)
        plain = scattered(sites, peak, basis, shape, weights=weights, exact=True)
        z, y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij")
        q = peak + np.stack([z, y, x], -1) @ basis
        truth = np.exp(-1j * np.tensordot(q, sites.T, 1)) @ weights
        assert np.abs(plain - truth).max() < 1e-5 * np.abs(truth).max()
        assert np.abs(fast - truth).max() < 1e-5 * np.abs(truth).max()


@pytest.mark.parametrize("phase_range", [0.0, 6.0])
def test_atoms_and_voxels_scatter_alike(crystal, field, phase_range):
    sites, peak = fcc_sites(crystal, GOLD), reflection((1, 1, 1), GOLD)
    basis = sampling(crystal, 2.8, Rotation.from_euler("xyz", (20, -35, 50), degrees=True))
    half = sites.max(axis=0)
    raw = field(*(sites / half).T)
    truth = (raw - raw.mean()) * phase_range / np.ptp(raw)
    moved = displaced(sites, truth, peak)
    wave = scattered(moved, peak, basis, SHAPE)

    body = crystal.transformed(to_voxels(basis, SHAPE))
    low, high = body.extent()
    axes = [np.arange(np.floor(a) - 1, np.ceil(b) + 2, 1 / 3) for a, b in zip(low, high, strict=True)]
    voxels = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    places = voxels @ np.linalg.inv(to_voxels(basis, SHAPE)).T
    phase = (field(*np.moveaxis(places / half, -1, 0)) - raw.mean()) * phase_range / np.ptp(raw)
    expected = propagate(voxelise(body, axes) * np.exp(1j * phase), axes, SHAPE)

    one, other = np.abs(wave) ** 2, np.abs(expected) ** 2
    one, other = one * (1e5 / one.max()), other * (1e5 / other.max())
    assert np.corrcoef(np.log1p(one).ravel(), np.log1p(other).ravel())[0, 1] > 0.98

    # the object's phase is -q·u of the atoms that lie in the voxel
    assert np.allclose(truth, -((moved - sites) @ peak))
    density = object_of(wave)
    at = np.round(sites @ to_voxels(basis, SHAPE).T).astype(int) + np.array(SHAPE) // 2
    bulk = binary_erosion(np.abs(density) > 0.5 * np.abs(density).max(), iterations=3)[tuple(at.T)]
    difference = np.angle(density[tuple(at.T)] * np.exp(-1j * truth))[bulk]
    assert bulk.sum() > 1000
    assert np.sqrt(np.mean(difference**2)) < 0.02 + 0.03 * phase_range
    assert abs(np.mean(difference)) < 0.005 + 0.005 * phase_range


def test_the_object_counts_its_atoms(crystal):
    sites = fcc_sites(crystal, GOLD)
    wave = scattered(sites, reflection((2, 0, 0), GOLD), sampling(crystal, 3.0), SHAPE)
    density = object_of(wave)
    assert np.abs(wave[tuple(n // 2 for n in SHAPE)]) == pytest.approx(len(sites), rel=1e-5)
    assert density.sum().real == pytest.approx(len(sites), rel=1e-4)


def test_the_longest_axis_is_oversampled_as_asked():
    bar = cube().scaled((20, 30, 60))
    basis = sampling(bar, 3.0)
    wave = scattered(fcc_sites(bar, 2.0, (1, 1, 1)), np.zeros(3), basis, (8, 8, 60))
    line = np.abs(wave[4, 4])
    # a bar of n atoms has its zeros every `oversampling` voxels
    assert np.allclose(line[30 + 3 : 57 : 3], 0, atol=0.02 * line.max())


def test_facets_contract(crystal):
    sites = fcc_sites(crystal, GOLD)
    moved = surface_relaxation(sites, crystal, 0.1, 2.0)
    depth = crystal.depth(sites)
    inwards = -((moved - sites) * sites).sum(axis=1) / np.maximum(np.linalg.norm(sites, axis=1), 1)
    assert inwards[depth < 1.2].mean() > 0.03
    assert np.abs(moved - sites)[depth > 20].max() < 1e-3


@pytest.mark.parametrize(
    ("element", "cohesive"), [("Au", 3.81), ("Pt", 5.84), ("Ag", 2.95), ("Cu", 3.49), ("Ni", 4.44), ("Pd", 3.89)]
)
def test_the_bulk_is_at_rest_and_as_strongly_bound_as_measured(element, cohesive):
    """Cohesive energies: Kittel, Introduction to Solid State Physics, 8th ed., chapter 3, table 1."""
    law = potential(element)
    sites = fcc_sites(cube().scaled(3.2 * law.lattice), law.lattice)
    pairs = neighbours(sites, law.lattice)
    bulk = np.abs(sites).max(axis=1) < 1e-6
    assert np.bincount(pairs.ravel(), minlength=len(sites))[bulk].tolist() == [54]
    # what an atom of the bulk adds, of its own pairs a half
    distances = np.linalg.norm(sites[~bulk], axis=1)
    distances = distances[distances < 1.5 * law.lattice]

    def per_atom(stretch):
        ratio = law.lattice / (distances * stretch)
        repulsion, density = np.sum(ratio**law.repulsion), np.sum(ratio**law.attraction)
        return law.epsilon * (repulsion / 2 - law.binding * np.sqrt(density))

    assert -per_atom(1) == pytest.approx(cohesive, rel=0.02)
    assert (per_atom(1 + 1e-5) - per_atom(1 - 1e-5)) / 2e-5 == pytest.approx(0, abs=1e-6)
    # an infinite crystal of the published law binds with nearly the published constant
    published = {"Au": 34.408, "Pt": 34.408, "Ag": 144.41, "Cu": 39.432, "Ni": 39.432, "Pd": 108.27}[element]
    assert law.binding == pytest.approx(published, rel=0.03)
    _, gradient = energy(sites, law, pairs)
    assert np.abs(gradient[bulk]).max() < 1e-9


def test_forces_are_the_energy_s_slope():
    law = potential("Pt")
    rng = np.random.default_rng(2)
    sites = fcc_sites(cube().scaled(6.0), law.lattice)
    pairs = neighbours(sites, law.lattice)
    places = sites + rng.normal(scale=0.1, size=sites.shape)
    _, gradient = energy(places, law, pairs)
    direction = rng.normal(size=sites.shape)
    rise = energy(places + 1e-5 * direction, law, pairs)[0] - energy(places - 1e-5 * direction, law, pairs)[0]
    assert rise / 2e-5 == pytest.approx(np.sum(gradient * direction), rel=1e-6)


def test_relaxed_surfaces_contract_and_held_atoms_stay():
    crystal = wulff({(1, 1, 1): 1.0, (1, 0, 0): 1.15}).scaled(16.0)
    sites = fcc_sites(crystal, GOLD)
    held = sites[:, 0] < sites[:, 0].min() + 0.1
    moved = relaxed(sites, "Au", held=held, steps=30)
    law, pairs = potential("Au"), neighbours(sites, GOLD)
    assert energy(moved, law, pairs)[0] < energy(sites, law, pairs)[0]
    assert np.array_equal(moved[held], sites[held])
    # gold's surface atoms move inwards by a few percent of the spacing
    outer = (np.linalg.norm(sites, axis=1) > 0.85 * np.linalg.norm(sites, axis=1).max()) & ~held
    radial = ((moved - sites) * sites).sum(axis=1) / np.maximum(np.linalg.norm(sites, axis=1), 1)
    assert -0.6 < radial[outer].mean() < -0.01


def test_crystals_that_cannot_be_are_refused(crystal):
    with pytest.raises(SimulationError, match="forbidden"):
        reflection((1, 1, 0), GOLD)
    with pytest.raises(SimulationError, match="no atom"):
        fcc_sites(cube().scaled(0.5).shifted((1, 1, 1)), GOLD)
    with pytest.raises(SimulationError, match="field of view"):
        scattered(fcc_sites(crystal, GOLD), reflection((1, 1, 1), GOLD), sampling(crystal, 0.8), SHAPE)
    with pytest.raises(SimulationError, match="choose one of Ag"):
        potential("Fe")
