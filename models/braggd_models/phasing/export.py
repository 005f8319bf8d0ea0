"""The trained network as the daemon runs it: one ONNX file with half-precision weights, and its card."""

from __future__ import annotations

import datetime
import hashlib
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from braggd.inference.predictor import FORMAT
from braggd_models.errors import TrainingError
from braggd_models.gaps.thesis import count
from braggd_models.halved import halve
from braggd_models.phasing.crystals import EDGE, draw
from braggd_models.phasing.graph import Graph
from braggd_models.phasing.objective import HELD_SEED
from braggd_models.phasing.seednet import SeedNet
from braggd_models.training import Plan, resumed

_OPSET = 17
_LARGEST_MB = 40.0


def export(net: SeedNet, path: Path, card: Mapping[str, Any], hypotheses: int = 4) -> None:
    """Write the network and its card.

    path: FILE.onnx; FILE.json becomes the card; card: what it says beyond how the network is fed
    hypotheses: mirror images that the daemon asks about

    Raises TrainingError where the file is too large, or ONNX Runtime does not give what PyTorch gives.
    """
    graph = Graph(net).eval()
    example = draw(2, torch.Generator().manual_seed(HELD_SEED + 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ["intensity", "measured", "wave", "misfit"]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph,
            (example.intensity, example.measured),
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            input_names=names[:2],
            output_names=names[2:],
            dynamic_axes={name: {0: "batch"} for name in names},
        )
    halve(path, spared=lambda name: not name.startswith("net."))
    size = path.stat().st_size / 1e6
    if size > _LARGEST_MB:
        raise TrainingError(f"{path}: {size:.0f} MB is more than the {_LARGEST_MB:.0f} MB a network may have")
    _compare(net, path)
    content = {
        "task": "phase",
        "format": FORMAT,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "edge": EDGE,
        "hypotheses": hypotheses,
        "steps": net.steps,
        "parameters": count(net),
        "weights": "float16",
        "precision": "bfloat16",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        **card,
    }
    path.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


def export_run(folder: Path, path: Path) -> None:
    """Export what a training run has come to; the card says how.

    folder: with `last.pt`. Raises TrainingError where it is not there or is of another network.
    """
    run = resumed(SeedNet(), folder, Plan(minutes=0), torch.device("cpu"))
    if not run.step:
        raise TrainingError(f"{folder}: holds no trained network; run braggd-models train phase first")
    card = {
        "data": "simulated crystals (braggd_models.phasing.crystals), none measured",
        "seeds": f"crystals 1000000007 seed + n, held out {HELD_SEED}",
        "command": run.command,
        "machine": run.machine,
        "training steps": run.step,
        "minutes": round(run.seconds / 60, 1),
        "scores": "accuracy in percent of held-out low-resolution crystals, 2 pi to 5 pi, some with gaps; losses",
        "score": {name: round(value, 4) for name, value in run.curve[-1].items()} if run.curve else {},
    }
    run.averaged.eval()
    export(run.averaged, path, card)  # type: ignore[arg-type]


def _compare(net: SeedNet, path: Path) -> None:
    """Phases of single voxels may differ where small errors decide between two guesses; most must not."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    held = draw(3, torch.Generator().manual_seed(HELD_SEED + 2))
    with torch.no_grad():
        wanted = net(held.intensity, held.measured)[0].numpy()
    made = session.run(["wave"], {"intensity": held.intensity.numpy(), "measured": held.measured.numpy()})[0]
    got = made[:, 0] + 1j * made[:, 1]
    for one, other in zip(got, wanted, strict=True):
        agree = abs(np.vdot(one, other)) / np.sqrt(np.vdot(one, one).real * np.vdot(other, other).real)
        if not agree > 0.9:
            raise TrainingError(f"{path}: the exported network differs from the trained one; update torch and onnx")
