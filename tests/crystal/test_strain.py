import numpy as np
import pytest
from scipy import ndimage

from braggd.crystal.geometry import direct_basis, reciprocal_basis, scattering_vector
from braggd.crystal.strain import crystal_from, strain_rms, unwrapped, without_ramp
from braggd.data import Geometry
from braggd.errors import GeometryError

SHAPE = (40, 44, 48)


@pytest.fixture(scope="module")
def geometry():
    """34-ID-C, with a detector so near that a voxel is 1.5 nm and atoms can be counted."""
    return Geometry(
        diffractometer="aps-34idc",
        energy_kev=9.0,
        distance_m=0.03,
        pixel_size_m=(55e-6, 55e-6),
        angles_deg={"delta": 32.174, "gamma": 12.6346},
        rocking_motor="theta",
        rocking_deg=tuple(0.24 * n for n in range(SHAPE[0])),
    )


@pytest.fixture(scope="module")
def atoms(geometry):
    """A block of atoms on planes one d-spacing apart, (n, 3) Å in the laboratory's (x, y, z); longest along x.

    The planes' normal is the scattering vector, so every atom scatters in phase before it is displaced.
    """
    q = scattering_vector(geometry)
    normal = q / np.linalg.norm(q)
    across = np.cross(normal, [0.0, 1.0, 0.0])
    across /= np.linalg.norm(across)
    spacings = (2 * np.pi / np.linalg.norm(q), 13.0, 13.0)
    counts = [np.arange(-int(160 / s), int(160 / s) + 1) * s for s in spacings]
    frame = np.stack([normal, across, np.cross(normal, across)])
    sites = np.stack(np.meshgrid(*counts, indexing="ij"), -1).reshape(-1, 3) @ frame
    return sites[(np.abs(sites) < [140, 80, 110]).all(axis=1)]


def bump(places):
    """Displacement along q in Å, and its gradient, at places in Å (x, y, z)."""
    from_centre = places - [20.0, -10.0, 15.0]
    width = 60.0
    height = 2.5 * np.exp(-0.5 * (from_centre**2).sum(-1) / width**2)
    return height, -from_centre / width**2 * height[..., None]


def scattered(atoms, displacement, geometry):
    """Sum over atoms of exp(-i q·(R + u)) at every voxel of the scan; the FFT of the object by definition."""
    q = scattering_vector(geometry)
    normal = q / np.linalg.norm(q)
    moved = atoms + displacement[:, None] * normal
    axes = [
        np.exp(-1j * np.outer(np.arange(n) - n // 2, moved @ b)).astype(np.complex64)
        for n, b in zip(SHAPE, reciprocal_basis(geometry), strict=True)
    ]
    weight = np.exp(-1j * (moved @ q)).astype(np.complex64)
    wave = np.stack([(axes[1] * (first * weight)) @ axes[2].T for first in axes[0]])
    return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(wave)))


@pytest.fixture(scope="module")
def crystal(atoms, geometry):
    density = scattered(atoms, bump(atoms)[0], geometry).astype(np.complex64)
    return crystal_from(density, _solid(density), geometry)


def test_atoms_moved_along_q_show_their_displacement_in_angstrom(crystal):
    bulk = ndimage.binary_erosion(crystal.support, iterations=2)
    truth, _ = bump(_places(crystal))
    q = np.linalg.norm(crystal.q_centre)
    # The mean gradient is taken off by design: compare up to a plane.
    design = np.column_stack([_places(crystal)[bulk], np.ones(bulk.sum())])
    rest = truth[bulk] - crystal.displacement[bulk]
    rest -= design @ np.linalg.lstsq(design, rest, rcond=None)[0]
    assert np.ptp(truth[bulk]) * q > 5.0  # rad: the phase has to be unwrapped
    assert np.sqrt(np.mean(rest**2)) < 0.03 * np.ptp(truth[bulk])


def test_strain_is_the_displacement_s_derivative_along_q(crystal):
    bulk = ndimage.binary_erosion(crystal.support, iterations=2)
    normal = np.array(crystal.q_centre) / np.linalg.norm(crystal.q_centre)
    truth = bump(_places(crystal))[1] @ normal
    error = crystal.strain[bulk] - (truth[bulk] - truth[bulk].mean())
    assert np.std(truth[bulk]) > 0.005
    assert np.sqrt(np.mean((error - error.mean()) ** 2)) < 0.08 * np.std(truth[bulk])
    once = ndimage.binary_erosion(crystal.support)
    assert strain_rms(crystal) == pytest.approx(np.std(bump(_places(crystal))[1][once] @ normal), rel=0.1)


