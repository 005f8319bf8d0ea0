"""The pattern at low resolution, where an object is looked for, and the ways there and back.

Low resolution is the middle of the pattern, and an iteration on it costs a hundredth of one on all. Which object it is
shows there: a crystal is a few voxels across, a strained one too, and random phases lead to it about as often.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.errors import FramingError, PhasingError
from braggd.framing import Framing, framing_of
from braggd.phasing import fourier
from braggd.phasing.pattern import Pattern, prepare, withheld_voxels
from braggd.phasing.support import middle

FULL = 64
"""Voxels along each axis, at most, that show nearly all of a pattern, sampled as coarsely as its crystal allows."""

_WORTH = 2  # times the voxels: below, sampling a pattern anew would only cost precision


@dataclass(frozen=True, slots=True, eq=False)
class Reduced:
    """pattern: at low resolution, zero frequency at [0, 0, 0]; framing: where it is within the whole pattern."""

    pattern: Pattern
    framing: Framing

    @classmethod
    def of(cls, whole: Pattern, edge: int, fraction: float, seed: int) -> Reduced | None:
        """Of a pattern, with at most that many voxels along each axis; None where the crystal's size cannot be told.

        fraction, seed: of the voxels that are withheld at low resolution, in place of those that are from `whole`
        """
        # a withheld voxel would spread what it is filled with: here they are seen, and others withheld
        target = whole.target if whole.withheld is None else np.maximum(whole.target, whole.withheld)
        counts = np.square(fourier.centre(np.where(target >= 0, target, whole.filled)))
        try:
            framing = framing_of(counts, edge)
            needed = max(n / step for n, step in zip(framing.shape, framing.step, strict=True))
            if needed < edge:  # beyond that, all would be dark
                framing = replace(framing, edge=fourier.fast_size(math.ceil(needed)))
            photons, measured = framing.seen(counts, fourier.centre(target >= 0))
            amplitude, valid = np.sqrt(photons), measured > 0
            return cls(prepare(amplitude, valid, None, withheld_voxels(amplitude, valid, fraction, seed)), framing)
        except (FramingError, PhasingError):
            return None

    @classmethod
    def full(cls, whole: Pattern, fraction: float, seed: int) -> Reduced | None:
        """Nearly all of a pattern, sampled as coarsely as its crystal allows; None where that saves little."""
        return cls.of(whole, FULL, fraction, seed) if whole.target.size > _WORTH * FULL**3 else None

    def lower(self, density: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """An object on the whole pattern's grid, at low resolution, both in the order of the transforms.

        It is brought to [0, 0, 0], since the field of view is smaller there.
        """
        (density,) = _to_corner(np.abs(density), density)
        wave = fourier.corner(self.framing.at_low_resolution(fourier.centre(density)))
        wave *= np.float32(math.sqrt(math.prod(self.framing.step)))
        fourier.inverse(wave, wave)
        return wave

    def lift(
        self, density: NDArray[np.complex64], support: NDArray[np.bool_]
    ) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
        """An object and its support at low resolution, on the whole pattern's grid, brought to [0, 0, 0].

        The wave beyond the middle of the pattern is 0.
        """
        density, support = _to_corner(support, density * support, support)
        wave = np.empty_like(density)
        fourier.forward(density, wave)
        full = fourier.corner(self.framing.on_pattern(fourier.centre(wave)))
        full /= np.float32(math.sqrt(math.prod(self.framing.step)))
        fourier.inverse(full, full)
        return full, self._enlarged(support)

    def _enlarged(self, support: NDArray[np.bool_]) -> NDArray[np.bool_]:
        within, index, edge = [], [], self.framing.edge
        for n, step in zip(self.framing.shape, self.framing.step, strict=True):
            at = np.round(np.fft.fftfreq(n, 1 / n) * (edge * step / n)).astype(np.intp)
            within.append(np.abs(at) <= edge // 2 - 1)
            index.append(at % edge)
        return np.ascontiguousarray(support[np.ix_(*index)] & within[0][:, None, None] & within[1][:, None] & within[2])


def _to_corner(weights: NDArray[Any], *arrays: NDArray[Any]) -> list[NDArray[Any]]:
    """Periodic arrays, rolled so that the middle of the weights is at [0, 0, 0]."""
    shift = tuple(-round(place) for place in middle(weights))
    return [np.roll(array, shift, axis=(0, 1, 2)) for array in arrays]
