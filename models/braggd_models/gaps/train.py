"""Training of the slab network on gaps of simulated crystals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from braggd.inference.slabs import WIDEST
from braggd_models.gaps import linear
from braggd_models.gaps.lateral import STRIDE
from braggd_models.gaps.linear import Guesses
from braggd_models.gaps.loss import Planes, plane_loss
from braggd_models.gaps.samples import Floats, Sample, crystal, draw_width, sample, scans
from braggd_models.gaps.slabnet import REACH, GapFiller, SlabNet
from braggd_models.training import Plan, Run, device_of, fit, resumed

BATCH = 8
"""Gaps per step, on a CPU."""
SIDE = 48
"""Of what is cut out of a gap's plane; the smallest crystals have no more."""
VALIDATION_SEED = 900_000
GAPS_PER_CRYSTAL = 5
# Gaps kept for each of a batch, and how often each is used before it is replaced, about.
_KEPT = 50
_USES = 3
# Share of cuts about a bright line, and how far from the middle that may be.
_BRIGHT_SHARE = 0.6
_OFF_MIDDLE = 16


class Gaps(IterableDataset[list[Sample]]):
    """Gaps of one crystal after the other, without end, shared among the data workers."""

    def __init__(self, seed: int, start: int) -> None:
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[list[Sample]]:
        """Yield this worker's crystals."""
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        for made, rng in scans(self.seed, start=self.start + number, step=workers):
            found = [sample(made, linear.widened(draw_width(rng)), rng) for _ in range(GAPS_PER_CRYSTAL)]
            yield [one for one in found if one is not None and one.width in linear.WIDTHS]


@dataclass(frozen=True, slots=True, eq=False)
class Guessing:
    """Makes the linear guesses where the network runs, so that all that is kept of a gap is its lines."""

    filler: GapFiller
    device: torch.device

    @classmethod
    def of(cls, net: SlabNet, guesses: Guesses, device: torch.device) -> Guessing:
        """For a network on a device."""
        return cls(GapFiller(net, guesses).to(device), device)

    def planes(self, one: Sample, box: tuple[slice, slice]) -> Planes:
        """A box cut out of one gap's plane."""
        # neighbours where there are some, repeated lines beyond the border
        rows, columns = (
            np.arange(edge.start - REACH, edge.stop + REACH).clip(0, size - 1)
            for edge, size in zip(box, one.lines.shape[1:], strict=True)
        )
        lines = torch.from_numpy(one.lines[:, rows[:, None], columns])[None].to(self.device)
        width = torch.tensor([one.width], device=self.device)
        with torch.no_grad():
            by_logs, by_counts = self.filler.guess(lines, width)
        volumes = (np.ascontiguousarray(volume[:, *box]) for volume in (one.interpolated, one.truth))
        beyond = (0, 0, 0, 0, 0, WIDEST - one.width)
        interpolated, truth = (functional.pad(torch.from_numpy(volume), beyond)[None] for volume in volumes)
        return Planes(lines, width, by_logs, by_counts, interpolated.to(self.device), truth.to(self.device))


def train(
    folder: Path,
    guesses: Guesses,
    plan: Plan,
    *,
    net: SlabNet | None = None,
    batch: int = BATCH,
    seed: int = 0,
    workers: int = 0,
    device: str = "auto",
) -> Run:
    """Train the network, or go on training it, in a folder.

    guesses: of `linear.learn`
    net: what a new run begins with
    batch: gaps per step
    seed: of the crystals; a run taken up again sees new ones
    workers: processes that simulate; 0: the training process does it between its steps
    """
    place = device_of(device)
    torch.manual_seed(seed)
    net = net or SlabNet()
    run = resumed(net, folder, plan, place)
    guessing = Guessing.of(net, guesses, place)
    # beyond the crystals that the pool was filled with at the start
    used = run.step * batch / (GAPS_PER_CRYSTAL * _USES) + _KEPT * batch if run.step else 0
    data = Gaps(seed, int(used))
    loader = DataLoader(data, None, num_workers=workers, prefetch_factor=4 if workers else None)
    batches = mixed(iter(loader), guessing, np.random.default_rng([seed, run.step]), batch)
    fit(run, asked, batches, plane_loss, plan, folder, device=place, check=checker(guessing), title="gaps")
    return run


