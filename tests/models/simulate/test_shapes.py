import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from braggd_models.errors import SimulationError
from braggd_models.simulate.shapes import (
    SHAPES,
    Polyhedron,
    cube,
    family,
    octahedron,
    random_convex,
    random_shape,
    tetrahexahedron,
    voxelise,
    winterbottom,
    wulff,
)


def thh_volume():
    """A cube of edge 2t with a square pyramid on each face; all facets {210} at distance 1."""
    t, apex = np.sqrt(5) / 3, np.sqrt(5) / 2
    return (2 * t) ** 3 + 6 * (2 * t) ** 2 * (apex - t) / 3


@pytest.mark.parametrize(
    ("crystal", "volume"),
    [(cube(), 8.0), (octahedron(), 4 * np.sqrt(3)), (tetrahexahedron(), thh_volume())],
)
def test_crystals_have_the_volume_of_geometry(crystal, volume):
    assert crystal.volume() == pytest.approx(volume, rel=1e-9)
    assert np.allclose(crystal.centroid(), 0, atol=1e-9)


@pytest.mark.parametrize(("indices", "count"), [((1, 0, 0), 6), ((1, 1, 1), 8), ((1, 1, 0), 12), ((3, 2, 1), 48)])
def test_a_family_holds_all_equivalent_facets(indices, count):
    normals = family(indices)
    assert len(np.unique(normals.round(9), axis=0)) == count
    assert np.allclose(np.linalg.norm(normals, axis=1), 1)


def test_wulff_facets_vanish_where_their_energy_is_high():
    # {100} is cut away by {111} only where its distance exceeds that of the octahedron's corner, sqrt(3)
    assert len(wulff({(1, 1, 1): 1.0, (1, 0, 0): 1.2}).normals) == 14
    assert len(wulff({(1, 1, 1): 1.0, (1, 0, 0): 1.8}).normals) == 8


def test_a_substrate_through_the_middle_leaves_half_of_the_crystal():
    energies = {(1, 1, 1): 1.0, (1, 0, 0): 1.1}
    whole, half = wulff(energies), winterbottom(energies, (1, 1, 1), 0.0)
    assert half.volume() == pytest.approx(whole.volume() / 2, rel=1e-9)
    low = winterbottom(energies, (1, 1, 1), -0.5)
    assert (low.corners() @ (np.ones(3) / np.sqrt(3))).max() < -0.4


def test_points_turn_and_stretch_with_the_crystal():
    rng = np.random.default_rng(1)
    crystal, points = random_convex(rng), rng.uniform(-1.5, 1.5, (2000, 3))
    inside = crystal.inside(points)
    turn = Rotation.from_quat(rng.normal(size=4))
    turned_points = turn.apply(points[:, ::-1])[:, ::-1]
    assert 0.05 < inside.mean() < 0.95
    assert np.array_equal(crystal.rotated(turn).inside(turned_points), inside)
    assert np.array_equal(crystal.scaled((2, 0.5, 3)).inside(points * (2, 0.5, 3)), inside)
    assert np.array_equal(crystal.shifted((1, 2, 3)).inside(points + np.array([1, 2, 3])), inside)
    assert np.array_equal(crystal.depth(points) >= 0, inside)


def test_volume_and_centroid_agree_with_counted_points():
    rng = np.random.default_rng(2)
    crystal = random_convex(rng, 14)
    low, high = crystal.extent()
    points = rng.uniform(low, high, (200_000, 3))
    inside = crystal.inside(points)
    assert crystal.volume() == pytest.approx(inside.mean() * np.prod(high - low), rel=0.01)
    assert np.allclose(crystal.centroid(), points[inside].mean(axis=0), atol=0.01)
    assert crystal.bounding_radius() >= np.linalg.norm(points[inside], axis=1).max()


def test_voxels_of_an_aligned_box_are_exact():
    box = cube().scaled((2.75, 3.5, 4.1)).shifted((0.2, -0.3, 0.45))
    axis = np.arange(-8, 9)
    share = voxelise(box, [axis] * 3)

    def overlap(half, shift):
        return np.clip(np.minimum(axis + 0.5, shift + half) - np.maximum(axis - 0.5, shift - half), 0, 1)

    truth = overlap(2.75, 0.2)[:, None, None] * overlap(3.5, -0.3)[:, None] * overlap(4.1, 0.45)
    assert np.allclose(voxelise(box, [axis] * 3, supersample=20), truth, atol=0.06)
    # on an edge two facets share a voxel; elsewhere the fast way is exact too
    cut = [overlap(half, shift) < 1 for half, shift in ((2.75, 0.2), (3.5, -0.3), (4.1, 0.45))]
    plain = np.stack(np.meshgrid(*cut, indexing="ij")).sum(axis=0) < 2
    assert np.allclose(share[plain], truth[plain], atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_voxels_hold_the_crystal_s_volume_and_middle(seed):
    rng = np.random.default_rng(seed)
    shift = rng.uniform(-0.5, 0.5, 3)
    crystal = random_convex(rng, 20).centred().scaled(9.0).shifted(shift)
    axes = [np.arange(-24, 25)] * 3
    fast, counted = voxelise(crystal, axes), voxelise(crystal, axes, supersample=4)
    assert fast.sum() == pytest.approx(crystal.volume(), rel=0.02)
    assert counted.sum() == pytest.approx(crystal.volume(), rel=0.002)
    places = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
    assert np.allclose(np.tensordot(fast, places, 3) / fast.sum(), shift, atol=0.03)


@pytest.mark.parametrize("kind", SHAPES)
def test_every_kind_of_crystal_closes(kind):
    for seed in range(10):
        crystal = random_shape(kind, np.random.default_rng(seed))
        low, high = crystal.extent()
        assert 0 < crystal.volume() < np.prod(high - low) * (1 + 1e-9)


def test_open_or_empty_crystals_are_refused():
    with pytest.raises(SimulationError, match="do not close"):
        Polyhedron(np.eye(3), np.ones(3)).volume()
    with pytest.raises(SimulationError, match="enclose nothing"):
        Polyhedron(np.array([[1.0, 0, 0], [-1, 0, 0]]), np.array([-1.0, -1.0])).volume()
    with pytest.raises(SimulationError, match="choose one of wulff"):
        random_shape("sphere", np.random.default_rng(0))