def test_planes_pushed_apart_are_positive_strain(atoms, geometry):
    normal = scattering_vector(geometry) / np.linalg.norm(scattering_vector(geometry))
    along = atoms @ normal
    upper_half_expanded = np.where(along > 0, 0.01 * along, 0.0)
    density = scattered(atoms, upper_half_expanded, geometry).astype(np.complex64)
    found = crystal_from(density, _solid(density), geometry)
    bulk = ndimage.binary_erosion(found.support, iterations=2)
    height = _places(found) @ normal
    above = found.strain[bulk & (height > 25)].mean()
    below = found.strain[bulk & (height < -25)].mean()
    assert above - below == pytest.approx(0.01, rel=0.1)


def test_block_keeps_its_edges_in_the_laboratory(crystal):
    # Halved intensity at the faces: count the voxels along each direction through the middle.
    for axis, edge_angstrom in ((2, 280), (1, 160), (0, 220)):
        others = tuple(a for a in range(3) if a != axis)
        profile = crystal.support.sum(axis=axis)
        middle = profile[tuple(slice(n // 2 - 3, n // 2 + 3) for n in profile.shape)]
        assert len(others) == 2
        assert np.median(middle) * crystal.voxel_size_nm * 10 == pytest.approx(edge_angstrom, abs=25)


def test_perfect_crystal_off_the_array_s_centre_has_no_strain(atoms, geometry):
    density = scattered(atoms, np.zeros(len(atoms)), geometry)
    ramp = np.exp(1j * np.einsum("i,ijkl->jkl", [0.4, -0.7, 0.9], np.indices(SHAPE)))
    density = np.roll(density * ramp, (2, -3, 1), (0, 1, 2)).astype(np.complex64)
    found = crystal_from(density, _solid(density), geometry)
    assert strain_rms(found) < 2e-4
    assert np.abs(found.phase).max() < 0.15
    assert abs(found.phase[found.support].mean()) < 1e-5
    assert abs(found.strain[found.support].mean()) < 1e-6


def test_grid_is_a_cube_of_voxels_as_fine_as_the_finest_edge(crystal, geometry):
    assert len(set(crystal.modulus.shape)) == 1
    assert crystal.voxel_size_nm == pytest.approx(np.linalg.norm(direct_basis(geometry, SHAPE), axis=1).min())
    assert crystal.modulus.max() == 1
    for field in (crystal.phase, crystal.displacement, crystal.strain):
        assert field.dtype == np.float32
        assert np.isfinite(field).all()
        assert not field[~crystal.support].any()


def test_unwrapping_follows_many_turns_and_puts_separate_parts_next_to_each_other():
    z, y, x = np.indices((24, 20, 40))
    truth = 0.9 * (x - 20.0) + 0.02 * (y - 10.0) ** 2 * np.cos(z / 6)
    support = (np.abs(x - 20) < 14) & (np.abs(y - 10) < 8) & (np.abs(z - 12) < 10)
    found = unwrapped(np.exp(1j * truth).astype(np.complex64), support)
    np.testing.assert_allclose(found[support], (truth - truth[support].mean())[support], atol=1e-4)

    island = support & (x != 20)
    parts = unwrapped(np.exp(0.3j * (x - 20.0)).astype(np.complex64), island)
    left, right = parts[island & (x < 20)].mean(), parts[island & (x > 20)].mean()
    assert abs(left - right) <= np.pi + 1e-6


def test_ramp_is_removed_whatever_its_slope():
    support = np.zeros((16, 18, 20), bool)
    support[4:12, 5:13, 6:15] = True
    ramp = np.einsum("i,ijkl->jkl", [2.9, -3.0, 0.01], np.indices(support.shape)) + 1.0
    flat = without_ramp((support * np.exp(1j * ramp)).astype(np.complex64), support)
    np.testing.assert_allclose(np.angle(flat[support]), 0, atol=1e-4)


def test_empty_support_is_refused(geometry):
    with pytest.raises(GeometryError, match="support is empty"):
        crystal_from(np.ones(SHAPE, np.complex64), np.zeros(SHAPE, bool), geometry)
    with pytest.raises(GeometryError, match="support is empty"):
        crystal_from(np.zeros(SHAPE, np.complex64), np.ones(SHAPE, bool), geometry)


def test_lone_voxel_is_a_crystal_too(geometry):
    support = np.zeros(SHAPE, bool)
    support[20, 22, 24] = True
    found = crystal_from(support.astype(np.complex64), support, geometry)
    assert np.isfinite(found.strain).all()
    assert np.isfinite(strain_rms(found))


def _solid(density):
    modulus = np.abs(density)
    parts, _ = ndimage.label(modulus > 0.5 * np.percentile(modulus, 99))
    return ndimage.binary_fill_holes(parts == np.argmax(np.bincount(parts.ravel())[1:]) + 1)


def _places(crystal):
    """Å from the crystal's centre, (..., 3) as (x, y, z)."""
    centre = np.array(ndimage.center_of_mass(crystal.support))
    grid = np.moveaxis(np.indices(crystal.support.shape), 0, -1) - centre
    return grid[..., ::-1] * crystal.voxel_size_nm * 10