def asked(net: nn.Module, batch: Planes) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network makes of a batch."""
    logs, log_sigma = net(batch.lines, batch.width, batch.by_logs, batch.by_counts)
    return logs, log_sigma


def cut(one: Sample, rng: np.random.Generator) -> tuple[slice, slice]:
    """Where to cut a square of SIDE out of a gap's plane: anywhere, or about where it is bright."""
    u, v = one.truth.shape[1:]
    if rng.random() < _BRIGHT_SHARE:
        amplitude = np.exp(one.truth.max(axis=0).astype(np.float64) / 2).ravel()
        bright = np.unravel_index(rng.choice(u * v, p=amplitude / amplitude.sum()), (u, v))
        middle = [int(at) + int(rng.integers(-_OFF_MIDDLE, _OFF_MIDDLE + 1)) for at in bright]
    else:
        middle = [int(rng.integers(u)), int(rng.integers(v))]
    starts = [int(np.clip(at - SIDE // 2, 0, size - SIDE)) for at, size in zip(middle, (u, v), strict=True)]
    return slice(starts[0], starts[0] + SIDE), slice(starts[1], starts[1] + SIDE)


def joined(many: list[Planes]) -> Planes:
    """Gaps side by side."""
    return Planes(*(torch.cat([getattr(one, name) for one in many]) for name in Planes.__slots__))


def mixed(
    gaps: Iterator[list[Sample]],
    guessing: Guessing,
    rng: np.random.Generator,
    batch: int = BATCH,
    pool: int = 0,
) -> Iterator[Planes]:
    """Batches of gaps of many crystals, out of a pool in which new ones replace the oldest.

    pool: gaps kept; 0: as many as usual
    """
    kept: list[Sample] = []
    pool = pool or _KEPT * batch
    # it may begin with a part of the pool, which then grows
    owed, place = float(max(batch, pool // 6)), 0
    while True:
        while owed > 0:
            for one in next(gaps):
                if len(kept) < pool:
                    kept.append(one)
                else:
                    kept[place] = one
                    place = (place + 1) % pool
                owed -= 1
        chosen = [kept[number] for number in rng.choice(len(kept), batch, replace=len(kept) < batch)]
        yield joined([guessing.planes(one, cut(one, rng)) for one in chosen])
        owed += batch / _USES


def checker(guessing: Guessing, crystals: int = 12) -> Callable[[nn.Module], Mapping[str, float]]:
    """Scores on crystals that are never trained on: 1 - PCC in the gap over the interpolation's, by width.

    The geometric mean over gaps, of log counts (`log`) and of counts (`counts`).
    """
    held: list[tuple[Sample, Planes]] = []
    for number in range(crystals):
        rng = np.random.default_rng([VALIDATION_SEED, number])
        made = crystal(rng)
        for width in (3, 6, 12, 38):
            one = sample(made, width, rng)
            if one is not None and one.width == width:
                u, v = (size // STRIDE * STRIDE for size in one.truth.shape[1:])
                held.append((one, guessing.planes(one, (slice(0, u), slice(0, v)))))

    def check(net: nn.Module) -> Mapping[str, float]:
        found: dict[str, list[float]] = {}
        for one, fed in held:
            filled, easy, truth = (
                values[0, : one.width].float().cpu().numpy().clip(min=0)
                for values in (asked(net, fed)[0], fed.interpolated, fed.truth)
            )
            for kind, change in (("log", np.asarray), ("counts", np.expm1)):
                ratio = _off(change(filled), change(truth)) / _off(change(easy), change(truth))
                found.setdefault(f"{kind} {one.width}", []).append(float(np.log(ratio)))
        return {name: float(np.exp(np.mean(values))) for name, values in sorted(found.items())}

    return check


def _off(a: Floats, b: Floats) -> float:
    return float(max(1 - np.corrcoef(a.ravel().astype(np.float64), b.ravel())[0, 1], 1e-7))
