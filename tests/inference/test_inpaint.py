"""Inpainting through real ONNX networks whose answers are known, and what happens when they fail."""

import numpy as np
import pytest

from braggd.config import InferenceConfig
from braggd.errors import ModelError
from braggd.inference.inpaint import inpaint
from braggd.inference.interpolate import interpolate


@pytest.fixture
def cross(measured):
    valid = np.ones(measured.shape, bool)
    valid[:, 36:42] = valid[:, :, 40:46] = False
    return valid


def config(model="", **options):
    return InferenceConfig(inpaint_model=str(model), providers=("cpu",), **options)


def scale(counts, valid):
    return np.log1p(counts[valid].max())


def test_inpaint_keeps_every_measured_photon(measured, cross, tmp_path, networks):
    model = networks.weighted_sum(tmp_path / "loud.onnx", [0.3, 0.9], bias=0.2)
    for which in ("", model):
        filled = inpaint(measured, cross, config(which)).counts
        assert (filled[cross] == measured[cross]).all()
        assert filled.min() >= 0


def test_without_a_network_gaps_are_interpolated(measured, cross):
    done = inpaint(measured, cross, config())
    np.testing.assert_array_equal(done.counts, interpolate(measured, cross))
    assert (done.method, done.provider, done.warnings, done.model_hash) == ("interpolation", "cpu", (), "")
    assert done.seconds > 0


def test_the_network_s_answer_is_scaled_back_to_photons(measured, cross, tmp_path, networks):
    """A network that answers 0.25 x mask, whatever it sees."""
    model = networks.weighted_sum(tmp_path / "constant.onnx", [0.0, 0.25])
    done = inpaint(measured, cross, config(model))
    painted = ~cross & (done.counts != interpolate(measured, cross))
    expected = np.expm1(0.25 * scale(measured, cross))
    np.testing.assert_allclose(done.counts[painted], expected, rtol=1e-4)
    assert painted.sum() > 0.5 * (~cross).sum()
    assert done.method == "network"
    assert len(done.model_hash) == 64


def test_the_network_sees_gaps_as_zero_and_marked(measured, cross, tmp_path, networks):
    """A network that answers counts + 0.1: in the gap, where it sees zero, that is 0.1."""
    done = inpaint(measured, cross, config(networks.weighted_sum(tmp_path / "n.onnx", [1.0, 0.0], bias=0.1)))
    painted = ~cross & (done.counts != interpolate(measured, cross))
    np.testing.assert_allclose(done.counts[painted], np.expm1(0.1 * scale(measured, cross)), rtol=1e-4)


@pytest.mark.parametrize("tile", [[128, 128, 128], [64, 64, 64], [32, 48, 24], [20, 20, 20]])
@pytest.mark.parametrize("multiple", [1, 16])
def test_a_network_that_returns_the_interpolation_returns_it_in_any_tiling(
    measured, cross, tmp_path, networks, tile, multiple
):
    model = networks.weighted_sum(tmp_path / "same.onnx", [0.0, 0.0, 1.0])
    networks.card(model, tile=tile, multiple=multiple)
    odd = (slice(0, 61), slice(3, 64), slice(0, 57))
    counts, valid = measured[odd], cross[odd]
    done = inpaint(counts, valid, config(model))
    assert done.method == "network"
    np.testing.assert_allclose(done.counts, interpolate(counts, valid), rtol=2e-4, atol=1e-4)


def test_a_network_of_fixed_size_is_slid_over_a_larger_scan(measured, cross, tmp_path, networks):
    model = networks.weighted_sum(tmp_path / "fixed.onnx", [0.0, 0.0, 1.0], size=(32, 32, 32))
    done = inpaint(measured[:20], cross[:20], config(model))
    assert (done.method, done.warnings) == ("network", ())
    np.testing.assert_allclose(done.counts, interpolate(measured[:20], cross[:20]), rtol=2e-4, atol=1e-4)


def test_named_inputs_are_fed_by_their_names(measured, cross, tmp_path, networks):
    from onnx import helper

    node = helper.make_node("Mul", ["interpolated", "mask"], ["filled"])
    model = networks.save(tmp_path / "named.onnx", [node], names=("mask", "interpolated"))
    done = inpaint(measured, cross, config(model))
    assert done.method == "network"
    np.testing.assert_allclose(done.counts, interpolate(measured, cross), rtol=2e-4, atol=1e-4)


