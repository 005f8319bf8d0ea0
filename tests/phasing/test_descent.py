import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from braggd.errors import PhasingError
from braggd.phasing import halfspaces
from braggd.phasing.adam import Adam
from braggd.phasing.align import accuracy, align
from braggd.phasing.descent import DescentConfig, descend
from braggd.phasing.fourier import corner
from braggd.phasing.halfspaces import coordinates, soft_support, spread_normals, support_gradient
from braggd.phasing.objective import Objective, total_variation
from braggd.phasing.recipe import parse
from braggd.phasing.solver import Schedule, Solver

QUICK = DescentConfig(softness=0.4, starts=2, steps=300, decay_every=50)


@pytest.fixture
def crystal(crystals):
    """A crystal as a beam sees it, not as cubes: drawn at half the voxel, its wave cut to the middle."""
    fine, _ = crystals.faceted(72, radius=12.0, phase=0.5, seed=2)
    wave = crystals.wave_of(fine)[18:54, 18:54, 18:54]
    density = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(wave))).astype(np.complex64)
    return density, crystals.noisy_counts(density, 1e5)


def everywhere(counts):
    return np.ones(counts.shape, bool)


def example(phase="angle", shape=(12, 14, 10), masked=False, **options):
    """An objective in double precision, and parameters away from its minimum."""
    random = np.random.default_rng(3)
    counts = random.poisson(20 * np.exp(-sum(c**2 for c in np.ix_(*coordinates(shape))) / 12)).astype(float)
    valid = random.random(shape) > 0.2 if masked else everywhere(counts)
    objective = Objective(corner(counts), corner(valid), phase=phase, **options)
    parameters = {
        "normals": spread_normals(9, random),
        "distances": random.uniform(1.5, 2.5, 9),
        "phase": random.normal(size=(2, *objective.box) if phase == "phasor" else objective.box),
    }
    return objective, parameters


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"loss": "poisson"},
        {"phase": "phasor"},
        {"phase": "displacement", "scattering_vector": 2.7},
        {"loss": "poisson", "phase": "phasor", "masked": True},
        {"masked": True},
        {"smoothness": 3.0},
        {"smoothness": 3.0, "phase": "phasor"},
        {"smoothness": 3.0, "phase": "displacement", "scattering_vector": 2.7},
        {"compactness": 5.0, "softness": 0.8},
        {"shape": (11, 9, 13)},
    ],
    ids=str,
)
def test_every_gradient_is_the_slope_of_the_loss(options, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(halfspaces, "kernels", None)
    objective, parameters = example(**options)
    _, gradients = objective(parameters)
    random = np.random.default_rng(0)
    for name, gradient in gradients.items():
        for _ in range(6):
            index = tuple(random.integers(n) for n in gradient.shape)
            losses = []
            for step in (1e-6, -1e-6):
                moved = {key: value.copy() for key, value in parameters.items()}
                moved[name][index] += step
                losses.append(objective(moved)[0])
            slope = (losses[0] - losses[1]) / 2e-6
            assert gradient[index] == pytest.approx(slope, rel=2e-4, abs=2e-7 * np.abs(gradient).max() + 1e-9), name


def test_the_soft_support_is_the_product_of_its_sigmoids(monkeypatch):
    normals, grid = spread_normals(7, np.random.default_rng(1)), coordinates((9, 12, 11))
    distances = np.linspace(2, 4, 7)
    at = np.stack(np.meshgrid(*grid, indexing="ij"), -1)
    truth = np.prod(1 / (1 + np.exp((at @ normals.T - distances) / 0.5)), axis=-1)
    weights = np.random.default_rng(2).normal(size=truth.shape)
    found = []
    for kernels in (halfspaces.kernels, None):
        monkeypatch.setattr(halfspaces, "kernels", kernels)
        support = soft_support(normals, distances, 0.5, grid, np.float64)
        np.testing.assert_allclose(support, truth, rtol=1e-9, atol=1e-15)
        found.append(support_gradient(normals, distances, 0.5, grid, support, weights))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


def test_a_far_corner_of_a_large_sharp_grid_is_dark_not_nan():
    grid = coordinates((200, 200, 200))
    normals = spread_normals(64, np.random.default_rng(1))
    support = soft_support(normals, np.full(64, 30.0), 0.2, grid, np.float32)
    assert support[100, 100, 100] == pytest.approx(1)
    assert support[0, 0, 0] == 0
    gradient = support_gradient(normals, np.full(64, 30.0), 0.2, grid, support, np.ones_like(support))
    assert all(np.isfinite(g).all() for g in gradient)
    # growing a ball by dr adds its surface
    assert gradient[1].sum() == pytest.approx(4 * np.pi * 30**2, rel=0.15)


def test_normals_stay_unit_vectors(monkeypatch, crystal):
    seen = []
    step = Adam.step

    def watched(self, parameters, gradients, rate):
        seen.append((parameters["normals"].copy(), gradients["normals"]))
        step(self, parameters, gradients, rate)

    monkeypatch.setattr(Adam, "step", watched)
    descend(np.sqrt(crystal[1]), everywhere(crystal[1]), replace(QUICK, starts=1, steps=30))
    assert len(seen) == 30
    for normals, gradient in seen:
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-12)
        assert np.abs(np.sum(normals * gradient, axis=1)).max() <= 1e-9 * np.abs(gradient).max()
    assert np.abs(seen[-1][0] - seen[0][0]).max() > 0.01


