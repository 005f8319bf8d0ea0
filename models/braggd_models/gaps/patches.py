"""The thesis's way of filling a gap: patches with the gap in their middle, slid along it, overlaps averaged.

A patch is (z, y, x) with the gap across its last axis; log(1 + counts) scaled by the patch's own largest value, the gap
at zero. One network per width of the gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braggd_models.errors import TrainingError
from braggd_models.gaps.samples import crystal
from braggd_models.gaps.thesis import thesis_loss
from braggd_models.simulate.dataset import random_crystal
from braggd_models.training import fast_dtype

SIDE = 32
_BATCH = 32

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Images with gaps, (n, 1, ...) float32 each: what is seen, the truth, and 1 in the gap."""

    seen: Tensor
    truth: Tensor
    gap: Tensor

    def to(self, device: torch.device) -> Patches:
        """The same on a device."""
        return Patches(self.seen.to(device), self.truth.to(device), self.gap.to(device))


def patch_loss(painted: Tensor, batch: Patches) -> tuple[Tensor, dict[str, Tensor]]:
    """The thesis's loss of a batch."""
    return thesis_loss(painted.float(), batch.truth, batch.gap)


def simulated(seed: int, width: int, batch: int = _BATCH, per_crystal: int = 24) -> Iterator[Patches]:
    """Batches of patches from simulated crystals, without end; one in six is a cross."""
    rng = np.random.default_rng(seed)
    kept: list[tuple[Floats, Floats, Floats]] = []
    while True:
        made = crystal(rng)
        for _ in range(per_crystal):
            normal = int(rng.integers(3))
            counts, truth = (np.moveaxis(volume, normal, -1) for volume in (made.counts, made.noiseless))
            box = tuple(slice(s, s + SIDE) for s in (int(rng.integers(n - SIDE + 1)) for n in counts.shape))
            if truth[box].mean() > 0.05:
                kept.append(_framed(counts[box], truth[box], _gap((SIDE,) * 3, width, rng)))
        while len(kept) >= 4 * batch:
            chosen = rng.choice(len(kept), batch, replace=False)
            yield _stacked([kept[index] for index in chosen])
            kept = [kept[index] for index in set(range(len(kept))) - set(chosen.tolist())]


def simulated_images(seed: int, width: int, side: int = 128, batch: int = 8) -> Iterator[Patches]:
    """Batches of 2D patterns, without end: middle slices of 3D ones, a gap anywhere, one in six a cross."""
    rng = np.random.default_rng(seed)
    while True:
        made = []
        for _ in range(batch):
            scan = random_crystal(rng, shape=(16, side, side), off_peak=0.0, peak_counts=(1e3, 1e6))
            middle = scan.counts.shape[0] // 2
            made.append(
                _framed(scan.counts[middle], scan.noiseless[middle], _gap((side, side), width, rng, anywhere=True))
            )
        yield _stacked(made)


def _gap(shape: tuple[int, ...], width: int, rng: np.random.Generator, *, anywhere: bool = False) -> Floats:
    gap = np.zeros(shape, np.float32)
    start = int(rng.integers(shape[-1] - width)) if anywhere else (shape[-1] - width) // 2
    gap[..., start : start + width] = 1
    if rng.random() < 1 / 6:
        first = int(rng.integers(shape[-2] - width))
        gap[..., first : first + width, :] = 1
    return gap


def _framed(counts: Floats, truth: Floats, gap: Floats) -> tuple[Floats, Floats, Floats]:
    seen = np.log1p(np.where(gap > 0, 0, counts)).astype(np.float32)
    scale = max(float(seen.max()), 1e-3)
    return seen / scale, np.minimum(np.log1p(truth) / scale, 1).astype(np.float32), gap


def _stacked(many: list[tuple[Floats, Floats, Floats]]) -> Patches:
    return Patches(*(torch.from_numpy(np.stack(arrays)[:, None]) for arrays in zip(*many, strict=True)))


