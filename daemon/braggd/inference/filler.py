"""A network that fills gaps, in the daemon's hands: how it is fed, slab by slab.

Inputs `lines`, float32 (1, CHANNELS, u + 2 reach, v + 2 reach), as `slabs.lines_across` makes them, with `reach`
neighbours on every side, and `width`, int64 (1,). Outputs, in this order: log(1 + counts) in the gap, and the logarithm
of its standard deviation, (1, WIDEST, u, v) float32 both, of which the first `width` planes are used.

The card, a JSON file beside the network, must hold `format` (FORMAT), `widths` (gap widths that the network knows,
others are widened to the next) and `reach`. It may hold `tile`, the largest u and v that are asked for in one run
(default 256); `around`, how many lines about them the network must see for its answer not to depend on the tile
(default 0); `stride`, of which u and v are multiples, and where runs begin, too (default 1); and `inversion`: the mean
with what the network says of the inverted volume is taken, as intensities know no direction.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from braggd.errors import ModelError
from braggd.inference.session import Session
from braggd.inference.slabs import CHANNELS, WIDEST, Slab, inverted, lines_across

FORMAT = 2
_SIZES = "`widths`, `reach`, `tile`, `around` or `stride`"

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Filler:
    """A filling network, and how it is to be run.

    widths: that it knows, ascending; reach: neighbours that it needs on every side
    tile: largest u and v asked for in one run; around: lines about them that have an influence
    stride: of which u and v of a run are multiples, and at multiples of which runs begin
    inversion: whether to take the mean with what it says of the inverted volume
    """

    session: Session
    widths: tuple[int, ...]
    reach: int
    tile: int
    around: int
    stride: int
    inversion: bool

    @classmethod
    def of(cls, session: Session) -> Filler:
        """Read the network's card. Raises ModelError where the network or its card is of another kind."""
        card, model = session.card, session.model
        if card.get("format") != FORMAT:
            raise ModelError(
                f"{model}: its card says format {card.get('format')}, this braggd feeds format {FORMAT}; "
                "use the network that came with this version"
            )
        names = [tensor.name for tensor in session.inputs]
        if names != ["lines", "width"] or len(session.outputs) != 2 or session.inputs[0].shape[1] != CHANNELS:
            raise ModelError(f"{model}: is no network that fills gaps; it must take {CHANNELS} channels of lines")
        try:
            widths = tuple(sorted(int(width) for width in card["widths"]))
            reach, tile = int(card["reach"]), int(card.get("tile", 256))
            around, stride = int(card.get("around", 0)), int(card.get("stride", 1))
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{model}: its card lacks a good {_SIZES}; mend the JSON file") from error
        if not widths or widths[0] < 1 or widths[-1] > WIDEST or min(reach, around) < 0 or min(tile, stride) < 1:
            raise ModelError(f"{model}: its card has an impossible {_SIZES}; mend the JSON file")
        return cls(session, widths, reach, tile, around, stride, bool(card.get("inversion")))

    def fill(self, logs: Floats, measured: Bools, slabs: list[Slab]) -> tuple[Floats, Floats]:
        """Log counts of the slabs' voxels and their standard deviation; infinite where no slab is.

        logs: (step, row, column) log(1 + counts), gaps filled somehow; measured: the same shape
        slabs: none wider than the widest that is known
        """
        total, spread, weight = (np.zeros(logs.shape, np.float32) for _ in range(3))
        for slab in slabs:
            turned, seen = np.moveaxis(logs, slab.axis, 0), np.moveaxis(measured, slab.axis, 0)
            sums = [np.moveaxis(target, slab.axis, 0) for target in (total, spread, weight)]
            for box in _tiles(slab.lines, self.tile):
                values, log_sigma = self._run(turned, seen, slab, box)
                lines = slab.lines[box]
                for target, made in zip(sums, (values, np.exp(log_sigma), np.ones_like(values)), strict=True):
                    target[slab.start : slab.stop, *box] += np.where(lines, made, 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return total / weight, np.where(weight > 0, spread / weight, np.float32(np.inf))

    def _run(self, logs: Floats, measured: Bools, slab: Slab, box: tuple[slice, slice]) -> tuple[Floats, Floats]:
        """One tile of a slab, (width, u, v) both; normal first."""
        start, stop = self._widened(slab, len(logs))
        spans = [self._span(edge, size) for edge, size in zip(box, logs.shape[1:], strict=True)]
        wide = [
            np.arange(first - self.reach, last + self.reach).clip(0, size - 1)
            for (first, last), size in zip(spans, logs.shape[1:], strict=True)
        ]
        window = (slice(None), wide[0][:, None], wide[1])
        lines = lines_across(logs[window], measured[window], start, stop)
        values, log_sigma = self._asked(lines, stop - start)
        if self.inversion:
            turned = [made[::-1, ::-1, ::-1] for made in self._asked(inverted(lines), stop - start)]
            values, log_sigma = (_mean(one, two) for one, two in zip((values, log_sigma), turned, strict=True))
        kept = (
            slice(slab.start - start, slab.stop - start),
            *(slice(edge.start - first, edge.stop - first) for edge, (first, _) in zip(box, spans, strict=True)),
        )
        return values[kept], log_sigma[kept]

    def _span(self, edge: slice, size: int) -> tuple[int, int]:
        """First line and that after the last one which the network is shown, aligned, for a tile's edge.

        Whoever asks for a line, it lies at the same place modulo the stride, so that all get the same answer.
        """
        first = max(0, edge.start - self.around) // self.stride * self.stride
        last = min(size, edge.stop + self.around)
        return first, first - (first - last) // self.stride * self.stride

    def _asked(self, lines: Floats, width: int) -> tuple[Floats, Floats]:
        """What the network answers, (width, u, v) both."""
        outputs = self.session.run({"lines": lines[None], "width": np.array([width], np.int64)})
        shape = (1, WIDEST, *(size - 2 * self.reach for size in lines.shape[1:]))
        found = []
        for values in outputs.values():
            if values.shape != shape:
                raise ModelError(
                    f"{self.session.model}: returns shape {values.shape}, not {shape}; use another network"
                )
            if not np.isfinite(values[0, :width]).all():
                raise ModelError(f"{self.session.model}: returns values that are not finite; train or export it again")
            found.append(np.asarray(values[0, :width], np.float32))
        return found[0], found[1]

    def _widened(self, slab: Slab, size: int) -> tuple[int, int]:
        """The planes of a slab and of so many beside it that the network knows the width."""
        width = slab.stop - slab.start
        goal = next(known for known in self.widths if known >= width)
        start = min(max(0, slab.start - (goal - width) // 2), max(0, size - goal))
        return start, start + goal


def _mean(one: Floats, two: Floats) -> Floats:
    return np.asarray((one + two) / 2, np.float32)


def _tiles(lines: Bools, most: int) -> list[tuple[slice, slice]]:
    """Boxes of at most that size which cover the lines."""
    rows, columns = ndimage.find_objects(lines.astype(np.uint8))[0]
    starts = itertools.product(range(rows.start, rows.stop, most), range(columns.start, columns.stop, most))
    boxes = [(slice(u, min(u + most, rows.stop)), slice(v, min(v + most, columns.stop))) for u, v in starts]
    return [box for box in boxes if lines[box].any()]
