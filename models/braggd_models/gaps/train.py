"""Training of the slab network on lines across gaps of simulated crystals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from braggd.inference.slabs import WIDEST
from braggd_models.gaps import linear
from braggd_models.gaps.linear import Guesses
from braggd_models.gaps.loss import Lines, line_loss
from braggd_models.gaps.samples import Floats, Sample, crystal, draw_width, sample, scans
from braggd_models.gaps.slabnet import REACH, SlabNet
from braggd_models.training import Plan, Run, device_of, fit, resumed

BATCH = 2048
VALIDATION_SEED = 900_000
GAPS_PER_CRYSTAL = 16
LINES_PER_GAP = 320
# Lines kept, and how often each is used before it is replaced, about.
_POOL = 150_000
_USES = 6
# Floors of interpolation's errors, where it is right by chance: of log counts; of the rest as share of their variance.
_LOG_FLOOR = 1e-3
_SHARE_FLOOR = 3e-3
_CLASSES = ((1, 4), (5, 7), (8, 13), (14, 40))


class Crystals(IterableDataset[Lines]):
    """Lines of one crystal after the other, without end, shared among the data workers."""

    def __init__(self, seed: int, start: int, guesses: Guesses) -> None:
        self.seed, self.start, self.guesses = seed, start, guesses

    def __iter__(self) -> Iterator[Lines]:
        """Yield this worker's crystals."""
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        for made, rng in scans(self.seed, start=self.start + number, step=workers):
            found = [sample(made, linear.widened(draw_width(rng)), rng) for _ in range(GAPS_PER_CRYSTAL)]
            kept = [lines_of(one, self.guesses, rng) for one in found if one is not None and one.width in linear.WIDTHS]
            if kept:
                yield joined(kept)


def train(folder: Path, guesses: Guesses, plan: Plan, *, seed: int = 0, workers: int = 0, device: str = "auto") -> Run:
    """Train the network, or go on training it, in a folder.

    guesses: of `linear.learn`
    seed: of the crystals; a run taken up again sees new ones
    workers: processes that simulate; 0: the training process does it between its steps
    """
    place = device_of(device)
    torch.manual_seed(seed)
    run = resumed(SlabNet(), folder, plan, place)
    per_crystal = GAPS_PER_CRYSTAL * LINES_PER_GAP * _USES / BATCH
    data = Crystals(seed, int(run.step / per_crystal) + 100, guesses)
    loader = DataLoader(data, None, num_workers=workers, prefetch_factor=4 if workers else None)
    batches = mixed(iter(loader), np.random.default_rng([seed, run.step]))
    fit(run, _net, batches, line_loss, plan, folder, device=place, check=checker(guesses, place), title="gaps")
    return run


def _net(net: nn.Module, batch: Lines) -> tuple[torch.Tensor, torch.Tensor]:
    logs, log_sigma = net(
        batch.seen.float(), batch.width, batch.by_logs[:, :, None, None], batch.by_counts[:, :, None, None]
    )
    return logs, log_sigma


