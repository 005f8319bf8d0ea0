from pathlib import Path

import h5py
import numpy as np
import pytest
from scipy import ndimage

import braggd
from braggd.crystal.geometry import DIFFRACTOMETERS, direct_basis, missing, reciprocal_basis, scattering_vector
from braggd.data import Geometry
from braggd.errors import GeometryError

GOLD_111_ANGSTROM = 4.0782 / np.sqrt(3)

# Made once with xrayutilities 1.8.0 (QConversion.area on a 3 x 3 pixel detector and three steps, central differences,
# brought into the laboratory with transformSample2Lab); its own axes, angles and pixel directions, no code in common.
XRAYUTILITIES = {
    "34-ID-C, theta rocked": (
        Geometry(
            diffractometer="aps-34idc",
            energy_kev=9.0,
            distance_m=0.5,
            pixel_size_m=(55e-6, 55e-6),
            angles_deg={"delta": 32.174, "gamma": 12.6346, "chi": 90.0, "phi": -5.0},
            rocking_motor="theta",
            rocking_deg=(0.215, 0.22, 0.225),
        ),
        [2.3698638, 0.99762986, -0.79388784],
        [
            [6.92797837e-05, 0.0, 2.06809630e-04],
            [5.84353161e-05, -4.89556468e-04, 9.28871588e-05],
            [4.24660903e-04, 0.0, -2.67154195e-04],
        ],
    ),
    "34-ID-C, phi rocked on tilted circles": (
        Geometry(
            diffractometer="aps-34idc",
            energy_kev=9.0,
            distance_m=0.5,
            pixel_size_m=(55e-6, 75e-6),
            angles_deg={"delta": 32.174, "gamma": 12.6346, "th": 3.1, "chi": 20.0},
            rocking_motor="phi",
            rocking_deg=(-5.005, -5.0, -4.995),
        ),
        [2.3698638, 0.99762986, -0.79388784],
        [
            [6.34914428e-05, -1.98352479e-05, 1.64604909e-04],
            [5.84353161e-05, -4.89556468e-04, 9.28871588e-05],
            [5.79083046e-04, 0.0, -3.64301173e-04],
        ],
    ),
    "ID01, eta rocked": (
        Geometry(
            diffractometer="esrf-id01",
            energy_kev=13.0,
            distance_m=1.2,
            pixel_size_m=(55e-6, 55e-6),
            angles_deg={"nu": 1.3, "delta": 36.1, "mu": 0.5, "phi": 31.0},
            rocking_motor="eta",
            rocking_deg=(18.19, 18.2, 18.21),
        ),
        [-0.12076644, 3.88165502, -1.26634234],
        [
            [-5.91202362e-06, 2.20826081e-04, 6.77450806e-04],
            [-4.03628510e-06, -2.43974394e-04, 1.77863396e-04],
            [3.01874568e-04, 0.0, 6.85049229e-06],
        ],
    ),
}


@pytest.mark.parametrize("case", XRAYUTILITIES)
def test_reciprocal_basis_agrees_with_xrayutilities(case):
    geometry, q_centre, basis = XRAYUTILITIES[case]
    np.testing.assert_allclose(scattering_vector(geometry), q_centre, atol=1e-6)
    np.testing.assert_allclose(reciprocal_basis(geometry), basis, atol=1e-9)


def test_measured_scan_lies_at_the_gold_111_reflection(measured):
    q_centre = np.linalg.norm(scattering_vector(measured))
    assert q_centre == pytest.approx(2 * np.pi / GOLD_111_ANGSTROM, rel=0.02)
    two_theta = 2 * np.arcsin(q_centre / (4 * np.pi * 9.0 / 12.39842))
    assert np.rad2deg(two_theta) == pytest.approx(34.3, abs=0.1)


def test_friedel_reflection_of_four_circles_lies_in_the_vertical_plane():
    geometry = Geometry(
        diffractometer="fourc",
        energy_kev=8.0,
        distance_m=1.0,
        pixel_size_m=(1e-4, 1e-4),
        angles_deg={"tth": 40.0},
        rocking_motor="omega",
        rocking_deg=(19.9, 20.0, 20.1),
    )
    # Bragg's own picture: q bisects the beams, here in the plane of z and y, and points up and backwards.
    k = 2 * np.pi * 8.0 / 12.39842
    expected = 2 * k * np.sin(np.deg2rad(20)) * np.array([0.0, np.cos(np.deg2rad(20)), -np.sin(np.deg2rad(20))])
    np.testing.assert_allclose(scattering_vector(geometry), expected, rtol=1e-6)
    rocking, row, column = reciprocal_basis(geometry)
    assert abs(rocking @ expected) < 1e-9  # rocking is transverse to q
    assert row[1] < 0
    assert column[0] > 0


