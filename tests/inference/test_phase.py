"""Prediction through real ONNX networks, what happens when they fail, and patterns that they have not learnt."""

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from braggd.config import InferenceConfig
from braggd.framing import EDGE, framing_of
from braggd.inference.oddities import oddities
from braggd.inference.phase import grown, predict
from braggd.inference.predictor import FORMAT, Predictor, mirrored
from braggd.phasing.align import accuracy, align
from braggd_models.simulate.dataset import random_crystal

SHAPE = (48, 48, 48)


@pytest.fixture(scope="module")
def crystal():
    return random_crystal(
        3, shape=SHAPE, strain="gaussians", phase_range=(2, 2), peak_counts=(1e5, 1e5), crystal="wulff"
    )


def config(model="", **options):
    return InferenceConfig(phase_model=str(model), providers=("cpu",), **options)


def flat(path, scale=1.0, **card_too):
    """A network that answers the amplitude with a phase of 0 everywhere; its misfit is the brightest voxel's place."""
    nodes = [
        helper.make_node("Mul", ["intensity", "measured"], ["counts"]),
        helper.make_node("Sqrt", ["counts"], ["amplitude"]),
        helper.make_node("Mul", ["amplitude", "scale"], ["real"]),
        helper.make_node("Sub", ["real", "real"], ["imag"]),
        helper.make_node("Unsqueeze", ["real", "one"], ["real5"]),
        helper.make_node("Unsqueeze", ["imag", "one"], ["imag5"]),
        helper.make_node("Concat", ["real5", "imag5"], ["wave"], axis=1),
        helper.make_node("ReduceMean", ["measured"], ["misfit"], axes=[1, 2, 3], keepdims=0),
    ]
    constants = {"scale": np.float32(scale), "one": np.array([1], np.int64)}
    size = ("batch", EDGE, EDGE, EDGE)
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name in ("intensity", "measured")]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("wave", "misfit")]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "flat", inputs, outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path, {"task": "phase", "format": FORMAT, **card_too}


def ready(networks, made):
    path, card = made
    networks.card(path, **card)
    return path


def test_the_object_comes_back_on_the_scan_s_own_grid(crystal, tmp_path, networks):
    done = predict(crystal.counts, crystal.valid, config(ready(networks, flat(tmp_path / "flat.onnx"))))
    assert done.density.shape == done.support.shape == SHAPE
    assert done.density.dtype == np.complex64
    assert not done.density[~done.support].any()
    assert (done.provider, len(done.model_hash), done.degraded) == ("cpu", 64, "")
    # a real positive wave is that of an autocorrelation: brightest in the middle
    middle = np.unravel_index(np.argmax(np.abs(done.density)), SHAPE)
    assert np.abs(np.array(middle) - 24).max() <= 2


