"""The thesis's networks beside ours: the patch network, the 2D ones, fine-tuning, and a gap in a reconstruction."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braggd.config import PhasingConfig
from braggd.example import example_scan
from braggd.phasing.align import accuracy, align
from braggd.phasing.retrieve import retrieve
from braggd_models.benchmarks import table
from braggd_models.gaps.patches import (
    Patches,
    fine_tune,
    inpaint_by_patches,
    patch_loss,
    simulated,
    simulated_images,
)
from braggd_models.gaps.score import HELD_OUT_SEED, Part, Size, network, off
from braggd_models.gaps.thesis import Encoder, MSDNet, count, modified_unet, patch_net, unet
from braggd_models.simulate.dataset import atomistic_crystal
from braggd_models.simulate.gaps import cross, stripe
from braggd_models.simulate.recipe import Recipe
from braggd_models.training import Plan, Run, device_of, fit, resumed

_MINUTES = 6.0
_BATCH = 8


def train_patch_net(
    folder: Path, width: int, minutes: float, *, seed: int = 0, threads: int = 0, device: str = "auto"
) -> Run:
    """Train the thesis's 3D network for one width, or go on training it."""
    return _trained(folder, patch_net(), simulated(seed, width, _BATCH), minutes, threads, device, "patches")


def _trained(
    folder: Path, net: nn.Module, batches: Iterator[Patches], minutes: float, threads: int, device: str, title: str
) -> Run:
    place = device_of(device)
    torch.manual_seed(0)
    plan = Plan(minutes=minutes, rate=1e-3, decay=0.3, threads=threads)
    run = resumed(net, folder, plan, place)
    fit(run, _painted, batches, patch_loss, plan, folder, device=place, title=title)
    return run


def _painted(net: nn.Module, batch: Patches) -> Tensor:
    return torch.as_tensor(net(batch.seen))


