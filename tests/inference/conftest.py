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


def failing(path: Path, **options) -> Path:
    """Loads, and fails in every run: a reshape to a size that nothing has."""
    node = helper.make_node("Reshape", ["volume", "shape"], ["filled"])
    return save(path, [node], {"shape": np.asarray([7, 11, 13, 17, 19], np.int64)}, **options)


def not_finite(path: Path) -> Path:
    """log(-1 - input): NaN everywhere."""
    nodes = [
        helper.make_node("Slice", ["volume", "zero", "one", "axis"], ["first"]),
        helper.make_node("Sub", ["minus", "first"], ["negative"]),
        helper.make_node("Log", ["negative"], ["filled"]),
    ]
    constants = {name: np.asarray([value], np.int64) for name, value in {"zero": 0, "one": 1, "axis": 1}.items()}
    return save(path, nodes, constants | {"minus": np.asarray(-1, np.float32)})


def card(model: Path, **content) -> None:
    model.with_suffix(".json").write_text(json.dumps(content))


@pytest.fixture
def networks():
    return SimpleNamespace(weighted_sum=weighted_sum, failing=failing, not_finite=not_finite, save=save, card=card)


@pytest.fixture(scope="session")
def measured():
    """The measured scan about its peak, (64, 64, 64) float32; the peak is at its centre."""
    with h5py.File(example_scan(), "r") as file:
        return file["entry/data/data"][67:131, 94:158, 95:159].astype(np.float32)
