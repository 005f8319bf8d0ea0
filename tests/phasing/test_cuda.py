"""A GPU gives what numpy gives, within float32 noise; only run where there is one."""

import numpy as np
import pytest

from braggd.phasing import arrays, coherence, fourier, plain, projections
from braggd.phasing.arrays import to_device, to_host
from braggd.phasing.recipe import parse
from braggd.phasing.solver import Schedule, Solver

pytestmark = pytest.mark.skipif(arrays.choose("auto") != "cuda", reason="no GPU")

SHAPE = (12, 10, 14)


def volumes():
    random = np.random.default_rng(4)

    def wave():
        return (random.normal(size=SHAPE) + 1j * random.normal(size=SHAPE)).astype(np.complex64)

    volume = {name: wave() for name in ("first", "wave", "other", "out")}
    volume |= {name: random.normal(1, 2, SHAPE).astype(np.float32) for name in ("target", "linear", "empty")}
    volume["first"].flat[3:9] = 0
    volume["target"].flat[:5] = 0
    return volume | {
        "support": random.random(SHAPE) < 0.4,
        "inside": np.zeros(SHAPE, bool),
        "positive": random.exponential(size=SHAPE).astype(np.float32),
        "places": np.array([0, 4, 50, 700]),
        "some": np.array([1, 2, 0, 3], np.float32),
    }


def both(run):
    """Run it on (kernels, arrays) of the host and of the GPU, and compare all that came of it."""
    given, results = volumes(), []
    for device, kernels in (("cpu", plain), ("cuda", None)):
        here = {name: to_device(array.copy(), device) for name, array in given.items()}
        flat = {name: array.reshape(-1) for name, array in here.items()}
        returned = run(kernels or projections.kernels_for(here["first"]), flat)
        results.append(({name: to_host(array) for name, array in here.items()}, returned))
    (host, one), (device, other) = results
    for name, array in host.items():
        np.testing.assert_allclose(device[name], array, rtol=3e-5, atol=2e-6, err_msg=name)
    if one is not None:
        other = [to_host(value) for value in other] if isinstance(other, tuple) else to_host(other)
        np.testing.assert_allclose(other, one, rtol=3e-5)
    else:
        assert any(not np.array_equal(host[name], array) for name, array in given.items())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("project_modulus", ("first", "target")),
        ("project_blurred", ("first", "target", "positive")),
        ("pull", ("first", "places", "some", 0.4)),
        ("total", ("first", "support")),
        ("within", ("first", "support", 3 - 2j, 0.5, "inside")),
        ("clear", ("first", "support")),
        ("update", ("first", "wave", "support", 0.9, -0.8)),
        ("strength", ("first", "support")),
        ("flip", ("first", "wave", "support", 0.8)),
        ("spread", ("first", "support", 1.25, "out")),
        ("difference", ("first", "wave", "other", "support", 0.9)),
        ("square", ("first", "empty")),
        ("misfit", ("positive", "target")),
        ("weigh", ("positive", "target", 0.1, "empty")),
        ("scale", ("first", "linear", "out")),
        ("expand", ("first", "wave", "linear", "empty")),
        ("slope", ("positive", "linear", "positive", "target", 0.3, 0.1)),
        ("dot", ("first", "wave")),
        ("add", ("first", 0.7, "wave")),
        ("turn", ("first", "wave", 0.3)),
    ],
)
def test_every_kernel_is_plain_numpys(name, arguments):
    both(lambda on, a: getattr(on, name)(*(a[one] if isinstance(one, str) else one for one in arguments)))


