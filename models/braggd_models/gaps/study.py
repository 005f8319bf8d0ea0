"""The thesis's networks beside ours: the patch network, the 2D ones, fine-tuning, and a gap in a reconstruction."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from braggd.config import PhasingConfig
from braggd.phasing.align import accuracy, align, correlation
from braggd.phasing.retrieve import retrieve
from braggd_models.benchmarks import table
from braggd_models.gaps import linear
from braggd_models.gaps.classical import Filler
from braggd_models.gaps.export import export_run
from braggd_models.gaps.patches import (
    Bools,
    Floats,
    Patches,
    fine_tune,
    inpaint_by_patches,
    patch_loss,
    simulated,
    simulated_images,
)
from braggd_models.gaps.score import HELD_OUT_SEED, Part, Size, measured_scan, network, off
from braggd_models.gaps.thesis import Encoder, MSDNet, count, modified_unet, patch_net, unet
from braggd_models.gaps.train import train
from braggd_models.simulate.dataset import atomistic_crystal
from braggd_models.simulate.gaps import cross, stripe
from braggd_models.simulate.recipe import Recipe
from braggd_models.training import Plan, Run, device_of, fit, resumed

RUNS = Path("models/runs")
_log = logging.getLogger(__name__)
_BATCH = 8
_UNSEEN = 423  # the number of the first crystal of the EIGER's gap; those from 400 on were looked at for choices


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
    # AdamW takes a quarter of a rate: 1e-3, as the thesis
    plan = Plan(minutes=minutes, rate=4e-3, decay=0.3, threads=threads)
    run = resumed(net, folder, plan, place)
    fit(run, _painted, batches, patch_loss, plan, folder, device=place, title=title)
    return run


def _painted(net: nn.Module, batch: Patches) -> Tensor:
    return torch.as_tensor(net(batch.seen))


def patches(model: str, size: Size) -> Part:
    """The thesis's patch network for 6 px and ours, trained the same time: PCC and time."""
    run = train_patch_net(RUNS / "gaps-patches-6", 6, size.minutes)
    with tempfile.TemporaryDirectory() as folder:
        steps, short = _ours_for(size.minutes, Path(folder))
        step = 8
        methods: dict[str, Filler] = {
            f"ours, {steps} steps": network(str(short)),
            "ours, as shipped": network(model),
            f"patches, {run.step} steps": partial(_by_patches, run.averaged, step),
        }
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in methods}
        for number in range(max(1, size.crystals // 4)):
            recipe = Recipe(shape=(size.side,) * 3, peak_counts=(1e5, 1e5), phase_range=(0.0, 10.0))
            made = atomistic_crystal(HELD_OUT_SEED + 300 + number, recipe, size=60_000)
            pixels = cross((size.side,) * 2, (size.side // 2 + 8,) * 2, (6, 6))
            inside = np.broadcast_to(~pixels, made.counts.shape)
            holed = np.where(pixels, made.counts, 0).astype(np.float32)
            for name, fill in methods.items():
                began = time.perf_counter()
                filled = fill(holed, pixels)
                took = time.perf_counter() - began
                found[name].append((*off(filled, made.noiseless, inside), took))
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    rows = [[name, float(1 - logs), float(1 - counts), float(took)] for name, (logs, counts, took) in means.items()]
    return Part(
        f"The thesis's patch network ({count(run.net):,} parameters, batches of {_BATCH}) and ours, each trained "
        f"{size.minutes:g} min (ours: the linear guesses included), and ours as shipped: a 6 px cross 8 px from the "
        f"peak, {size.side}^3, {max(1, size.crystals // 4)} atomistic crystals, PCC against the noiseless intensity. "
        f"Patches are slid with a step of {step}; a step of 1 takes {step**2} times as long.\n\n"
        + table(["network", "PCC of log counts", "PCC of counts", "seconds"], rows)
    )


def _by_patches(net: nn.Module, step: int, counts: Floats, pixels: Bools) -> Floats:
    return inpaint_by_patches(net, counts, pixels, step)


def _ours_for(minutes: float, folder: Path) -> tuple[int, Path]:
    """Train our network anew for so long, the linear guesses included; returns the steps done, and the network."""
    began = time.monotonic()
    # a crystal takes about a second, so half of the time goes there
    guesses = linear.learn(12, max(4, int(30 * minutes)))
    guesses.save(folder / "guesses.npz")
    left = minutes - (time.monotonic() - began) / 60
    run = train(folder, guesses, Plan(minutes=max(left, 0.2), rate=1.5e-3, decay=0.7))
    path = folder / "short.onnx"
    export_run(folder, path)
    return run.step, path


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
        # hundreds of megabytes that nobody goes on with
        with tempfile.TemporaryDirectory() as folder:
            run = _trained(Path(folder), make(), simulated_images(0, width, side), size.minutes / 2, 0, "cpu", name)
        with torch.no_grad():
            painted = torch.cat([run.averaged(part) for part in held.seen.split(8)])  # type: ignore[no-untyped-call]
        scores = [
            float(np.corrcoef(painted[n, 0][inside[n]].numpy(), held.truth[n, 0][inside[n]].numpy())[0, 1])
            for n in range(len(inside))
        ]
        rows.append([name, f"{count(run.net):,}", run.step, float(np.nanmean(scores))])
    return Part(
        f"2D study, reduced: {side}^2 patterns, {width} px gaps, {size.minutes / 2:g} min of training each (batches of "
        "8), mean PCC of scaled log counts in the gap of 64 held-out patterns.\n\n"
        + table(["network", "parameters", "steps", "PCC"], rows)
    )


def tuning(model: str, size: Size) -> Part:
    """Fine-tuning the patch network on the measured scan: PCC in a region held out, before and after."""
    run = train_patch_net(RUNS / "gaps-patches-6", 6, size.minutes)
    counts = measured_scan()[16:112]
    pixels = stripe((128, 128), 1, 76, 6)
    inside = np.broadcast_to(~pixels, counts.shape)
    holed = np.where(pixels, counts, 0).astype(np.float32)
    before = off(inpaint_by_patches(run.averaged, holed, pixels, 16), counts, inside)
    number = 6400 if size.side >= 128 else 96
    steps = fine_tune(run.averaged, holed, pixels, 6, patches=number, epochs=5 if number == 6400 else 1)
    after = off(inpaint_by_patches(run.averaged, holed, pixels, 16), counts, inside)
    return Part(
        f"The patch network fine-tuned on the measured scan ({number} gap-free patches, {steps} steps): PCC of log "
        f"counts in a 6 px gap 12 px from the peak {1 - before[0]:.3f} before, {1 - after[0]:.3f} after; of counts "
        f"{1 - before[1]:.3f} and {1 - after[1]:.3f}."
    )


def eiger(model: str, size: Size) -> Part:
    """An EIGER's 38 px gap 50 px from the peak: inpainted and free voxels, as in the daemon, against free ones alone.

    Those alone are held to nothing (`inpainted_weight` 0). Both are phased with two seeds of the random numbers, since
    that also makes a difference.
    """
    config = _shortened(PhasingConfig(), quick=size.side < 128)
    scores = []
    for number in range(max(1, size.crystals // 4)):
        scores.append(beside_free_voxels(number, model, config))
        _log.info("crystal %d: %s", number, np.abs(scores[-1]).ravel().tolist())
    return eiger_part(scores, config)


def beside_free_voxels(number: int, model: str, config: PhasingConfig) -> NDArray[np.float64]:
    """How well a crystal is found behind that gap by free voxels alone, and inpainted.

    Returns (way, seed, measure), the larger the better: accuracy in percent, PCC of the modulus, the negative phase
    error.
    """
    recipe = Recipe(
        shape=(64, 208, 208),
        peak_counts=(1e6, 1e6),
        oversampling=(3.0, 3.0),
        phase_range=(2.0, 4.0),
        strain="gaussians",
    )
    made = atomistic_crystal(HELD_OUT_SEED + _UNSEEN + number, recipe, size=40_000)
    pixels = stripe((208, 208), 1, 104 + 50, 38)
    valid = np.ascontiguousarray(np.broadcast_to(pixels, made.counts.shape))
    holed = np.where(pixels, made.counts, 0).astype(np.float32)
    filled = network(model)(holed, pixels)

    def measures(weight: float, seed: int, guess: Floats | None) -> tuple[float, float, float]:
        way = msgspec.structs.replace(config, inpainted_weight=weight, seed=seed)
        aligned = align(made.density, retrieve(np.sqrt(holed), valid, way, guess=guess).density).density
        modulus = correlation(aligned, made.density)
        return accuracy(aligned, made.density), modulus, -_phase_error(made.density, aligned)

    ways = ((0.0, None), (config.inpainted_weight, np.sqrt(filled)))
    seeds = (config.seed, config.seed + 1)
    return np.array([[measures(weight, seed, guess) for seed in seeds] for weight, guess in ways])


def eiger_part(scores: list[NDArray[np.float64]], config: PhasingConfig) -> Part:
    """The table; scores: of `beside_free_voxels`, by crystal."""
    found = np.stack(scores)
    rows: list[list[object]] = [[number, *_by_seed(one)] for number, one in enumerate(found)]
    rows.append(["mean", *_by_seed(found.mean(axis=0))])
    alone, painted = found.mean(axis=2).swapaxes(0, 1)
    scatter = np.abs(np.diff(found, axis=2)).max(axis=(1, 2))
    below, worse = (painted < alone).sum(axis=0), (alone - painted > scatter).sum(axis=0)
    kinds = ("accuracy", "modulus", "phase error")
    head = ["crystal", *(f"{way}: {kind}" for way in ("free voxels", "inpainted") for kind in kinds)]
    return Part(
        "EIGER 38 px gap 50 px from the peak, 64 x 208 x 208 voxels, atomistic crystals that nothing was chosen by: "
        "accuracy (eq. 4.5, percent), PCC of the modulus, and rms phase error inside the crystal (rad), from two seeds "
        f"each. The mean of the inpainted ones is worse than that of free voxels alone in {below[0]} (accuracy), "
        f"{below[1]} (modulus) and {below[2]} (phase) of {len(scores)}, by more than the seeds differ in {worse[0]}, "
        f"{worse[1]} and {worse[2]}." + (" One start each." if config.starts == 1 else "") + "\n\n" + table(head, rows)
    )


def _by_seed(one: NDArray[np.float64]) -> list[str]:
    """Cells of the table; one: (way, seed, measure)."""
    pairs = np.abs(one).transpose(0, 2, 1).reshape(-1, 2)
    return [" / ".join(f"{value:.4g}" for value in pair) for pair in pairs]


def _shortened(config: PhasingConfig, *, quick: bool) -> PhasingConfig:
    """Fewer starts where it has to be quick."""
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
