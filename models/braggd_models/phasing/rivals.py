"""The networks of the thesis and of the literature beside ours, all trained the same short time."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from braggd_models.benchmarks import table
from braggd_models.gaps.thesis import count
from braggd_models.phasing.nets import NETS
from braggd_models.phasing.objective import HELD_SEED
from braggd_models.phasing.train import Batches, train
from braggd_models.training import Plan, device_of

_WATCHED = 16  # crystals that accuracies are of
_BATCHES = 4  # that losses are of


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """What a network has come to; all scores of crystals that it was never trained on.

    parameters: their number; steps: done; crystals: seen
    accuracy: percent, mean of crystals of 2 pi to 5 pi; NaN of one that does not predict whole crystals
    loss: by what it is trained for, comparable among networks with the same
    """

    name: str
    parameters: int
    steps: int
    crystals: int
    accuracy: float
    loss: float


def rivals(names: Sequence[str], minutes: float, device: str = "auto") -> Iterator[Trained]:
    """Train new networks, of `nets.NETS`, for so long each, and score them; nothing of them is kept."""
    place = device_of(device)
    for name in names:
        kind = NETS[name]
        with tempfile.TemporaryDirectory() as folder:
            run = train(Path(folder), name, Plan(minutes=minutes), device=device, watched=_WATCHED)
        rng = torch.Generator(place).manual_seed(HELD_SEED)
        held = kind.feed(iter(Batches(kind, HELD_SEED, kind.batch, place)), kind.batch, rng)
        run.averaged.eval()
        with torch.no_grad():
            losses = [
                float(kind.loss(kind.apply(run.averaged, batch), batch)[0])
                for batch in itertools.islice(held, _BATCHES)
            ]
        yield Trained(
            name=name,
            parameters=count(run.averaged),
            steps=run.step,
            crystals=run.step * kind.batch,
            accuracy=run.curve[-1].get("accuracy", float("nan")),
            loss=sum(losses) / len(losses),
        )


def report(done: Sequence[Trained], minutes: float) -> str:
    """Markdown."""
    rows = [
        (
            one.name,
            f"{one.parameters:,}",
            one.steps,
            one.crystals,
            "-" if math.isnan(one.accuracy) else one.accuracy,
            one.loss,
        )
        for one in done
    ]
    head = ("network", "parameters", "steps", "crystals", "accuracy", "loss")
    return (
        f"Each trained from nothing for {minutes:g} min. Accuracy in percent of {_WATCHED} held-out crystals of 2 pi "
        "to 5 pi at the network's own resolution, of those that predict whole crystals; the loss is each one's own, on "
        f"held-out crystals. `seed` is ours.\n\n{table(head, rows)}"
    )