def test_adam_with_amsgrad_takes_the_steps_of_its_paper():
    # by hand: the first step is the rate; AMSGrad keeps the largest second moment, 1e-3, after it
    parameters = {"x": np.array([0.0])}
    adam = Adam(parameters)
    adam.step(parameters, {"x": np.array([1.0])}, 0.1)
    assert parameters["x"][0] == pytest.approx(-0.1)
    adam.step(parameters, {"x": np.array([0.0])}, 0.1)
    second = 0.09 / (1 - 0.9**2) / np.sqrt(1e-3 / (1 - 0.999**2))
    assert parameters["x"][0] == pytest.approx(-0.1 - 0.1 * second, rel=1e-6)


def test_the_amplitude_gives_the_measured_photons():
    objective, parameters = example()
    density = objective.density(parameters)
    assert np.sum(np.abs(density) ** 2) * objective.counts.size == pytest.approx(objective.photons, rel=1e-12)
    uniform = np.abs(density) / objective.support(parameters)
    assert uniform.max() == pytest.approx(uniform.min())


def test_the_total_variation_is_the_path_and_blind_to_two_pi():
    angle = np.broadcast_to(0.1 * np.arange(20.0), (4, 5, 20)).copy()
    value, _ = total_variation(angle)
    rounded = 1e-3 * (3 / 4 + 4 / 5)  # what the rounding of the root leaves along the axes without a step
    assert value == pytest.approx(2 * np.sin(0.05) * 19 / 20 + rounded, abs=1e-5)
    angle[2, 3] += 2 * np.pi
    assert total_variation(angle)[0] == pytest.approx(value)


@pytest.mark.parametrize("loss", ["mae", "poisson"])
def test_masked_voxels_do_not_enter(crystal, loss):
    _, counts = crystal
    valid = everywhere(counts)
    valid[:, 20:23] = False
    config = replace(QUICK, starts=1, steps=15, loss=loss)
    clean = descend(np.sqrt(counts), valid, config)
    for spoiled in (np.nan, 1e6, -5):
        found = descend(np.where(valid, np.sqrt(counts), spoiled).astype(np.float32), valid, config)
        np.testing.assert_array_equal(found.density, clean.density)
        np.testing.assert_array_equal(found.history, clean.history)
    assert not np.array_equal(descend(np.sqrt(counts), everywhere(counts), config).history, clean.history)


def refined(found, counts, steps=30):
    """Error reduction from what was found, its R factor before and after."""
    solver = Solver(
        corner(np.sqrt(counts).astype(np.float32)), corner(found.density), corner(found.support), kernels=None
    )
    before = solver.measure()[1]
    solver.run(parse(f"{steps}*ER"), Schedule(support_every=0), lambda _: None)
    solver.constrain()
    return solver, before, solver.measure()[1]