def lines_of(one: Sample, guesses: Guesses, rng: np.random.Generator, count: int = LINES_PER_GAP) -> Lines:
    """Some lines of a gap, half of them anywhere and half where it is bright."""
    u, v = one.truth.shape[1:]
    amplitude = np.exp(one.truth.max(axis=0) / 2).ravel()
    bright = rng.choice(u * v, count // 2, p=amplitude / amplitude.sum())
    chosen = np.concatenate([bright, rng.choice(u * v, count - count // 2)])
    rows, columns = np.unravel_index(chosen, (u, v))
    padded = np.pad(one.lines, ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
    window = np.lib.stride_tricks.sliding_window_view(padded, (2 * REACH + 1, 2 * REACH + 1), axis=(1, 2))
    by_logs, by_counts = linear.predict(guesses, one.lines, one.width)
    values = np.zeros((3, count, WIDEST), np.float32)
    for target, volume in zip(values, (by_logs, by_counts, one.truth), strict=True):
        target[:, : one.width] = volume[:, rows, columns].T
    return Lines(
        seen=torch.from_numpy(np.ascontiguousarray(window[:, rows, columns].swapaxes(0, 1))).half(),
        width=torch.full((count,), one.width),
        by_logs=torch.from_numpy(values[0]),
        by_counts=torch.from_numpy(values[1]),
        truth=torch.from_numpy(values[2]),
        off=torch.from_numpy(np.tile(_errors(one), (count, 1))),
    )


def _errors(one: Sample) -> Floats:
    """Mean squared errors of interpolation: of log counts, of amplitudes, of counts; never near 0."""
    found = [np.mean((one.interpolated - one.truth) ** 2) + _LOG_FLOOR]
    for power in (0.5, 1.0):
        truth, guess = (np.exp(np.asarray(logs, np.float64)) ** power for logs in (one.truth, one.interpolated))
        found.append(np.mean((guess - truth) ** 2) + _SHARE_FLOOR * truth.var() + 1e-4)
    return np.array(found, np.float32)


def joined(many: list[Lines]) -> Lines:
    """Lines side by side."""
    return Lines(*(torch.cat([getattr(one, name) for one in many]) for name in Lines.__slots__))


def mixed(
    crystals: Iterator[Lines], rng: np.random.Generator, pool: int = _POOL, batch: int = BATCH
) -> Iterator[Lines]:
    """Batches of lines of many crystals, out of a pool in which new ones replace the oldest."""
    kept = joined([next(crystals) for _ in range(max(1, pool // (GAPS_PER_CRYSTAL * LINES_PER_GAP * 3)))])
    place, owed = 0, 0.0
    while True:
        chosen = torch.from_numpy(rng.integers(len(kept.width), size=batch))
        yield Lines(*(getattr(kept, name)[chosen] for name in Lines.__slots__))
        owed += batch / _USES
        while owed > 0:
            fresh = next(crystals)
            owed -= len(fresh.width)
            if len(kept.width) < pool:
                kept = joined([kept, fresh])
                continue
            where = torch.arange(place, place + len(fresh.width)) % len(kept.width)
            for name in Lines.__slots__:
                getattr(kept, name)[where] = getattr(fresh, name)
            place = int(where[-1]) + 1


def checker(guesses: Guesses, device: torch.device, crystals: int = 12) -> Callable[[nn.Module], Mapping[str, float]]:
    """Scores on crystals that are never trained on: 1 - PCC in the gap over the interpolation's, by width.

    The geometric mean over gaps, of log counts (`log`) and of counts (`counts`).
    """
    held: list[tuple[Sample, tuple[torch.Tensor, ...]]] = []
    for number in range(crystals):
        rng = np.random.default_rng([VALIDATION_SEED, number])
        made = crystal(rng)
        for width in (3, 6, 12, 38):
            one = sample(made, width, rng)
            if one is not None and one.width == width:
                held.append((one, _fed(one, guesses, device)))

    def check(net: nn.Module) -> Mapping[str, float]:
        found: dict[str, list[float]] = {}
        for one, fed in held:
            logs, _ = net(*fed)
            filled = np.maximum(logs[0, : one.width].detach().float().cpu().numpy(), 0)
            for kind, change in (("log", np.asarray), ("counts", np.expm1)):
                ratio = _off(change(filled), change(one.truth)) / _off(change(one.interpolated), change(one.truth))
                found.setdefault(f"{kind} {one.width}", []).append(float(np.log(ratio)))
        return {name: float(np.exp(np.mean(values))) for name, values in sorted(found.items())}

    return check


def _fed(one: Sample, guesses: Guesses, device: torch.device) -> tuple[torch.Tensor, ...]:
    padded = np.pad(one.lines, ((0, 0), (REACH, REACH), (REACH, REACH)), mode="edge")
    planes = ((0, WIDEST - one.width), (0, 0), (0, 0))
    by_logs, by_counts = (np.pad(guess, planes) for guess in linear.predict(guesses, one.lines, one.width))
    volumes = [torch.from_numpy(volume[None]).to(device) for volume in (padded, by_logs, by_counts)]
    return volumes[0], torch.tensor([one.width], device=device), volumes[1], volumes[2]


def _off(a: Floats, b: Floats) -> float:
    return float(max(1 - np.corrcoef(a.ravel().astype(np.float64), b.ravel())[0, 1], 1e-7))
