"""Training that can always go on: one loop for every network.

A run lives in a folder: `last.pt` (weights, their running mean, optimiser, step), `curve.csv`, `curve.png`. Started
again with the same folder it goes on where it was. The learning rate warms up, stays, and falls over the last part of
the time given; a run that is given more time afterwards rises to it again.
"""

from __future__ import annotations

import copy
import csv
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor, nn

from braggd.inference.openvino import multiplies_bf16
from braggd_models.errors import TrainingError
from braggd_models.optimiser import Muon

_log = logging.getLogger(__name__)
# A step that took longer than this was stopped from outside, and the time does not count.
_PAUSE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how fast.

    minutes: of training in all, over all starts; pauses do not count
    steps: at most, in all; 0: no limit
    rate: learning rate; warmup: steps until it is reached; decay: share of the time over which it falls at the end
    smoothing: of the running mean of the weights, per step
    every: seconds between two checkpoints
    threads: of the CPU; 0: as PyTorch chooses
    command: what was typed, for the card
    """

    minutes: float
    steps: int = 0
    rate: float = 5e-3
    weight_decay: float = 1e-4
    warmup: int = 30
    decay: float = 0.3
    smoothing: float = 0.995
    clip: float = 1.0
    every: float = 240.0
    threads: int = 0
    command: str = ""


@dataclass(slots=True, eq=False)
class Run:
    """Where a training stands.

    step: steps done; seconds: that they took; averaged: the running mean of the weights, which is what is used
    machine, command: that did the last of them
    """

    net: nn.Module
    averaged: nn.Module
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0
    curve: list[dict[str, float]] = field(default_factory=list)
    machine: str = ""
    command: str = ""


def device_of(name: str = "auto") -> torch.device:
    """The named device, or CUDA where there is one."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def described(device: torch.device) -> str:
    """What trains there, for the card."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, PyTorch {torch.__version__}"
    return f"{platform.machine()}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """bfloat16 where it is faster: on GPUs and on CPUs that multiply it."""
    if device.type == "cuda":
        return torch.bfloat16
    return torch.bfloat16 if multiplies_bf16() else None


def resumed(net: nn.Module, folder: Path, plan: Plan, device: torch.device) -> Run:
    """A run, taken up from the folder's checkpoint where there is one.

    Raises TrainingError where the checkpoint cannot be read or is of another network.
    """
    net.to(device)
    precision = fast_dtype(device) or torch.float32
    plain = tuple(getattr(net, "plain", ("head",)))
    optimiser = Muon(net, plan.rate, plain=plain, weight_decay=plan.weight_decay, precision=precision)
    run = Run(net, copy.deepcopy(net), optimiser)
    path = folder / "last.pt"
    if path.exists():
        try:
            saved = torch.load(path, map_location=device, weights_only=True)
            run.net.load_state_dict(saved["net"])
            run.averaged.load_state_dict(saved["averaged"])
            run.optimiser.load_state_dict(saved["optimiser"])
            run.step, run.seconds, run.curve = saved["step"], saved["seconds"], saved["curve"]
            run.machine, run.command = saved["machine"], saved["command"]
        except Exception as error:
            raise TrainingError(f"{path}: is no checkpoint of this network ({error}); name another folder") from error
    return run


def fit(
    run: Run,
    apply: Callable[[nn.Module, Any], Any],
    batches: Iterable[Any],
    loss: Callable[[Any, Any], tuple[Tensor, Mapping[str, Tensor]]],
    plan: Plan,
    folder: Path,
    *,
    device: torch.device,
    check: Callable[[nn.Module], Mapping[str, float]] | None = None,
    title: str = "training",
) -> None:
    """Train until the plan's time is over; writes checkpoints and the curve into the folder.

    apply: what the network makes of a batch
    batches: without end, each with `.to(device)`
    loss: of what was made and the batch; returns it with its terms
    check: scores of the averaged network, asked at every checkpoint
    """
    folder.mkdir(parents=True, exist_ok=True)
    if plan.threads:
        torch.set_num_threads(plan.threads)
    dtype = fast_dtype(device)
    run.machine, run.command = described(device), plan.command
    sums: dict[str, float] = {}
    count, saved_at, last = 0, time.monotonic(), None
    with Progress(transient=True) as progress:
        bar = progress.add_task(title, total=plan.minutes * 60)
        for batch in batches:
            done = min(run.seconds / (plan.minutes * 60), 1.0)
            if done >= 1 or (plan.steps and run.step >= plan.steps):
                break
            began = last or time.monotonic()  # waiting for a batch counts, but for the first one
            terms = _step(run, apply, batch.to(device), loss, plan, _rate(plan, run.step, done), dtype)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + value
            count += 1
            last = time.monotonic()
            took = last - began
            run.seconds += took if took < _PAUSE_S else 0.0
            progress.update(bar, completed=run.seconds, description=f"{title} {run.step} loss {terms['loss']:.3f}")
            if time.monotonic() - saved_at > plan.every:
                _record(run, sums, count, folder, check)
                sums, count = {}, 0
                saved_at = last = time.monotonic()
    if count:
        _record(run, sums, count, folder, check)


def _rate(plan: Plan, step: int, done: float) -> float:
    warm = min(1.0, (step + 1) / max(plan.warmup, 1))
    left = 1.0 if plan.decay <= 0 else min(1.0, (1 - done) / plan.decay)
    return plan.rate * warm * max(left, 0.01)


def _step(
    run: Run,
    apply: Callable[[nn.Module, Any], Any],
    batch: Any,
    loss: Callable[[Any, Any], tuple[Tensor, Mapping[str, Tensor]]],
    plan: Plan,
    rate: float,
    dtype: torch.dtype | None,
) -> dict[str, float]:
    for group in run.optimiser.param_groups:
        group["lr"] = rate
    run.net.train()
    kind = next(run.net.parameters()).device.type
    with torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None):
        outputs = apply(run.net, batch)
    value, terms = loss(outputs, batch)
    run.optimiser.zero_grad(set_to_none=True)
    value.backward()  # type: ignore[no-untyped-call]
    norm = torch.nn.utils.clip_grad_norm_(run.net.parameters(), plan.clip)
    if torch.isfinite(norm):
        run.optimiser.step()
    run.step += 1
    keep = min(plan.smoothing, run.step / (run.step + 10))
    with torch.no_grad():
        for mean, now in zip(run.averaged.parameters(), run.net.parameters(), strict=True):
            mean.lerp_(now, 1 - keep)
    return {"loss": value.item(), "norm": norm.item(), **{name: term.item() for name, term in terms.items()}}


def _record(
    run: Run,
    sums: Mapping[str, float],
    count: int,
    folder: Path,
    check: Callable[[nn.Module], Mapping[str, float]] | None,
) -> None:
    row = {"step": float(run.step), "seconds": run.seconds} | {name: value / count for name, value in sums.items()}
    if check is not None:
        run.averaged.eval()
        with torch.no_grad():
            row |= check(run.averaged)
    run.curve.append(row)
    _log.info("%s", ", ".join(f"{name} {value:.4g}" for name, value in row.items()))
    save(run, folder)


def save(run: Run, folder: Path) -> None:
    """Write the checkpoint and the curve; a reader never sees half a file."""
    saved = {
        "net": run.net.state_dict(),
        "averaged": run.averaged.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "step": run.step,
        "seconds": run.seconds,
        "curve": run.curve,
        "machine": run.machine,
        "command": run.command,
    }
    torch.save(saved, folder / "last.tmp")
    os.replace(folder / "last.tmp", folder / "last.pt")  # noqa: PTH105
    names = list(dict.fromkeys(name for row in run.curve for name in row))
    with (folder / "curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(run.curve)
    plot_curve(run.curve, folder / "curve.png")


def plot_curve(curve: list[dict[str, float]], path: Path) -> None:
    """Every column of a curve over the hours of training, one panel each."""
    from matplotlib.figure import Figure

    names = [name for name in dict.fromkeys(name for row in curve for name in row) if name not in ("step", "seconds")]
    if not names:
        return
    figure = Figure(figsize=(3.2 * min(len(names), 4), 2.4 * -(-len(names) // 4)), layout="constrained")
    for place, name in enumerate(names, 1):
        axes = figure.add_subplot(-(-len(names) // 4), min(len(names), 4), place)
        points = [(row["seconds"] / 3600, row[name]) for row in curve if name in row]
        axes.plot(*zip(*points, strict=True), marker=".")
        axes.set(title=name, xlabel="hours")
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=90)