@pytest.mark.parametrize("case", XRAYUTILITIES)
def test_shape_sampled_by_a_rocking_scan_comes_back_in_nanometres_and_not_mirrored(case):
    """Blobs at known places; their transform is known at every q that a scan visits, Ewald curvature included."""
    geometry = XRAYUTILITIES[case][0]
    shape = (24, 32, 28)
    steps = np.linalg.norm(reciprocal_basis(geometry), axis=1)
    pace = np.diff(geometry.rocking_deg)[0] * steps[1] / steps[0]  # as fine as the detector samples
    middle = np.mean(geometry.rocking_deg)
    positions = middle + (np.arange(shape[0]) - shape[0] // 2) * pace
    geometry = _changed(geometry, {"rocking_deg": tuple(positions.tolist())})
    edges = direct_basis(geometry, shape)

    # A chiral tripod: unequal legs along x, y and z.
    reach = np.linalg.norm(edges, axis=1).min()
    places = np.array([[0, 0, 0], [6, 0, 0], [0, 4, 0], [0, 0, 5]]) * reach
    weights = np.array([1.0, 0.8, 0.9, 0.7])
    width = 1.3 * np.linalg.norm(edges, axis=1).max()

    q = _q_points_of_the_scan(geometry, shape) * 10.0  # 1/nm
    wave = np.exp(-0.5 * (q**2).sum(-1) * width**2) * (np.exp(-1j * q @ places.T) @ weights)
    blobs = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(wave)))

    grid = np.stack(np.meshgrid(*[np.arange(n) - n // 2 for n in shape], indexing="ij"), -1) @ edges
    expected = sum(
        w * np.exp(-0.5 * ((grid - p) ** 2).sum(-1) / width**2) for w, p in zip(weights, places, strict=True)
    )
    found = np.abs(blobs)
    overlap = (found * expected).sum() / np.sqrt((found**2).sum() * (expected**2).sum())
    assert overlap > 0.995
    mirrored = np.abs(blobs[::-1, ::-1, ::-1])
    assert (mirrored * expected).sum() / np.sqrt((mirrored**2).sum() * (expected**2).sum()) < 0.95
    centre = np.array(ndimage.center_of_mass(found)) - np.array(shape) // 2
    np.testing.assert_allclose(centre @ edges, weights @ places / weights.sum(), atol=0.15 * reach)


def test_missing_names_exactly_what_the_transformation_needs(measured):
    assert missing(measured) == ()
    assert missing(Geometry()) == (
        "diffractometer",
        "energy_kev",
        "distance_m",
        "pixel_size_m",
        "rocking_motor",
        "rocking_deg",
    )
    inner = Geometry(diffractometer="aps-34idc", rocking_motor="chi", angles_deg={"delta": 1.0})
    assert "angles_deg.theta" in missing(inner)
    assert "angles_deg.gamma" in missing(inner)
    assert "angles_deg.phi" not in missing(inner)  # moves with the crystal, changes nothing
    assert missing(_changed(measured, {"diffractometer": "lunar", "rocking_motor": "swing"})) == ()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"energy_kev": -9.0}, "energy_kev"),
        ({"energy_kev": None}, "energy_kev"),
        ({"distance_m": 0.0}, "distance_m"),
        ({"pixel_size_m": (55e-6, float("nan"))}, "pixel_size_m"),
        ({"pixel_size_m": (float("nan"), 55e-6)}, "pixel_size_m"),
        ({"diffractometer": "lunar"}, "aps-34idc"),
        ({"rocking_motor": "delta"}, "theta"),
        ({"rocking_deg": (1.0, 1.0, 1.0)}, "rocking_deg"),
        ({"rocking_deg": (0.0, 0.1, float("nan"))}, "rocking_deg"),
        ({"rocking_deg": (0.0, 0.1, 0.2, 5.3, 5.4, 5.5, 5.6)}, "evenly"),
        ({"angles_deg": {"delta": 0.0, "gamma": 0.0}}, "direct beam"),
        ({"angles_deg": {"delta": float("inf"), "gamma": 0.0}}, "angles_deg.delta"),
    ],
)
def test_impossible_geometry_is_refused_by_name(measured, change, named):
    with pytest.raises(GeometryError, match=named) as refusal:
        direct_basis(_changed(measured, change), (64, 64, 64))
    assert "\n" not in str(refusal.value)


