import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from braggd.phasing import coherence, fourier, plain, projections
from braggd.phasing.align import accuracy, align
from braggd.phasing.likelihood import Likelihood
from braggd.phasing.recipe import parse
from braggd.phasing.solver import Schedule, Solver

FIXED = Schedule(support_every=0)


def random_wave(shape, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)


def solved(crystals, density, support, recipe, target=None):
    """From random phases, with the true support."""
    if target is None:
        target = fourier.corner(np.abs(crystals.wave_of(density)).astype(np.float32))
    start = random_wave(density.shape, seed=3) * fourier.corner(support)
    solver = Solver(target, start, fourier.corner(support), None)
    solver.run(parse(recipe), FIXED, lambda _: None)
    solver.constrain()
    return solver


def found(crystals, density, support, recipe):
    solver = solved(crystals, density, support, recipe)
    return accuracy(align(density, fourier.centre(solver.density)).density, density)


@pytest.mark.parametrize("recipe", ["200*DM", "150*SF + 100*ER", "250*CF + 100*ER", "500*ML"])
def test_every_algorithm_finds_a_known_crystal_in_its_support(crystals, recipe):
    density, support = crystals.faceted(32, radius=7.0, phase=1.0)
    assert found(crystals, density, support, recipe) >= 99.0


@pytest.mark.parametrize("recipe", ["60*DM", "40*DM + 20*SF + 20*ER", "40*DM + 20*CF + 20*ER", "60*HIO + 30*ML"])
def test_every_algorithm_finds_it_without_compiled_kernels(crystals, recipe, monkeypatch):
    monkeypatch.setattr(projections, "kernels", plain)
    density, support = crystals.faceted(24, radius=5.5, phase=1.0)
    assert found(crystals, density, support, recipe) >= 99.0


@pytest.mark.parametrize("algorithm", projections.ALGORITHMS)
def test_the_true_object_stays_as_it_is(crystals, algorithm):
    density, support = crystals.faceted(24, radius=5.5, phase=1.0)
    truth = fourier.corner(density)
    target = fourier.corner(np.abs(crystals.wave_of(density)).astype(np.float32))
    solver = Solver(target, truth.copy(), fourier.corner(support), None)
    solver.run(parse(f"5*{algorithm}"), FIXED, lambda _: None)
    np.testing.assert_allclose(solver.density, truth, atol=2e-4)


def test_the_difference_map_is_elsers():
    shape, beta = (8, 6, 10), projections.BETA
    density, support = random_wave(shape), np.random.default_rng(1).random(shape) < 0.4
    target = np.abs(random_wave(shape, 2)) * 20

    def modulus(rho):
        wave = np.fft.fftn(rho)
        return np.fft.ifftn(target * wave / np.abs(wave))

    rho = density.astype(np.complex128)
    one = support * ((1 + 1 / beta) * modulus(rho) - rho / beta)
    two = modulus((1 - 1 / beta) * support * rho + rho / beta)
    solver = Solver(target.astype(np.float32), density, support, None)
    solver.run(parse("DM"), FIXED, lambda _: None)
    np.testing.assert_allclose(solver.density, rho + beta * (one - two), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kernels", [None, tuple(projections.gaussian(width) for width in (0.4, 0.6, 0.5))])
def test_every_step_of_ml_raises_the_likelihood(crystals, kernels):
    density, support = crystals.faceted(24, radius=5.5)
    counts = fourier.corner(crystals.noisy_counts(density, 1e4))
    target = np.where(np.arange(24) == 5, -50, np.sqrt(counts)).astype(np.float32)
    start = Solver(target, random_wave(density.shape, 5), fourier.corner(support), None)
    start.run(parse("60*HIO + 20*ER"), FIXED, lambda _: None)
    start.constrain()
    solver = Solver(target, start.density, start.support, kernels)
    likelihoods = [solver.measure()[0]]
    climb = Likelihood(target, solver.density, solver.support, kernels)
    for _ in range(15):
        climb.iterate()
        likelihoods.append(solver.measure()[0])
    assert np.all(np.diff(likelihoods) < 2e-4 * likelihoods[0])  # the floor is not in the measure
    assert likelihoods[-1] < 0.9 * likelihoods[0]


def test_ml_ends_closer_to_noisy_data_than_er(crystals):
    density, support = crystals.faceted(24, radius=5.5)
    target = np.sqrt(fourier.corner(crystals.noisy_counts(density, 1e4)))
    ends = [solved(crystals, density, support, f"80*HIO + 40*{name}", target=target) for name in ("ER", "ML")]
    assert ends[1].measure()[0] < ends[0].measure()[0]


def test_a_threshold_decides_which_charges_flip():
    density = np.array([3, 0.1j, -2, 2], np.complex64)
    projections.charge_flip(density, density, np.array([True, True, True, False]))
    np.testing.assert_array_equal(density, np.array([3, -0.1j, -2, -2], np.complex64))


@pytest.mark.skipif(projections.kernels is plain, reason="numba is not installed")
@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("flip", ("wave", "support", 0.8)),
        ("spread", ("support", 1.25, "out")),
        ("difference", ("wave", "other", "support", 0.9)),
        ("scale", ("real", "out")),
        ("expand", ("wave", "real", "positive")),
        ("add", (0.7, "wave")),
        ("turn", ("wave", 0.3)),
    ],
)
def test_compiled_and_plain_kernels_agree(name, extra):
    from braggd.phasing import compiled

    results = []
    for kernels in (compiled, plain):
        arrays = _arrays()
        getattr(kernels, name)(*(arrays[one] if isinstance(one, str) else one for one in ("first", *extra)))
        results.append(arrays)
    assert any(not np.array_equal(results[0][one], array) for one, array in _arrays().items())
    for key, array in results[0].items():
        np.testing.assert_allclose(array, results[1][key], rtol=2e-5, atol=1e-6)