def test_a_gap_without_signal_is_left_at_interpolation(tmp_path, networks):
    counts = np.zeros((48, 48, 48), np.float32)
    counts[20:28, 20:28, 4:12] = 1000
    valid = np.ones(counts.shape, bool)
    valid[:, :, 8:10] = valid[:, :, 36:42] = False
    done = inpaint(counts, valid, config(networks.weighted_sum(tmp_path / "loud.onnx", [0.0, 0.5])))
    assert done.counts[24, 24, 8] == pytest.approx(np.expm1(0.5 * np.log1p(1000)), rel=1e-4)
    assert not done.counts[:, :, 36:42].any()
    empty = inpaint(np.zeros_like(counts), valid, config(tmp_path / "loud.onnx"))
    assert empty.method == "interpolation"
    assert not empty.counts.any()


def test_a_network_that_shouts_is_held_near_the_brightest_voxel(measured, cross, tmp_path, networks):
    done = inpaint(measured, cross, config(networks.weighted_sum(tmp_path / "shout.onnx", [0.0, 90.0])))
    assert np.log1p(done.counts.max()) <= 1.11 * scale(measured, cross)


@pytest.mark.parametrize("kind", ["missing", "corrupt", "failing", "nan", "channels", "shape", "card"])
def test_a_network_that_fails_is_replaced_by_interpolation_and_said(measured, cross, tmp_path, networks, kind):
    model = tmp_path / f"{kind}.onnx"
    if kind == "corrupt":
        model.write_text("no network")
    elif kind == "failing":
        networks.failing(model)
    elif kind == "nan":
        networks.not_finite(model)
    elif kind == "channels":
        networks.weighted_sum(model, np.ones(7))
    elif kind == "shape":
        networks.save(model, [_helper().make_node("Identity", ["volume"], ["filled"])])
    elif kind == "card":
        networks.weighted_sum(model, np.ones(2))
        networks.card(model, tile="large")
    done = inpaint(measured, cross, config(model))
    np.testing.assert_array_equal(done.counts, interpolate(measured, cross))
    assert done.method == "interpolation"
    (warning,) = done.warnings
    assert model.name in warning
    assert "interpolation" in warning


def _helper():
    from onnx import helper

    return helper


def test_a_network_replaced_on_disk_is_loaded_anew(measured, cross, tmp_path, networks):
    model = networks.weighted_sum(tmp_path / "net.onnx", [0.0, 0.25])
    first = inpaint(measured, cross, config(model))
    networks.weighted_sum(model, [0.0, 0.0, 0.5])
    assert inpaint(measured, cross, config(model)).model_hash != first.model_hash


def test_values_that_are_not_finite_count_as_not_measured(measured, cross):
    counts = measured.copy()
    counts[10, 10, 10], counts[20, 5, 5] = np.nan, np.inf
    done = inpaint(counts, cross, config())
    assert np.isfinite(done.counts).all()
    np.testing.assert_allclose(done.counts[10, 10, 10], measured[10, 10, 10], atol=10)


def test_what_lies_under_the_mask_does_not_matter(measured, cross):
    rubbish = np.where(cross, measured, np.float32(4294967295))
    np.testing.assert_array_equal(inpaint(rubbish, cross, config()).counts, inpaint(measured, cross, config()).counts)


def test_a_scan_without_gaps_stays_as_it_is(measured, tmp_path, networks):
    model = networks.weighted_sum(tmp_path / "loud.onnx", [0.0, 0.5])
    done = inpaint(measured, np.ones(measured.shape, bool), config(model))
    assert done.method == "none"
    np.testing.assert_array_equal(done.counts, measured)


def test_nothing_measured_is_refused(measured, tmp_path, networks):
    for model in ("", networks.weighted_sum(tmp_path / "n.onnx", [0.0, 0.5])):
        with pytest.raises(ModelError, match="no voxel"):
            inpaint(measured, np.zeros(measured.shape, bool), config(model))