def test_rocking_that_only_slides_along_the_detector_is_refused():
    geometry = Geometry(
        diffractometer="fourc",
        energy_kev=8.0,
        distance_m=1.0,
        pixel_size_m=(1e-4, 1e-4),
        angles_deg={"tth": 40.0, "omega": 0.0},
        rocking_motor="chi",  # along the beam: q moves sideways only, as the columns do
        rocking_deg=(0.0, 0.01, 0.02),
    )
    with pytest.raises(GeometryError, match="does not scan a volume"):
        reciprocal_basis(geometry)


def test_every_diffractometer_turns_about_unit_axes():
    for name, stack in DIFFRACTOMETERS.items():
        for axis in (*(c.axis for c in stack.sample + stack.detector), stack.row, stack.column):
            assert axis[0] in "xyz", name
            assert axis[1] in "+-", name
        assert stack.row[0] != stack.column[0]


@pytest.fixture
def measured():
    with h5py.File(Path(braggd.__file__).parent / "example" / "aps_34idc_S0054.h5") as file:
        instrument = file["entry/instrument"]
        return Geometry(
            diffractometer="aps-34idc",
            energy_kev=float(instrument["beam/incident_energy"][()]),
            distance_m=float(instrument["detector/distance"][()]),
            pixel_size_m=(
                float(instrument["detector/y_pixel_size"][()]),
                float(instrument["detector/x_pixel_size"][()]),
            ),
            angles_deg={name: float(instrument["detector"][name][()]) for name in ("delta", "gamma")},
            rocking_motor="theta",
            rocking_deg=tuple(file["entry/data/theta"][:].tolist()),
        )


def _changed(geometry, change):
    return Geometry(**{name: getattr(geometry, name) for name in geometry.__struct_fields__} | change)


AXES = {"x": [1, 0, 0], "y": [0, 1, 0], "z": [0, 0, 1]}


def _turn(axis, degrees):
    """Rodrigues' rotation matrix."""
    n = np.array(AXES[axis[0]]) * (1 if axis[1] == "+" else -1)
    cross = np.array([[0, -n[2], n[1]], [n[2], 0, -n[0]], [-n[1], n[0], 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _q_points_of_the_scan(geometry, shape):
    """Pixel by pixel, step by step: k_out - k_in, turned back with the crystal into its place mid-scan.

    Relative to the middle of the middle frame. The motor stacks are written out again here, on purpose.
    """
    sample, detector = {
        "aps-34idc": ([("theta", "y+"), ("chi", "z-"), ("phi", "y+")], [("delta", "y+"), ("gamma", "x-")]),
        "esrf-id01": ([("mu", "y-"), ("eta", "x-"), ("phi", "y-")], [("nu", "y-"), ("delta", "x-")]),
    }[geometry.diffractometer]
    angles = {"theta": geometry.angles_deg.get("th", 0.0), "chi": 0.0, "phi": 0.0, "mu": 0.0, "eta": 0.0}
    angles |= geometry.angles_deg
    k = 2 * np.pi * geometry.energy_kev / 12.39842
    arm = np.linalg.multi_dot([_turn(axis, angles[name]) for name, axis in detector])
    rows, columns = (np.arange(n) - n // 2 for n in shape[1:])
    pixels = np.zeros((shape[1], shape[2], 3))
    pixels[..., 1] = -rows[:, None] * geometry.pixel_size_m[0]
    pixels[..., 0] = columns[None, :] * geometry.pixel_size_m[1]
    pixels[..., 2] = geometry.distance_m
    k_out = k * (pixels / np.linalg.norm(pixels, axis=-1, keepdims=True)) @ arm.T
    transfer = k_out - [0, 0, k]

    def stance(position):
        turns = [_turn(axis, position if name == geometry.rocking_motor else angles[name]) for name, axis in sample]
        return np.linalg.multi_dot(turns)

    middle = stance(geometry.rocking_deg[shape[0] // 2])
    q = np.stack([transfer @ (middle @ stance(p).T).T for p in geometry.rocking_deg])
    return q - q[shape[0] // 2, shape[1] // 2, shape[2] // 2]
