"""Tiny real ONNX networks whose answers are known."""

import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from braggd.example import example_scan
from braggd.inference.filler import FORMAT
from braggd.inference.slabs import CHANNELS


def save(
    path: Path, nodes, constants=None, channels=2, size=("z", "y", "x"), opset=17, ir=8, names=("volume",)
) -> Path:
    """A network from its nodes; the output is called `filled`."""
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels if len(names) == 1 else 1, *size))
        for name in names
    ]
    output = helper.make_tensor_value_info("filled", TensorProto.FLOAT, None)
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(nodes, "network", inputs, [output], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir), path)
    return path


def weighted_sum(path: Path, weights, bias=0.0, **options) -> Path:
    """filled = sum of the channels, each with its weight, + bias: a convolution over single voxels."""
    kernel = np.asarray(weights, np.float32).reshape(1, -1, 1, 1, 1)
    node = helper.make_node("Conv", ["volume", "kernel", "bias"], ["filled"])
    constants = {"kernel": kernel, "bias": np.asarray([bias], np.float32)}
    return save(path, [node], constants, channels=kernel.size, **options)


def filler(
    path: Path,
    weights=None,
    bias=0.0,
    sigma=-1.0,
    reach=1,
    widths=(2, 3, 4, 6, 8, 12, 40),
    block=1,
    **card_too,
):
    """A network that fills gaps: log counts = sum of the channels of a line, each with its weight, + bias.

    weights: by number of the channel; bias: one, or one for each of the 40 planes of a gap
    sigma: logarithm of the standard deviation, everywhere
    block: the mean over so many lines along u and v is taken, and other sizes than multiples of it are refused
    """
    size = 2 * reach + 1
    kernel = np.zeros((40, CHANNELS, size, size), np.float32)
    for channel, weight in (weights or {}).items():
        kernel[:, channel, reach, reach] = weight
    constants = {
        "kernel": kernel,
        "bias": np.broadcast_to(np.asarray(bias, np.float32), 40).copy(),
        "scales": np.array([1, 1, block, block], np.float32),
        "zero": np.zeros((), np.float32),
        "sigma": np.asarray(sigma, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["lines", "kernel", "bias"], ["single"]),
        helper.make_node("SpaceToDepth", ["single"], ["blocks"], blocksize=block),
        helper.make_node("DepthToSpace", ["blocks"], ["whole"], blocksize=block),
        helper.make_node("AveragePool", ["whole"], ["means"], kernel_shape=[block, block], strides=[block, block]),
        helper.make_node("Resize", ["means", "", "scales"], ["logs"], mode="nearest"),
        helper.make_node("Mul", ["logs", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "sigma"], ["log_sigma"]),
    ]
    lines = helper.make_tensor_value_info("lines", TensorProto.FLOAT, (1, CHANNELS, "u", "v"))
    width = helper.make_tensor_value_info("width", TensorProto.INT64, (1,))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logs", "log_sigma")]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "filler", [lines, width], outputs, initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    card(path, **{"task": "gaps", "format": FORMAT, "widths": widths, "reach": reach, **card_too})
    return path


def failing(path: Path, **options) -> Path:
    """Loads, and fails in every run: a reshape to a size that nothing has."""
    node = helper.make_node("Reshape", ["volume", "shape"], ["filled"])
    return save(path, [node], {"shape": np.asarray([7, 11, 13, 17, 19], np.int64)}, **options)


def not_finite(path: Path) -> Path:
    """A filling network that answers NaN everywhere."""
    return filler(path, bias=np.nan)


def card(model: Path, **content) -> None:
    model.with_suffix(".json").write_text(json.dumps(content))


@pytest.fixture
def networks():
    return SimpleNamespace(
        weighted_sum=weighted_sum, filler=filler, failing=failing, not_finite=not_finite, save=save, card=card
    )


@pytest.fixture(scope="session")
def measured():
    """The measured scan about its peak, (64, 64, 64) float32; the peak is at its centre."""
    with h5py.File(example_scan(), "r") as file:
        return file["entry/data/data"][67:131, 94:158, 95:159].astype(np.float32)