def test_the_line_search_is_plain_numpys():
    xp = arrays.namespace(to_device(np.zeros(1), "cuda"))
    host, device = (namespace.asarray([0.0, 0.0, np.inf, 0.0, np.inf]) for namespace in (np, xp))
    cuda = projections.kernels_for(device)
    for trial, slopes in enumerate([(-2.0, 1.0, 1.5), (0.5, -3.0, 1.0), (-0.1, 0.4, 0.4), (0.0, 0.0, 0.0)]):
        plain.newton(host, slopes, trial > 0)
        cuda.newton(device, xp.asarray(slopes), trial > 0)
        np.testing.assert_allclose(to_host(device), host)
    for numbers in ((3.0, 1.0, 4.0, -2.0), (3.0, 1.0, 0.0, 1.0), (1.0, -9.0, 1.0, 0.5), (1.0, 2.0, 1.0, 0.0)):
        assert float(cuda.share(*(xp.asarray(number) for number in numbers))) == pytest.approx(plain.share(*numbers))


@pytest.mark.parametrize("shape", [(16, 16, 16), (12, 20, 18), (15, 9, 7)])
def test_transforms_are_numpys(shape):
    random = np.random.default_rng(0)
    host = (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(np.complex64)
    device = to_device(host, "cuda")
    there, back = (arrays.namespace(device).empty_like(device) for _ in range(2))
    fourier.forward(device, there)
    np.testing.assert_allclose(to_host(there), np.fft.fftn(host), atol=1e-3)
    np.testing.assert_array_equal(to_host(device), host)
    fourier.inverse(there, back)
    np.testing.assert_allclose(to_host(back), host, atol=1e-5)
    fourier.forward(back, back)
    np.testing.assert_allclose(to_host(back), to_host(there), atol=1e-3)
    np.testing.assert_array_equal(to_host(fourier.corner(device)), fourier.corner(host))


@pytest.mark.parametrize("sizes", [(9, 1, 3), (1, 1, 1), (5, 5, 21)])
def test_a_convolution_is_plain_numpys(sizes):
    source = volumes()["positive"]
    kernels = tuple(np.hamming(size + 2)[1:-1].astype(np.float32) for size in sizes)
    truth, device = np.empty_like(source), to_device(source, "cuda")
    plain.blur(source, truth, *kernels)
    out = arrays.namespace(device).empty_like(device)
    projections.convolve(device, out, kernels)
    np.testing.assert_allclose(to_host(out), truth, rtol=3e-5)


def test_the_point_spread_is_the_cpus():
    random = np.random.default_rng(1)
    intensity = random.exponential(50, (24, 60, 20)).astype(np.float32)
    target = np.sqrt(random.poisson(intensity)).astype(np.float32)
    target[:, 5] = -9
    here = coherence.fit_kernels(intensity, target, coherence.START)
    there = coherence.fit_kernels(to_device(intensity, "cuda"), to_device(target, "cuda"), coherence.START)
    for one, other in zip(here, there, strict=True):
        padded = np.pad(one, coherence.RADIUS - one.size // 2)
        np.testing.assert_allclose(to_host(other), padded, atol=1e-3)


@pytest.mark.parametrize("recipe", ["3*ER", "3*HIO", "3*RAAR", "2*DM", "2*SF", "2*CF", "4*ML"])
@pytest.mark.parametrize("coherent", [True, False])
def test_every_algorithm_takes_the_cpus_way(crystals, recipe, coherent):
    density, support = crystals.faceted(24, radius=5.5, phase=1.0)
    target = np.sqrt(fourier.corner(crystals.noisy_counts(density, 1e4))).astype(np.float32)
    target[3] = -20
    start = fourier.corner(np.abs(density).astype(np.complex64))
    ends = []
    for device in ("cpu", "cuda"):
        given = (to_device(array.copy(), device) for array in (target, start, fourier.corner(support)))
        solver = Solver(*given, None if coherent else coherence.START)
        solver.run(parse(recipe), Schedule(support_every=0), lambda _: None)
        ends.append((to_host(solver.density), solver.measure()[0]))
    scale = np.abs(ends[0][0]).max()
    np.testing.assert_allclose(ends[1][0], ends[0][0], atol=2e-3 * scale)
    assert ends[1][1] == pytest.approx(ends[0][1], rel=1e-2)
