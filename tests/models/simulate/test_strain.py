import numpy as np
import pytest

from braggd_models.errors import SimulationError
from braggd_models.simulate.shapes import random_convex
from braggd_models.simulate.strain import DISLOCATIONS, STRAINS, Dislocation, correlated_field, random_strain, scaled


def open_grid(size=24):
    return np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32)] * 3, indexing="ij", sparse=True)


@pytest.fixture
def crystal():
    body = random_convex(np.random.default_rng(3)).centred()
    return body.scaled(1 / body.bounding_radius())


@pytest.mark.parametrize("kind", sorted(set(STRAINS) - set(DISLOCATIONS) - {"none"}))
@pytest.mark.parametrize("phase_range", [1.0, 5 * np.pi])
def test_the_phase_has_exactly_the_range_asked_for(kind, phase_range, crystal):
    z, y, x = open_grid()
    inside = crystal.inside(np.stack(np.broadcast_arrays(z, y, x), -1))
    for seed in range(5):
        field = random_strain(kind, np.random.default_rng(seed), crystal, phase_range)
        phase = scaled(field(z, y, x), inside, phase_range, (z, y, x))
        assert np.ptp(phase[inside]) == pytest.approx(phase_range, rel=1e-5)
        assert phase[inside].mean(dtype=float) == pytest.approx(0, abs=1e-4)
        places = np.argwhere(inside) - np.argwhere(inside).mean(axis=0)
        slopes = np.linalg.lstsq(places, phase[inside].astype(float), rcond=None)[0]
        assert np.abs(slopes).max() * 24 < 0.01 * phase_range


@pytest.mark.parametrize("kind", STRAINS)
def test_a_field_is_the_same_on_a_grid_and_at_scattered_places(kind, crystal):
    z, y, x = (a.astype(np.float64) for a in open_grid(9))
    field = random_strain(kind, np.random.default_rng(5), crystal, 7.0)
    scattered = field(*(a.ravel() for a in np.broadcast_arrays(z, y, x)))
    assert np.allclose(field(z, y, x).ravel(), scattered, atol=1e-4)


def test_random_fields_correlate_as_asked():
    length, step = 0.4, 0.1
    axis = np.arange(-10, 10) * step
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    fields = np.stack([correlated_field(np.random.default_rng(n), length)(z, y, x) for n in range(60)])
    assert np.mean(fields**2) == pytest.approx(1, abs=0.1)
    apart = round(length / step)
    for axis_number in (1, 2, 3):
        near, far = np.take(fields, range(20 - apart), axis_number), np.take(fields, range(apart, 20), axis_number)
        assert np.mean(near * far) / np.mean(fields**2) == pytest.approx(np.exp(-0.5), abs=0.06)


@pytest.mark.parametrize("windings", [1, -2])
@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_the_phase_winds_about_a_dislocation_and_nowhere_else(windings, edge):
    frame, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    line = Dislocation(frame, np.array([0.1, -0.2, 0.3]), windings, edge, climb=0.3 * edge)
    angle = np.linspace(0, 2 * np.pi, 400)
    for centre, turns in ((line.point, windings), (line.point + 0.6 * frame[0], 0)):
        loop = centre + 0.3 * (np.cos(angle)[:, None] * frame[0] + np.sin(angle)[:, None] * frame[1]) + 0.5 * frame[2]
        steps = np.angle(np.exp(1j * np.diff(line(*loop.T))))
        assert steps.sum() / (2 * np.pi) == pytest.approx(turns, abs=1e-6)


def test_strain_that_cannot_be_is_refused(crystal):
    with pytest.raises(SimulationError, match="choose one of none, gaussians"):
        random_strain("twist", np.random.default_rng(0), crystal, 1.0)
    with pytest.raises(SimulationError, match="no voxel is inside"):
        scaled(np.ones((2, 2, 2)), np.zeros((2, 2, 2), bool), 1.0)