def test_true_phases_at_low_resolution_give_the_crystal(crystal):
    framing = framing_of(crystal.counts)
    places = [c + (np.arange(EDGE) - EDGE // 2) * s for c, s in zip(framing.centre, framing.step, strict=True)]
    lines = [
        np.exp(-2j * np.pi / n * np.outer(p - n // 2, np.arange(n) - n // 2))
        for p, n in zip(places, SHAPE, strict=True)
    ]
    small = np.einsum("az,by,cx,zyx->abc", *lines, crystal.density, optimize=True)
    density, support = grown(small.astype(np.complex64), framing, crystal.counts, crystal.valid)
    assert accuracy(align(crystal.density, density).density, crystal.density) > 97
    # generous: refinement shrinks a support more easily than it grows one
    assert support[crystal.support].mean() > 0.99
    assert np.count_nonzero(support) < 1.6 * np.count_nonzero(crystal.support)


def test_without_a_network_nothing_is_predicted(crystal):
    done = predict(crystal.counts, crystal.valid, config())
    assert (done.density, done.support, done.warnings) == (None, None, ())


@pytest.mark.parametrize("kind", ["missing", "corrupt", "other format", "for gaps", "no card", "not finite"])
def test_a_network_that_fails_leaves_phasing_to_random_starts_and_says_so(crystal, tmp_path, networks, kind):
    path = tmp_path / "net.onnx"
    if kind == "corrupt":
        path.write_bytes(b"no network")
    elif kind == "other format":
        ready(networks, flat(path, format=99))
    elif kind == "for gaps":
        networks.filler(path)
    elif kind == "no card":
        flat(path)
    elif kind == "not finite":
        ready(networks, flat(path, scale=np.inf))
    done = predict(crystal.counts, crystal.valid, config(path))
    assert done.density is None
    assert done.warnings[0].startswith("phasing starts at random, because the network")
    assert "net.onnx" in done.warnings[0]
    assert done.degraded == done.warnings[0]


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_a_mirrored_crystal_has_the_mirrored_pattern(crystal, axes):
    def pattern(density):
        return np.abs(np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(density)))) ** 2

    once = mirrored(crystal.density, axes)
    np.testing.assert_array_equal(mirrored(once, axes), crystal.density)
    wanted = mirrored(pattern(crystal.density), axes)
    np.testing.assert_allclose(pattern(once), wanted, atol=1e-4 * wanted.max())


def test_the_network_that_comes_with_braggd_finds_a_crystal(crystal):
    done = predict(crystal.counts, crystal.valid, InferenceConfig(providers=("cpu",)))
    assert done.warnings == ()
    assert accuracy(align(crystal.density, done.density).density, crystal.density) > 75


def recorded(density, peak=1e5):
    wave = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(density)))
    intensity = np.abs(wave) ** 2
    return np.random.default_rng(0).poisson(intensity * peak / intensity.max()).astype(np.float32)


def test_a_crystal_is_nothing_odd(crystal):
    assert oddities(crystal.counts, framing_of(crystal.counts)) == []


def test_a_pattern_without_fringes_is_recognised():
    z, y, x = np.meshgrid(*[np.arange(n) - n // 2 for n in SHAPE], indexing="ij", sparse=True)
    blob = np.exp(-(z**2 + y**2 + x**2) / 2 / 2.5**2)
    counts = recorded(blob, 1e6)
    assert any("no fringes" in odd for odd in oddities(counts, framing_of(counts)))


def test_two_crystals_are_recognised(crystal):
    one = random_crystal(3, shape=SHAPE, strain="none", oversampling=(6, 6), crystal="cube").density
    counts = recorded(one + 0.8 * np.roll(one, 16, axis=0))
    assert any("two crystals" in odd for odd in oddities(counts, framing_of(counts)))


def test_a_split_peak_is_recognised(crystal):
    one = random_crystal(3, shape=SHAPE, strain="none", oversampling=(3, 3), crystal="wulff").counts
    counts = np.maximum(one, np.roll(0.8 * one, 20, axis=1))
    assert any("split" in odd for odd in oddities(counts, framing_of(counts)))


def answering(misfits):
    """A network whose answer number n is n everywhere, from 1 on, and how many mirror images it was asked of."""
    left, asked = list(enumerate(misfits, 1)), []

    def run(feeds):
        count = len(feeds["intensity"])
        asked.append(count)
        mine = [left.pop(0) for _ in range(count)]
        waves = np.zeros((count, 2, EDGE, EDGE, EDGE), np.float32)
        waves[:, 0] = np.array([number for number, _ in mine])[:, None, None, None]
        return {"wave": waves, "misfit": np.array([misfit for _, misfit in mine], np.float32)}

    return Predictor(SimpleNamespace(run=run, model="a test's"), 4), asked


def test_of_several_answers_the_better_ones_count():
    predictor, asked = answering([0.3, 0.2, 0.5, 0.22])
    wave, misfit = predictor.ask(*np.ones((2, EDGE, EDGE, EDGE), np.float32))
    np.testing.assert_allclose(wave, 3)
    assert misfit == pytest.approx(0.21)
    assert sum(asked) == 4


def test_an_answer_that_explains_the_pattern_is_enough():
    predictor, asked = answering([0.1])
    wave, misfit = predictor.ask(*np.ones((2, EDGE, EDGE, EDGE), np.float32))
    np.testing.assert_allclose(wave, 1)
    assert misfit == pytest.approx(0.1)
    assert asked == [1]
