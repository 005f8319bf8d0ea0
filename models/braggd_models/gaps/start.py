"""A training that begins with the weights of an exported network, such as the shipped one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from braggd_models.errors import TrainingError
from braggd_models.gaps.linear import WIDTHS, Guesses
from braggd_models.gaps.slabnet import rows
from braggd_models.halved import HALF

_LOGS, _COUNTS = "logs_matrices", "counts_matrices"

Weights = dict[str, NDArray[Any]]


def begin(net: nn.Module, path: Path) -> tuple[Guesses, str]:
    """Give a network the exported weights whose names and shapes it knows; the others stay as they are.

    path: FILE.onnx, as `export` writes it
    Returns its linear guesses, and what a card says of the start. Raises TrainingError where it cannot be read, or
    nothing of it fits.
    """
    weights = _read(path)
    own = net.state_dict()
    found = {name.removeprefix("net."): values for name, values in weights.items() if name.startswith("net.")}
    known = {name: values for name, values in found.items() if name in own and own[name].shape == values.shape}
    if not known or not {_LOGS, _COUNTS} <= weights.keys():
        raise TrainingError(f"{path}: is no network that fills gaps; begin without it, or with another")
    net.load_state_dict({name: torch.from_numpy(values.astype(np.float32)) for name, values in known.items()}, False)
    share = sum(own[name].numel() for name in known) / sum(values.numel() for values in own.values())
    card = path.with_suffix(".json")
    minutes = json.loads(card.read_bytes()).get("minutes", "unknown") if card.exists() else "unknown"
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _guesses(weights), f"{share:.0%} of the weights from {path.name}, minutes {minutes}, sha256 {digest}"


def _read(path: Path) -> Weights:
    import onnx
    from onnx import numpy_helper

    try:
        tensors = onnx.load(path).graph.initializer
    except Exception as error:  # of the file system, or of one of the libraries beneath onnx
        raise TrainingError(f"{path}: cannot be read ({error}); name an exported network") from error
    return {tensor.name.removesuffix(HALF): numpy_helper.to_array(tensor) for tensor in tensors}


def _guesses(weights: Weights) -> Guesses:
    logs, counts = (
        {
            width: np.ascontiguousarray(weights[name][rows()[width, :width]].transpose(1, 2, 0), np.float32)
            for width in WIDTHS
        }
        for name in (_LOGS, _COUNTS)
    )
    return Guesses(logs, counts)
