"""Inpainting through real ONNX networks whose answers are known, and what happens when they fail."""

import numpy as np
import pytest

from braggd.config import InferenceConfig
from braggd.errors import ModelError
from braggd.inference.filler import FORMAT
from braggd.inference.inpaint import inpaint
from braggd.inference.interpolate import interpolate
from braggd.inference.shipped import shipped
from braggd.inference.slabs import CONTEXT

LEVEL = 4 * CONTEXT


@pytest.fixture
def cross(measured):
    valid = np.ones(measured.shape, bool)
    valid[:, 36:42] = valid[:, :, 40:46] = False
    return valid


@pytest.fixture
def stripe(measured):
    """Rows 36..41, near enough to the peak that there is signal everywhere."""
    valid = np.ones(measured.shape, bool)
    valid[:, 36:42] = False
    return valid


def config(model="", **options):
    return InferenceConfig(inpaint_model=str(model), providers=("cpu",), **options)


def painted(done, valid):
    return ~valid & np.isfinite(done.uncertainty)


def test_inpaint_keeps_every_measured_photon(measured, cross, tmp_path, networks):
    for model in ("", "auto", networks.filler(tmp_path / "loud.onnx", bias=5.0)):
        done = inpaint(measured, cross, config(model))
        assert (done.counts[cross] == measured[cross]).all()
        assert done.counts.min() >= 0
        assert not done.uncertainty[cross].any()


def test_without_a_network_gaps_are_interpolated(measured, cross):
    done = inpaint(measured, cross, config())
    np.testing.assert_array_equal(done.counts, interpolate(measured, cross))
    assert (done.method, done.provider, done.warnings, done.model_hash) == ("interpolation", "cpu", (), "")
    assert np.isinf(done.uncertainty[~cross]).all()
    assert done.seconds > 0


def test_the_network_that_comes_with_braggd_is_found_and_used_without_a_warning(measured, cross):
    done = inpaint(measured, cross, InferenceConfig())
    assert (done.method, done.warnings) == ("network", ())
    assert len(done.model_hash) == 64
    assert shipped("gaps") is not None
    assert shipped("no such task") is None


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_network_that_copies_what_lies_before_a_gap_does_so_along_every_axis(measured, tmp_path, networks, axis):
    valid = np.ones(measured.shape, bool)
    np.moveaxis(valid, axis, 0)[36:42] = False
    done = inpaint(measured, valid, config(networks.filler(tmp_path / "copy.onnx", {0: 1.0, LEVEL: 1.0})))
    taken = painted(done, valid)
    before = np.broadcast_to(np.moveaxis(measured, axis, 0)[35], (6, 64, 64))
    filled, taken = (np.moveaxis(a, axis, 0)[36:42] for a in (done.counts, taken))
    assert taken.mean() > 0.5
    np.testing.assert_allclose(filled[taken], before[taken], rtol=1e-3, atol=1e-3)


def test_the_network_sees_the_far_side_in_mirrored_order_and_what_was_measured(measured, tmp_path, networks):
    valid = np.ones(measured.shape, bool)
    valid[:, 30:36] = valid[:, 38:44] = False
    # the third voxel after the gap (channel 16 + 2) lies in the next gap: 3 where measured, 0 where not
    model = networks.filler(tmp_path / "flags.onnx", {2 * CONTEXT + CONTEXT + 2: 3.0})
    done = inpaint(measured, valid, config(model))
    assert not done.counts[:, 30:36][painted(done, valid)[:, 30:36]].any()
    np.testing.assert_allclose(done.counts[:, 38:44][painted(done, valid)[:, 38:44]], np.expm1(3.0), rtol=1e-5)
    model = networks.filler(tmp_path / "third.onnx", {CONTEXT + 2: 1.0, LEVEL: 1.0})
    done = inpaint(measured, valid, config(model))
    taken = painted(done, valid)[:, 38:44]
    expected = np.broadcast_to(measured[:, 46:47], (64, 6, 64))[taken]
    np.testing.assert_allclose(done.counts[:, 38:44][taken], expected, rtol=1e-3, atol=1e-3)