def patches(model: str, size: Size) -> Part:
    """The thesis's patch network for 6 px, trained for a few minutes, beside ours: PCC and time."""
    run = train_patch_net(Path("models/runs/gaps-patch-6"), 6, _MINUTES)
    step = 16 if size.side < 128 else 8
    rows: list[list[object]] = []
    ours, theirs, seconds = [], [], []
    fill = network(model)
    for number in range(2):
        recipe = Recipe(shape=(size.side,) * 3, peak_counts=(1e5, 1e5), phase_range=(0.0, 10.0))
        made = atomistic_crystal(HELD_OUT_SEED + 300 + number, recipe, size=60_000)
        pixels = cross((size.side,) * 2, (size.side // 2 + 8,) * 2, (6, 6))
        inside = np.broadcast_to(~pixels, made.counts.shape)
        holed = np.where(pixels, made.counts, 0).astype(np.float32)
        fill(holed, pixels)
        began = time.perf_counter()
        ours.append(off(fill(holed, pixels), made.noiseless, inside))
        middle = time.perf_counter()
        theirs.append(off(inpaint_by_patches(run.averaged, holed, pixels, step), made.noiseless, inside))
        seconds.append((middle - began, time.perf_counter() - middle))
    for name, found, which in (("ours, as shipped", ours, 0), ("patches, thesis", theirs, 1)):
        logs, counts = 1 - np.mean(found, axis=0)
        rows.append([name, float(logs), float(counts), float(np.mean([both[which] for both in seconds]))])
    return Part(
        f"The thesis's patch network ({count(run.net):,} parameters), trained {run.seconds / 60:.0f} min ({run.step} "
        f"steps of {_BATCH}) for 6 px gaps, slid with a step of {step}, beside ours: a 6 px cross 8 px from the peak, "
        f"{size.side}^3, two atomistic crystals, against the noiseless intensity. A step of 1 takes {step**2} times as "
        "long. How ours stood after the same time is in its card.\n\n"
        + table(["network", "PCC of log counts", "PCC of counts", "seconds"], rows)
    )


def flat(model: str, size: Size) -> Part:
    """The 2D networks of Table 3.1, trained alike for a short time."""
    side, width = 64, 9
    rows: list[list[object]] = []
    held = next(simulated_images(HELD_OUT_SEED, width, side, batch=64))
    inside = held.gap[:, 0] > 0
    nets: dict[str, Callable[[], Encoder | MSDNet]] = {
        "U-Net": unet,
        "modified U-Net": modified_unet,
        "MSD-Net": MSDNet,
    }
    for name, make in nets.items():
        folder = Path("models/runs") / f"gaps-2d-{name.lower().replace(' ', '-')}"
        run = _trained(folder, make(), simulated_images(0, width, side), _MINUTES / 2, 0, "cpu", name)
        with torch.no_grad():
            painted = torch.cat([run.averaged(part) for part in held.seen.split(8)])  # type: ignore[no-untyped-call]
        scores = [
            float(np.corrcoef(painted[n, 0][inside[n]].numpy(), held.truth[n, 0][inside[n]].numpy())[0, 1])
            for n in range(len(inside))
        ]
        rows.append([name, f"{count(run.net):,}", run.step, float(np.nanmean(scores))])
    return Part(
        f"2D study, reduced: {side}^2 patterns, {width} px gaps, {_MINUTES / 2:g} min of training each (batches of 8), "
        "mean PCC of scaled log counts in the gap of 64 held-out patterns.\n\n"
        + table(["network", "parameters", "steps", "PCC"], rows)
    )


def tuning(model: str, size: Size) -> Part:
    """Fine-tuning the patch network on the measured scan: PCC in a region held out, before and after."""
    run = train_patch_net(Path("models/runs/gaps-patch-6"), 6, _MINUTES)
    with h5py.File(example_scan(), "r") as file:
        counts = file["entry/data/data"][67 - 16 : 131 + 16, 94 - 32 : 158 + 32, 95 - 32 : 159 + 32].astype(np.float32)
    pixels = stripe((128, 128), 1, 76, 6)
    inside = np.broadcast_to(~pixels, counts.shape)
    holed = np.where(pixels, counts, 0).astype(np.float32)
    before = off(inpaint_by_patches(run.averaged, holed, pixels, 16), counts, inside)
    number = 6400 if size.crystals >= 12 else 96
    steps = fine_tune(run.averaged, holed, pixels, 6, patches=number, epochs=5 if number == 6400 else 1)
    after = off(inpaint_by_patches(run.averaged, holed, pixels, 16), counts, inside)
    return Part(
        f"The patch network fine-tuned on the measured scan ({number} gap-free patches, {steps} steps): PCC of log "
        f"counts in a 6 px gap 12 px from the peak {1 - before[0]:.3f} before, {1 - after[0]:.3f} after; of counts "
        f"{1 - before[1]:.3f} and {1 - after[1]:.3f}."
    )


def eiger(model: str, size: Size) -> Part:
    """An EIGER's 38 px gap 50 px from the peak: free voxels seeded by the network against free voxels alone."""
    config = replace_threads(PhasingConfig(), quick=size.side < 128)
    fill = network(model)
    rows: list[list[object]] = []
    for number in range(max(1, size.crystals // 4)):
        recipe = Recipe(
            shape=(64, 208, 208),
            peak_counts=(1e6, 1e6),
            oversampling=(3.0, 3.0),
            phase_range=(2.0, 4.0),
            strain="gaussians",
        )
        made = atomistic_crystal(HELD_OUT_SEED + 400 + number, recipe, size=40_000)
        pixels = stripe((208, 208), 1, 104 + 50, 38)
        valid = np.broadcast_to(pixels, made.counts.shape)
        holed = np.where(pixels, made.counts, 0).astype(np.float32)
        filled = fill(holed, pixels)
        row: list[object] = [number]
        for guess in (None, np.sqrt(filled)):
            found = retrieve(np.sqrt(holed), np.ascontiguousarray(valid), config, guess=guess)
            aligned = align(made.density, found.density).density
            row += [accuracy(aligned, made.density), _phase_error(made.density, aligned)]
        rows.append(row)
    return Part(
        "EIGER 38 px gap 50 px from the peak, 64 x 208 x 208 voxels, atomistic crystals: accuracy (eq. 4.5, percent) "
        "and rms phase error inside the crystal (rad).\n\n"
        + table(["crystal", "free voxels: accuracy", "phase error", "inpainted: accuracy", "phase error"], rows)
    )


def replace_threads(config: PhasingConfig, *, quick: bool) -> PhasingConfig:
    """Fewer starts where it has to be quick."""
    import msgspec

    return msgspec.structs.replace(config, starts=1, shape=(64, 208, 208)) if quick else config


def _phase_error(truth: NDArray[np.complex64], aligned: NDArray[np.complex64]) -> float:
    inside = np.abs(truth) > 0.5 * np.abs(truth).max()
    turn = aligned[inside] * np.conj(truth[inside])
    turn *= np.exp(-1j * np.angle(turn.sum()))
    return float(np.sqrt(np.mean(np.angle(turn) ** 2)))


STUDIES: dict[str, Callable[[str, Size], Part]] = {
    "patches": patches,
    "2d": flat,
    "fine-tuning": tuning,
    "eiger": eiger,
}