def inpaint_by_patches(net: nn.Module, counts: Floats, valid: Bools, step: int = 1, device: str = "cpu") -> Floats:
    """Fill stripes and crosses by sliding patches along them.

    counts: (step, row, column) photons; valid: (row, column) bool, gaps over whole rows and columns
    step: voxels from one patch to the next, along both directions of the gap's plane
    Returns counts with the gaps filled. Raises TrainingError where the volume is smaller than a patch or a gap is not
    within SIDE // 2 of the border.
    """
    if min(counts.shape) < SIDE:
        raise TrainingError(f"a volume of {counts.shape} is smaller than a patch of {SIDE}; give a larger one")
    total, weight = np.zeros(counts.shape, np.float64), np.zeros(counts.shape, np.float32)
    blind = np.broadcast_to(~valid, counts.shape)
    net = net.to(device).eval()
    for axis in (1, 2):
        missing = np.flatnonzero(~valid.any(axis=2 - axis))
        runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1) if missing.size else []
        for run in runs:
            start = int(run[0]) - (SIDE - len(run)) // 2
            if not 0 <= start <= counts.shape[axis] - SIDE:
                raise TrainingError(f"the gap at {run[0]} of axis {axis} is too near to the border for a patch")
            window = (..., slice(start, start + SIDE))
            _slide(
                net,
                np.moveaxis(counts, axis, -1)[window],
                np.moveaxis(blind, axis, -1)[window],
                np.moveaxis(total, axis, -1)[window],
                np.moveaxis(weight, axis, -1)[window],
                step=step,
                device=device,
            )
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return np.where(blind, np.expm1(mean), counts).astype(np.float32)


def _slide(
    net: nn.Module, counts: Floats, blind: Bools, total: NDArray[np.float64], weight: Floats, *, step: int, device: str
) -> None:
    """Slide patches over a slab (u, v, SIDE) and add up the logarithms of what they say."""
    logs = np.log1p(np.where(blind, 0, np.maximum(counts, 0))).astype(np.float32)
    places = [(u, v) for u in _starts(counts.shape[0], step) for v in _starts(counts.shape[1], step)]
    for first in range(0, len(places), _BATCH):
        part = places[first : first + _BATCH]
        cut = np.stack([logs[u : u + SIDE, v : v + SIDE] for u, v in part])
        scale = np.maximum(cut.max(axis=(1, 2, 3), keepdims=True), 1e-3)
        with torch.no_grad():
            painted = net(torch.from_numpy(cut / scale)[:, None].to(device))[:, 0].float().cpu().numpy() * scale
        for (u, v), patch in zip(part, painted, strict=True):
            total[u : u + SIDE, v : v + SIDE] += patch
            weight[u : u + SIDE, v : v + SIDE] += 1


def _starts(size: int, step: int) -> list[int]:
    last = size - SIDE
    return sorted({*range(0, last + 1, step), last})


def fine_tune(
    net: nn.Module,
    counts: Floats,
    valid: Bools,
    width: int,
    *,
    patches: int = 6400,
    epochs: int = 5,
    rate: float = 1e-4,
    seed: int = 0,
    device: str = "cpu",
) -> int:
    """Train a patch network on the very scan that it is to fill (section 3.9), in place.

    counts: (step, row, column) photons; valid: (row, column) or the same shape; only patches without a gap are taken
    patches: how many are drawn, a gap put into each; epochs: how often each is seen
    Returns the number of steps done. Raises TrainingError where no patch is free of gaps.
    """
    measured = np.broadcast_to(valid, counts.shape)
    rng = np.random.default_rng(seed)
    chosen: list[tuple[int, tuple[slice, ...]]] = []
    for _ in range(50 * patches):
        if len(chosen) == patches:
            break
        axis = int(rng.integers(1, 3))
        box = tuple(slice(s, s + SIDE) for s in (int(rng.integers(n - SIDE + 1)) for n in counts.shape))
        if measured[box].all() and counts[box].any():
            chosen.append((axis, box))
    if not chosen:
        raise TrainingError(
            "no patch of the scan is free of gaps, so there is nothing to train on; use the network as it is"
        )
    place = torch.device(device)
    dtype = fast_dtype(place)
    net.to(place, memory_format=torch.channels_last_3d).train()  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(net.parameters(), rate)
    steps = 0
    for _ in range(epochs):
        for part in np.array_split(rng.permutation(len(chosen)), -(-len(chosen) // _BATCH)):
            made = []
            for index in part:
                axis, box = chosen[index]
                patch = np.moveaxis(counts[box], axis, -1)
                made.append(_framed(patch, patch, _gap((SIDE,) * 3, width, rng)))
            batch = _stacked(made).to(place)
            with torch.autocast(place.type, dtype or torch.bfloat16, enabled=dtype is not None):
                painted = net(batch.seen.to(memory_format=torch.channels_last_3d))
            loss, _ = patch_loss(painted, batch)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            steps += 1
    net.eval()
    return steps