def test_inversion_averages_with_what_lies_on_the_far_side(measured, stripe, tmp_path, networks):
    model = networks.filler(tmp_path / "copy.onnx", {0: 1.0, LEVEL: 1.0}, inversion=True)
    done = inpaint(measured, stripe, config(model))
    taken = painted(done, stripe)[:, 36:42]
    mean = (np.log1p(measured[:, 35:36]) + np.log1p(measured[:, 42:43])) / 2
    expected = np.broadcast_to(np.expm1(mean), (64, 6, 64))[taken]
    np.testing.assert_allclose(done.counts[:, 36:42][taken], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("widths", "offset"), [((6,), 0), ((3, 8), 1), ((12, 40), 3)])
def test_a_gap_of_unknown_width_is_widened_to_the_next(measured, stripe, tmp_path, networks, widths, offset):
    """A network that answers the number of the plane."""
    model = networks.filler(tmp_path / "planes.onnx", bias=np.arange(40) / 4, widths=widths)
    done = inpaint(measured, stripe, config(model))
    for plane in range(36, 42):
        taken = painted(done, stripe)[:, plane]
        np.testing.assert_allclose(np.log1p(done.counts[:, plane][taken]), (plane - 36 + offset) / 4, atol=1e-5)


def test_tiles_of_any_size_give_the_same(measured, cross, tmp_path, networks):
    whole = inpaint(measured, cross, config(networks.filler(tmp_path / "whole.onnx", {0: 0.7, LEVEL: 1.0}, reach=2)))
    for tile in (7, 33):
        model = networks.filler(tmp_path / f"{tile}.onnx", {0: 0.7, LEVEL: 1.0}, reach=2, tile=tile)
        np.testing.assert_allclose(inpaint(measured, cross, config(model)).counts, whole.counts, rtol=1e-5)


def test_a_network_that_takes_blocks_of_lines_gives_the_same_in_tiles_of_any_size(measured, cross, tmp_path, networks):
    """A network that answers the mean over blocks of 8 x 8 lines, and takes nothing but whole blocks."""
    weights = {0: 0.7, LEVEL: 1.0}
    model = networks.filler(tmp_path / "whole.onnx", weights, block=8, stride=8)
    whole = inpaint(measured, cross, config(model))
    assert (whole.method, whole.warnings) == ("network", ())
    for tile in (8, 24, 30):
        model = networks.filler(tmp_path / f"{tile}.onnx", weights, block=8, stride=8, around=8, tile=tile)
        np.testing.assert_allclose(inpaint(measured, cross, config(model)).counts, whole.counts, rtol=1e-5)


def test_where_gaps_cross_the_lines_begin_at_what_was_painted(measured, cross, tmp_path, networks):
    """Copying from before the gap twice brings the corner's voxel into the crossing."""
    done = inpaint(measured, cross, config(networks.filler(tmp_path / "copy.onnx", {0: 1.0, LEVEL: 1.0})))
    taken = painted(done, cross)[:, 36:42, 40:46]
    corner = np.broadcast_to(measured[:, 35:36, 39:40], (64, 6, 6))
    assert taken.any()
    np.testing.assert_allclose(done.counts[:, 36:42, 40:46][taken], corner[taken], rtol=1e-3, atol=1e-3)


def test_the_network_s_uncertainty_is_handed_on(measured, stripe, tmp_path, networks):
    done = inpaint(measured, stripe, config(networks.filler(tmp_path / "n.onnx", {LEVEL: 1.0}, sigma=np.log(0.3))))
    np.testing.assert_allclose(done.uncertainty[painted(done, stripe)], 0.3, rtol=1e-5)


def test_a_gap_without_signal_is_left_at_interpolation(tmp_path, networks):
    counts = np.zeros((48, 48, 48), np.float32)
    counts[20:28, 20:28, 4:12] = 1000
    valid = np.ones(counts.shape, bool)
    valid[:, :, 8:10] = valid[:, :, 36:42] = False
    model = networks.filler(tmp_path / "loud.onnx", bias=2.0)
    done = inpaint(counts, valid, config(model))
    assert done.counts[24, 24, 8] == pytest.approx(np.expm1(2.0), rel=1e-4)
    assert not done.counts[:, :, 36:42].any()
    empty = inpaint(np.zeros_like(counts), valid, config(model))
    assert empty.method == "interpolation"
    assert not empty.counts.any()


