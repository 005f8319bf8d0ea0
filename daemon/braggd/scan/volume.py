"""The part of a scan's frames that is kept, in shared memory."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd import shared

Window = tuple[tuple[int, int], tuple[int, int]]
"""Rows and columns, each as (start, stop)."""


class Volume:
    """The frames of a series about its peak, in shared memory, and their sums.

    counts: (step, row, column) float32, 0 where not measured; valid: the same shape, bool
    frame_sum: (row, column); curve: (step,)
    """

    def __init__(self, steps: int, rows: int, columns: int) -> None:
        """Zeros, aimed at the frames' first corner."""
        self.counts_handle, self.counts = shared.create((steps, rows, columns), np.float32)
        self.valid_handle, self.valid = shared.create((steps, rows, columns), np.bool_)
        self.aim(((0, rows), (0, columns)))

    def aim(self, window: Window) -> None:
        """Hold this part of the frames from now on; what was placed before has to be placed again."""
        self.window = window
        self.frame_sum = np.zeros(self.counts.shape[1:], np.float32)
        self.curve = np.zeros(len(self.counts), np.float32)

    def place(
        self,
        step: int,
        band: NDArray[Any],
        blind: NDArray[np.bool_] | None,
        gain: NDArray[np.float32] | None,
        no_value: int,
        saturation: float,
    ) -> bool:
        """Copy the window out of its rows of a frame (row, column); False where the volume does not reach so far."""
        if step >= len(self.counts):
            return False
        columns = slice(*self.window[1])
        own, counts = band[:, columns], self.counts[step]
        # All ones is how SIMPLON writes "no value" into a pixel, negative how others do.
        bad = own == no_value if no_value >= 0 else own < 0
        if saturation > 0:
            bad |= own >= saturation
        if blind is not None:
            bad |= blind[:, columns]
        np.logical_not(bad, out=self.valid[step])
        np.copyto(counts, own, casting="unsafe")
        if gain is not None:
            counts /= gain[:, columns]
        np.copyto(counts, 0, where=bad)
        self.curve[step] = counts.sum()
        self.frame_sum += counts
        return True

    def release(self) -> None:
        """Give the memory back."""
        shared.unlink(self.counts_handle)
        shared.unlink(self.valid_handle)
