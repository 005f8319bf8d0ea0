"""Slabs cut from simulated crystals: many gaps from each of them.

Crystal number n of a series is the same whoever makes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from braggd.inference.interpolate import interpolate
from braggd.inference.slabs import WIDEST, lines_across
from braggd_models.simulate.dataset import random_crystal
from braggd_models.simulate.pattern import Simulated
from braggd_models.simulate.recipe import REAL, Recipe

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

RECIPE = replace(
    REAL,
    stretch=2.6,
    peak_counts=(5e2, 3e7),
    gap="none",
    dead_pixels=0,
    lost_frames=0,
    hot_pixels=0,
    spikes=0,
)
"""What crystals are made of; gaps, dead pixels and lost frames are put in afterwards, several times."""

# Edges of most scans, and of one in four; far from the peak of a large one, nearly all is noise.
_EDGES, _LARGE_EDGES = (48, 56, 64, 72, 80), (64, 96, 128, 160, 192, 224, 256)
_LARGE_SHARE = 0.25
_LARGEST = 3_000_000
# The gap must hold more photons per voxel than this, or there is nothing to learn.
_FAINT = 0.1
# Share of scans with uneven pixels, and the largest relative rms.
_UNEVEN_SHARE = 0.4
_UNEVEN = 0.15


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sample:
    """One gap with its truth, its normal the first axis.

    lines: (CHANNELS, u, v), see `slabs.lines_across`
    interpolated: (width, u, v) log(1 + counts) as `interpolate` fills the gap
    truth: (width, u, v) noiseless log(1 + counts)
    """

    lines: Floats
    interpolated: Floats
    truth: Floats

    @property
    def width(self) -> int:
        """Of the gap, voxels."""
        return len(self.truth)


def crystal(rng: np.random.Generator, recipe: Recipe = RECIPE, *, uneven: bool = True) -> Simulated:
    """A gap-free scan of any shape, its peak in the middle or far from it; uneven: at times with uneven pixels."""
    shape = rng.choice(_LARGE_EDGES if rng.random() < _LARGE_SHARE else _EDGES, 3)
    while shape.prod() > _LARGEST:
        shape[int(shape.argmax())] //= 2
    far = 0.35 * float(shape.min()) if rng.random() < 0.4 else 0.5
    made = random_crystal(rng, recipe, shape=tuple(int(n) for n in shape), off_peak=far)
    if not uneven or rng.random() > _UNEVEN_SHARE:
        return made
    # pixels that count unevenly, as where no flat field was divided out
    gain = np.exp(_UNEVEN * rng.random() ** 2 * rng.standard_normal(made.counts.shape[1:], np.float32))
    return replace(made, counts=made.counts * gain)


def sample(made: Simulated, width: int, rng: np.random.Generator, *, plain: bool = False) -> Sample | None:
    """One gap put into a scan; None where it would hold nothing.

    plain: nothing but that gap; else other gaps, dead pixels and lost frames now and then
    """
    normal = int(rng.integers(3))
    counts, noiseless = (np.moveaxis(volume, normal, 0) for volume in (made.counts, made.noiseless))
    if rng.random() < 0.5:
        counts, noiseless = counts.swapaxes(1, 2), noiseless.swapaxes(1, 2)
    if rng.random() < 0.5:
        counts, noiseless = counts[::-1], noiseless[::-1]
    peak = np.unravel_index(int(np.argmax(noiseless)), noiseless.shape)
    width = min(width, len(counts) // 2)
    start = draw_start(len(counts), int(peak[0]), width, rng)
    stop = start + width
    truth = noiseless[start:stop]
    if truth.mean() < _FAINT:
        return None
    measured = np.ones(counts.shape, np.bool_)
    measured[start:stop] = False
    if plain:
        logs = np.log1p(counts)
        logs[start:stop] = _linear(logs[start - 1], logs[stop], width)
    else:
        _more_gaps(measured, start, width, rng)
        logs = np.log1p(interpolate(np.ascontiguousarray(counts), measured))
    return Sample(
        lines=lines_across(logs, measured, start, stop),
        interpolated=np.ascontiguousarray(logs[start:stop]),
        truth=np.log1p(truth),
    )


def draw_width(rng: np.random.Generator) -> int:
    """3 .. 40 voxels, 13 at most in three of four cases; small ones are as likely as large ones."""
    low, high = (2.5, 13.5) if rng.random() < 0.75 else (10.5, 40.49)
    return int(np.clip(round(float(np.exp(rng.uniform(np.log(low), np.log(high))))), 2, WIDEST))


def draw_start(size: int, peak: int, width: int, rng: np.random.Generator) -> int:
    """First plane of a gap: across the peak in one of three cases, else anywhere."""
    if rng.random() < 0.35:
        start = peak - int(rng.integers(-1, width + 1))
    else:
        start = round(float(rng.normal(peak, size / 4))) - width // 2
    return int(np.clip(start, 2, size - width - 2))


def _linear(before: Floats, after: Floats, width: int) -> Floats:
    share = (np.arange(1, width + 1, dtype=np.float32) / (width + 1))[:, None, None]
    return np.asarray(before * (1 - share) + after * share, np.float32)


def _more_gaps(measured: Bools, start: int, width: int, rng: np.random.Generator) -> None:
    """A crossing gap, a second parallel one, dead pixels and lost frames, each now and then."""
    normal, u, v = measured.shape
    if rng.random() < 0.6:
        other = width if rng.random() < 0.6 else draw_width(rng)
        first = int(rng.integers(-other + 1, v))
        measured[:, :, max(first, 0) : first + other] = False
    if rng.random() < 0.2:
        apart = width + int(rng.integers(4, 30))
        first = start + apart if rng.random() < 0.5 else start - apart
        if first < normal - 2 and first + width > 2:
            measured[max(first, 0) : first + width] = False
    if rng.random() < 0.2:
        for _ in range(int(rng.integers(1, 6))):
            measured[rng.integers(normal), :, rng.integers(v)] = False
    if rng.random() < 0.1:
        measured[:, rng.integers(u)] = False
    if not measured.any(axis=0).any():
        # a lone remaining column would leave interpolation nothing to stand on
        measured[0] = True


def scans(
    seed: int, *, start: int = 0, step: int = 1, recipe: Recipe = RECIPE
) -> Iterator[tuple[Simulated, np.random.Generator]]:
    """Crystals number start, start + step, ... of a series without end, each with the generator for its gaps."""
    number = start
    while True:
        rng = np.random.default_rng([seed, number])
        yield crystal(rng, recipe), rng
        number += step