def test_a_weakly_strained_crystal_is_found_and_error_reduction_improves_it(crystal, crystals):
    density, counts = crystal
    found = descend(np.sqrt(counts), everywhere(counts), QUICK)
    first = accuracy(align(density, found.density).density, density)
    assert first >= 93
    assert found.losses[found.start] == min(found.losses) == found.history.min()
    assert found.losses[found.start] < 0.1
    # the convention of the projections: the wave holds the photons, nothing is outside, the pose is fixed
    wave = np.abs(crystals.wave_of(found.density))
    assert np.sum(wave**2) == pytest.approx(counts.sum(), rel=1e-4)
    assert np.corrcoef(wave.ravel(), np.sqrt(counts).ravel())[0, 1] > 0.98
    assert not found.density[~found.support].any()
    assert abs(np.angle(found.density.sum())) < 1e-3

    solver, before, after = refined(found, counts)
    assert after < 0.8 * before
    assert accuracy(align(density, np.fft.fftshift(solver.density)).density, density) > first


@pytest.mark.parametrize(
    ("phase", "loss", "compactness", "noise"),
    [("phasor", "mae", 0.0, 0.1), ("displacement", "poisson", 0.01, 0.0)],
)
def test_each_form_of_the_phase_and_loss_finds_the_crystal(crystal, phase, loss, compactness, noise):
    density, counts = crystal
    config = replace(
        QUICK, phase=phase, loss=loss, compactness=compactness, noise=noise, scattering_vector=1.4, steps=200
    )
    found = descend(np.sqrt(counts), everywhere(counts), config)
    assert accuracy(align(density, found.density).density, density) >= 90


def test_a_peak_beside_the_middle_changes_nothing_but_the_ramp(crystal, crystals):
    _, counts = crystal
    one = descend(np.sqrt(counts), everywhere(counts), replace(QUICK, starts=1, steps=40))
    shifted = np.roll(counts, (3, -2, 5), axis=(0, 1, 2))
    other = descend(np.sqrt(shifted), everywhere(counts), replace(QUICK, starts=1, steps=40))
    np.testing.assert_allclose(other.losses, one.losses, rtol=1e-4)
    wave = np.abs(crystals.wave_of(other.density))
    assert np.corrcoef(wave.ravel(), np.sqrt(shifted).ravel())[0, 1] > 0.9


def test_odd_and_oblong_patterns_have_the_same_seed_the_same_object(crystal):
    counts = crystal[1][2:35, 1:32]
    one, other = (descend(np.sqrt(counts), everywhere(counts), replace(QUICK, steps=20)) for _ in range(2))
    assert one.density.shape == counts.shape
    assert len(one.losses) == 2
    np.testing.assert_array_equal(one.density, other.density)


def test_progress_runs_to_1_and_stop_ends_it(crystal):
    _, counts = crystal
    seen = []
    config = replace(QUICK, steps=5)
    descend(np.sqrt(counts), everywhere(counts), config, progress=lambda share, doing: seen.append((share, doing)))
    assert [share for share, _ in seen] == pytest.approx(np.arange(1, 11) / 10)
    assert seen[-1][1] == "descent 2 of 2"
    with pytest.raises(PhasingError, match="stopped"):
        descend(np.sqrt(counts), everywhere(counts), config, stop=lambda: True)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda a, v: (a, np.zeros_like(v)), "every voxel is masked"),
        (lambda a, v: (np.zeros_like(a), v), "only 0 photons"),
        (lambda a, v: (np.where(a == a.max(), np.nan, a), v), "NaN"),
        (lambda a, v: (a[0], v[0]), "three axes"),
    ],
)
def test_what_cannot_be_phased_is_said_in_one_sentence(crystal, spoil, sentence):
    _, counts = crystal
    with pytest.raises(PhasingError, match=sentence):
        descend(*spoil(np.sqrt(counts), everywhere(counts)), QUICK)


def test_a_descent_in_which_every_crystal_vanishes_says_so(crystal):
    _, counts = crystal
    with pytest.raises(PhasingError, match="smaller learning_rate"):
        descend(np.sqrt(counts), everywhere(counts), replace(QUICK, compactness=1e4, learning_rate=3, steps=60))


@pytest.mark.parametrize(
    ("field", "value"), [("loss", "l2"), ("phase", "none"), ("softness", 0.0), ("starts", 0), ("decay", 1.5)]
)
def test_a_setting_out_of_range_is_named(field, value):
    with pytest.raises(PhasingError, match=field):
        DescentConfig(**{field: value})


def test_no_machine_learning_library_is_needed():
    code = "import sys, braggd.phasing.descent; sys.exit(any(m in sys.modules for m in ('torch', 'tensorflow', 'jax')))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
