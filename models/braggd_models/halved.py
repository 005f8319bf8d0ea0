"""ONNX files with half-precision weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

# Smaller tensors are not worth a cast.
_FROM = 1024
HALF = "_half"
"""Ends the names of halved weights."""


def halve(path: Path, spared: Callable[[str], bool] = lambda name: False) -> None:
    """Store large float32 weights as float16, cast back when the network is loaded.

    spared: by a weight's name, whether it keeps its precision
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph = model.graph
    casts = []
    for tensor in list(graph.initializer):
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size >= _FROM and not spared(tensor.name):
            graph.initializer.remove(tensor)
            graph.initializer.append(numpy_helper.from_array(values.astype(np.float16), tensor.name + HALF))
            casts.append(helper.make_node("Cast", [tensor.name + HALF], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    onnx.save(model, path)
