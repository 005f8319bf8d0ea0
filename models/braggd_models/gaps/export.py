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

from braggd.inference.filler import FORMAT
from braggd.inference.slabs import CHANNELS
from braggd_models.errors import TrainingError
from braggd_models.gaps.lateral import AROUND, STRIDE
from braggd_models.gaps.linear import WIDTHS, Guesses
from braggd_models.gaps.slabnet import REACH, GapFiller, SlabNet
from braggd_models.halved import halve
from braggd_models.training import Plan, resumed

_OPSET = 17
# What is beyond is seen twice or more; what is within takes memory.
_TILE = 160
# What the card says of the network after a short training, to be compared with others.
EQUAL_TIME_S = 360.0


def export(net: SlabNet, guesses: Guesses, path: Path, card: Mapping[str, Any]) -> None:
    """Write the network and its card.

    path: FILE.onnx; FILE.json becomes the card
    card: what it says beyond how the network is fed

    Raises TrainingError where ONNX Runtime does not give what PyTorch gives.
    """
    filler = GapFiller(net, guesses).eval()
    side = 2 * STRIDE + 2 * REACH
    example = (torch.rand(1, CHANNELS, side, side + STRIDE), torch.tensor([6]))
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            filler,
            example,
            str(path),
            dynamo=False,
            opset_version=_OPSET,
            # so that weights keep their names, by which `start` finds them
            do_constant_folding=False,
            input_names=["lines", "width"],
            output_names=["logs", "log_sigma"],
            dynamic_axes={"lines": {2: "u", 3: "v"}, "logs": {2: "p", 3: "q"}, "log_sigma": {2: "p", 3: "q"}},
        )
    # half precision costs nothing in accuracy, but in the weights of counts, which span decades
    halve(path, spared=lambda name: "counts" in name)
    _compare(filler, path)
    content = {
        "task": "gaps",
        "format": FORMAT,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "widths": list(WIDTHS),
        "reach": REACH,
        "tile": _TILE,
        "around": AROUND,
        "stride": STRIDE,
        "inversion": True,
        "parameters": sum(p.numel() for p in net.parameters())
        + sum(w.size for one in (guesses.logs, guesses.counts) for w in one.values()),
        "weights": "float16",
        "precision": "bfloat16",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        **card,
    }
    path.with_suffix(".json").write_text(json.dumps(content, indent=2) + "\n")


def export_run(folder: Path, path: Path) -> None:
    """Export what a training run has come to; the card says how.

    folder: with `last.pt` and `guesses.npz`
    Raises TrainingError where they are not there or are of another network.
    """
    guesses = Guesses.load(folder / "guesses.npz")
    run = resumed(SlabNet(), folder, Plan(minutes=0), torch.device("cpu"))
    if not run.step:
        raise TrainingError(f"{folder}: holds no trained network; run braggd-models train gaps first")
    scores = {name: round(value, 4) for name, value in run.curve[-1].items()} if run.curve else {}
    after = [row for row in run.curve if row["seconds"] <= EQUAL_TIME_S]
    start = folder / "start.txt"
    card = {
        "data": "simulated crystals (braggd_models.gaps.samples), none measured",
        "seeds": "crystals [seed, n], linear guesses [seed + 11, n], held out [900000, n]",
        "command": run.command,
        "machine": run.machine,
        "start": start.read_text() if start.exists() else "nothing",
        "steps": run.step,
        "minutes": round(run.seconds / 60, 1),
        "scores": "1 - PCC over that of interpolation, by kind and width, on held-out crystals; losses beside them",
        "score": scores,
        f"score after {EQUAL_TIME_S / 60:.0f} min": after[-1] if after else {},
    }
    run.averaged.eval()
    export(run.averaged, guesses, path, card)  # type: ignore[arg-type]


def _compare(filler: GapFiller, path: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    for width, shape in ((3, (24, 32)), (38, (8, 40))):
        lines = rng.normal(size=(1, CHANNELS, *(size + 2 * REACH for size in shape))).astype(np.float32)
        lines[:, -1] = 5 + lines[:, -1]
        with torch.no_grad():
            wanted = filler(torch.from_numpy(lines), torch.tensor([width]))[0].numpy()[:, :width]
        got = session.run(["logs"], {"lines": lines, "width": np.array([width])})[0][:, :width]
        if not np.abs(got - wanted).max() < 0.02 * max(1.0, np.abs(wanted).max()):
            raise TrainingError(f"{path}: the exported network differs from the trained one; update torch and onnx")