@pytest.mark.parametrize(
    "kind", ["dead pixels", "open at the border", "wider than any", "wider than the network knows"]
)
def test_gaps_that_are_nothing_for_the_network_are_interpolated_without_a_warning(measured, tmp_path, networks, kind):
    valid = np.ones(measured.shape, bool)
    if kind == "dead pixels":
        valid[:, [3, 30, 33], [40, 31, 7]] = False
    elif kind == "open at the border":
        valid[:, :, 50:] = False
    elif kind == "wider than any":
        valid[:, 10:55] = False
    else:
        valid[:, 36:42] = False
    done = inpaint(measured, valid, config(networks.filler(tmp_path / "loud.onnx", bias=3.0, widths=[3, 5])))
    np.testing.assert_array_equal(done.counts, interpolate(measured, valid))
    assert (done.method, done.warnings) == ("interpolation", ())


def test_a_network_that_shouts_is_held_within_reason(measured, cross, tmp_path, networks):
    done = inpaint(measured, cross, config(networks.filler(tmp_path / "shout.onnx", bias=90.0)))
    assert np.isfinite(done.counts).all()
    assert np.log1p(done.counts.max()) <= np.log1p(measured.max()) + 4.01


@pytest.mark.parametrize(
    "kind", ["missing", "corrupt", "cut", "failing", "nan", "shape", "no card", "card", "format", "widths"]
)
def test_a_network_that_fails_is_replaced_by_interpolation_and_said(measured, cross, tmp_path, networks, kind):
    model = tmp_path / f"{kind.replace(' ', '-')}.onnx"
    if kind == "corrupt":
        model.write_text("no network")
    elif kind == "cut":
        model.write_bytes(networks.filler(tmp_path / "whole.onnx").read_bytes()[:3000])
    elif kind == "failing":
        networks.failing(model)
        networks.card(model, format=FORMAT, widths=[6], reach=1)
    elif kind == "nan":
        networks.not_finite(model)
    elif kind == "shape":
        networks.filler(model, reach=1)
        networks.card(model, format=FORMAT, widths=[6, 12], reach=2)
    elif kind == "no card":
        networks.filler(model).with_suffix(".json").unlink()
    elif kind == "card":
        networks.filler(model, tile="large")
    elif kind == "stride":
        networks.filler(model, stride=0)
    elif kind == "format":
        networks.filler(model, format=99)
    elif kind == "widths":
        networks.filler(model, widths=[0])
    done = inpaint(measured, cross, config(model))
    np.testing.assert_array_equal(done.counts, interpolate(measured, cross))
    assert done.method == "interpolation"
    (warning,) = done.warnings
    assert model.name in warning
    assert "interpolation" in warning


@pytest.mark.parametrize("shape", [(1, 9, 40), (3, 64, 7), (5, 5, 5), (64, 1, 64)])
def test_volumes_smaller_than_the_network_s_field_are_filled(measured, shape):
    counts = measured[tuple(slice(32 - size // 2, 32 - size // 2 + size) for size in shape)]
    valid = np.ones(shape, bool)
    valid[..., shape[2] // 2 : shape[2] // 2 + 2] = False
    done = inpaint(counts, valid, InferenceConfig())
    assert np.isfinite(done.counts).all()
    assert done.warnings == ()


def test_a_network_replaced_on_disk_is_loaded_anew(measured, cross, tmp_path, networks):
    model = networks.filler(tmp_path / "net.onnx", bias=1.0)
    first = inpaint(measured, cross, config(model))
    networks.filler(model, bias=2.0, reach=2)
    assert inpaint(measured, cross, config(model)).model_hash != first.model_hash


def test_values_that_are_not_finite_count_as_not_measured(measured, cross):
    counts = measured.copy()
    counts[10, 10, 10], counts[20, 5, 5] = np.nan, np.inf
    for model in ("", "auto"):
        done = inpaint(counts, cross, config(model))
        assert np.isfinite(done.counts).all()
        np.testing.assert_allclose(done.counts[10, 10, 10], measured[10, 10, 10], atol=10)


def test_what_lies_under_the_mask_does_not_matter(measured, cross):
    rubbish = np.where(cross, measured, np.float32(4294967295))
    for model in ("", "auto"):
        ours, theirs = (inpaint(counts, cross, config(model)).counts for counts in (rubbish, measured))
        np.testing.assert_array_equal(ours, theirs)


def test_a_scan_without_gaps_stays_as_it_is(measured):
    done = inpaint(measured, np.ones(measured.shape, bool), InferenceConfig())
    assert done.method == "none"
    np.testing.assert_array_equal(done.counts, measured)


def test_nothing_measured_is_refused(measured):
    for model in ("", "auto"):
        with pytest.raises(ModelError, match="no voxel"):
            inpaint(measured, np.zeros(measured.shape, bool), config(model))