@pytest.mark.skipif(projections.kernels is plain, reason="numba is not installed")
def test_compiled_and_plain_likelihoods_agree():
    from braggd.phasing import compiled

    arrays = _arrays()
    calculated, target, linear = arrays["positive"], arrays["real"], arrays["slopes"]
    weights = np.empty_like(target), np.empty_like(target)
    for kernels, out in zip((compiled, plain), weights, strict=True):
        kernels.weigh(calculated, target, 0.1, out)
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-4, atol=1e-4)
    for step in (0.0, 0.3):
        one, other = (k.slope(calculated, linear, calculated, target, step, 0.1) for k in (compiled, plain))
        np.testing.assert_allclose(one, other, rtol=1e-4)


def test_the_slope_is_the_likelihoods():
    arrays = {name: array.astype(np.float64) for name, array in _arrays().items() if array.dtype == np.float32}
    a, b, c, n = arrays["positive"], arrays["slopes"], arrays["positive"][::-1], arrays["positive"][7:] ** 0.5
    a, b, c = a[: n.size] + 3, b[: n.size], c[: n.size]

    def likelihood(step):
        intensity = a + b * step + c * step**2 + 0.1
        return np.sum(intensity - (n**2 + 0.1) * np.log(intensity))

    first, second, _ = plain.slope(*(x.astype(np.float32) for x in (a, b, c, n)), 0.2, 0.1)
    h = 1e-3
    assert first == pytest.approx((likelihood(0.2 + h) - likelihood(0.2 - h)) / (2 * h), rel=1e-4)
    curvature = (likelihood(0.2 + h) - 2 * likelihood(0.2) + likelihood(0.2 - h)) / h**2
    assert second == pytest.approx(curvature, rel=1e-3)


def test_er_needs_less_than_five_volumes(crystals):
    edge = 64
    density, support = crystals.faceted(edge, radius=14.0)
    target = fourier.corner(np.abs(crystals.wave_of(density)).astype(np.float32))
    volume = 8 * edge**3
    for recipe, most in (("4*ER", 4.0), ("4*HIO", 4.0), ("4*DM", 5.0), ("4*ML", 9.0)):
        start, box = density.copy(), fourier.corner(support)
        given = target.nbytes + start.nbytes + box.nbytes
        for traced in (False, True):  # first without: what is compiled and imported then is not the volume's
            if traced:
                tracemalloc.start()
            solver = Solver(target, start, box, None)
            solver.run(parse(recipe), Schedule(support_every=2), lambda _: None)
            solver.constrain()
            solver.measure()
        peak = (given + tracemalloc.get_traced_memory()[1]) / volume
        tracemalloc.stop()
        assert peak <= most, (recipe, peak)


def _arrays():
    random = np.random.default_rng(4)
    size = 997
    return {
        **{name: random_wave(size, seed) for seed, name in enumerate(("first", "wave", "other", "out"))},
        "support": random.random(size) < 0.4,
        "real": random.normal(size=size).astype(np.float32),
        "slopes": random.normal(size=size).astype(np.float32),
        "positive": random.exponential(size=size).astype(np.float32),
    }


@pytest.mark.parametrize("recipe", ["3*HIO + 60*ER", "5*DETWIN + 45*ER + 5*RAAR + 15*ER"])
@pytest.mark.parametrize("options", [{}, {"uniformity": 0.6}])
def test_leaving_out_what_is_empty_changes_nothing(crystals, recipe, options, monkeypatch):
    density, support = crystals.faceted(32, radius=5.0, phase=1.0)
    target = fourier.corner(np.abs(crystals.wave_of(density)).astype(np.float32))
    about = fourier.corner(ndimage.binary_dilation(support, iterations=2))
    start, ends, boxes = random_wave(density.shape, seed=3) * about, [], []
    find = fourier.box_about
    for look in (lambda support: boxes.append(find(support)) or boxes[-1], lambda support: None):
        monkeypatch.setattr(fourier, "box_about", look)
        solver = Solver(target, start.copy(), about, coherence.START)
        solver.run(parse(recipe), Schedule(**options), lambda _: None)
        ends.append((solver.density, solver.support, solver.measure()[0]))
    assert any(box is not None for box in boxes)
    np.testing.assert_array_equal(ends[0][1], ends[1][1])
    np.testing.assert_allclose(ends[0][0], ends[1][0], atol=2e-3 * np.abs(ends[1][0]).max())
    assert ends[0][2] == pytest.approx(ends[1][2], rel=1e-2)
