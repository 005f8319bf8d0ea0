"""Gaps filled by a network where there is one, and by interpolation where there is none.

What a network file must look like
----------------------------------
Inputs `lines`, float32 (1, CHANNELS, u + 2 reach, v + 2 reach), as `slabs.lines_across` makes them, with `reach`
neighbours on every side, and `width`, int64 (1,). Outputs, in this order: log(1 + counts) in the gap, and the logarithm
of its standard deviation, (1, WIDEST, u, v) float32 both, of which the first `width` planes are used. The card, a JSON
file beside the network, must hold `format` (FORMAT), `widths` (gap widths that the network knows, others are widened to
the next) and `reach`, and may hold `tile`, the largest u and v of one run (default 256).
"""

from __future__ import annotations

import itertools
import logging
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from braggd.config import InferenceConfig
from braggd.errors import ModelError
from braggd.inference.interpolate import interpolate
from braggd.inference.session import Session, open_session
from braggd.inference.shipped import shipped
from braggd.inference.slabs import CHANNELS, WIDEST, Slab, lines_across, slabs_of

FORMAT = 1
# A network guesses fringes; where the surroundings of a voxel hold fewer photons than this on average, it has nothing
# to guess them from.
_SIGNAL_PHOTONS = 0.1
_SIGNAL_BOX = 9
# Dead pixels and their like have measured neighbours all around, which interpolation uses best.
_LEAST_LINES = 256
# The peak may lie in the gap and be brighter than all that was measured, but within reason: log counts above the rest.
_BRIGHTER = 4.0
_log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Inpainted:
    """A volume without gaps.

    counts: (step, row, column) float32, photons; measured voxels as they were
    uncertainty: (step, row, column) float32, standard deviation of log(1 + counts) as the network estimates it; 0 where
        measured, infinite where interpolated
    provider: what the network ran on, "cpu" for interpolation
    method: "network", "interpolation", or "none" where there was no gap
    warnings: sentences; what was wanted and not got
    model_hash: SHA-256 of the network's file, "" where none was used
    seconds: that it took
    """

    counts: Floats
    uncertainty: Floats
    provider: str
    method: str
    warnings: tuple[str, ...]
    model_hash: str
    seconds: float


def inpaint(counts: NDArray[np.generic], valid: NDArray[np.bool_], config: InferenceConfig) -> Inpainted:
    """Fill what was not measured, and keep every measured photon.

    counts: (step, row, column), photons; undefined where not valid
    valid: (step, row, column) bool, True where measured; a NaN or infinity counts as not measured
    config: `inpaint_model` names the network

    A network that is missing, does not fit or fails is replaced by interpolation, with a warning. Interpolation also
    fills gaps without signal around them, single pixels, gaps wider than WIDEST and what is open on one side. Raises
    ModelError where nothing at all was measured.
    """
    began = time.perf_counter()
    measured = np.asarray(valid, np.bool_) & np.isfinite(counts)
    filled = interpolate(counts, measured)
    done = Inpainted(
        counts=filled,
        uncertainty=np.where(measured, np.float32(0), np.float32(np.inf)),
        provider="cpu",
        method="none" if measured.all() else "interpolation",
        warnings=(),
        model_hash="",
        seconds=0.0,
    )
    if config.inpaint_model and done.method != "none":
        try:
            done = _by_network(done, measured, config)
        except ModelError as error:
            warning = f"gaps are filled by interpolation, because of the network {error}"
            _log.warning("%s", warning)
            done = replace(done, warnings=(warning,))
    return replace(done, seconds=time.perf_counter() - began)


def model_path(config: InferenceConfig) -> Path:
    """The file of the network that fills gaps. Raises ModelError where none is shipped."""
    if config.inpaint_model != "auto":
        return Path(config.inpaint_model).expanduser()
    found = shipped("gaps")
    if found is None:
        raise ModelError("that comes with braggd is not there; install braggd again or name one in [inference]")
    return found


def _session(config: InferenceConfig) -> Session:
    model = model_path(config)
    try:
        stamp = (model.stat().st_mtime_ns, model.stat().st_size)
    except OSError as error:
        raise ModelError(f"{model}: cannot be read ({error.strerror}); name an ONNX file, or leave it out") from error
    return _opened(model, stamp, config.providers, config.engine_cache)


@lru_cache(maxsize=2)
def _opened(model: Path, stamp: tuple[int, int], providers: tuple[Any, ...], engine_cache: str) -> Session:
    """Open a network once, not per scan; a file that changed is another network."""
    return open_session(model, providers, Path(engine_cache).expanduser() if engine_cache else None)


def _by_network(start: Inpainted, measured: Bools, config: InferenceConfig) -> Inpainted:
    """Let the network fill the slabs with signal; start: all gaps interpolated."""
    session = _session(config)
    filler = Filler.of(session)
    wanted = _near_signal(start.counts, measured)
    logs = np.log1p(np.maximum(start.counts, 0))
    ceiling = float(np.max(logs, where=measured, initial=0)) + _BRIGHTER
    missing, least = ~measured, _LEAST_LINES
    sigma = np.full(logs.shape, np.inf, np.float32)
    # Where gaps cross, no line across begins at what was measured; it does at what the first pass has painted.
    for _ in range(2):
        slabs, buried = slabs_of(missing, least)
        painted, left = filler.fill(logs, measured, [slab for slab in slabs if _seen(wanted, slab)])
        now = np.isfinite(left)
        logs[now], sigma[now] = np.clip(painted[now], 0, ceiling), left[now]
        missing, least = buried, 1
        if not (now.any() and buried.any()):
            break
    taken = wanted & np.isfinite(sigma)
    if not taken.any():
        return replace(start, warnings=session.warnings)
    start.counts[taken] = np.expm1(logs[taken])
    start.uncertainty[taken] = sigma[taken]
    return replace(
        start,
        provider=session.provider,
        method="network",
        warnings=session.warnings,
        model_hash=session.model_hash,
    )


def _near_signal(filled: Floats, measured: Bools) -> Bools:
    """Gap voxels with signal around them, (step, row, column) bool."""
    mean = ndimage.uniform_filter(filled, _SIGNAL_BOX, mode="nearest")
    near: Bools = ~measured & (mean >= _SIGNAL_PHOTONS)
    return near


def _seen(wanted: Bools, slab: Slab) -> bool:
    inside = np.moveaxis(wanted, slab.axis, 0)[slab.start : slab.stop]
    return bool((inside.any(axis=0) & slab.lines).any())


@dataclass(frozen=True, slots=True, eq=False)
class Filler:
    """A filling network, and how it is to be run.

    widths: that it knows, ascending; reach: neighbours that it needs on every side; tile: largest u and v of one run
    """

    session: Session
    widths: tuple[int, ...]
    reach: int
    tile: int

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
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(
                f"{model}: its card lacks a good `widths`, `reach` or `tile`; mend the JSON file"
            ) from error
        if not widths or widths[0] < 1 or widths[-1] > WIDEST or reach < 0 or tile < 1:
            raise ModelError(f"{model}: its card has an impossible `widths`, `reach` or `tile`; mend the JSON file")
        return cls(session, widths, reach, tile)

    def fill(self, logs: Floats, measured: Bools, slabs: list[Slab]) -> tuple[Floats, Floats]:
        """Log counts of the slabs' voxels and their standard deviation; infinite where no slab is.

        logs: (step, row, column) log(1 + counts), gaps filled somehow; measured: the same shape
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
        wide = [
            np.arange(edge.start - self.reach, edge.stop + self.reach).clip(0, size - 1)
            for edge, size in zip(box, logs.shape[1:], strict=True)
        ]
        window = (slice(None), wide[0][:, None], wide[1])
        lines = lines_across(logs[window], measured[window], start, stop)
        outputs = self.session.run({"lines": lines[None], "width": np.array([stop - start], np.int64)})
        shape = (1, WIDEST, *(edge.stop - edge.start for edge in box))
        kept = slice(slab.start - start, slab.stop - start)
        found = []
        for values in outputs.values():
            if values.shape != shape:
                raise ModelError(
                    f"{self.session.model}: returns shape {values.shape}, not {shape}; use another network"
                )
            if not np.isfinite(values[0, kept]).all():
                raise ModelError(f"{self.session.model}: returns values that are not finite; train or export it again")
            found.append(np.asarray(values[0, kept], np.float32))
        return found[0], found[1]

    def _widened(self, slab: Slab, size: int) -> tuple[int, int]:
        """The planes of a slab and of so many beside it that the network knows the width."""
        width = slab.stop - slab.start
        goal = next((known for known in self.widths if known >= width), 0)
        if not goal:
            raise ModelError(f"{self.session.model}: knows gaps of at most {self.widths[-1]} pixels, not {width}")
        start = min(max(0, slab.start - (goal - width) // 2), max(0, size - goal))
        return start, start + goal


def _tiles(lines: Bools, most: int) -> list[tuple[slice, slice]]:
    """Boxes of at most that size which cover the lines."""
    rows, columns = ndimage.find_objects(lines.astype(np.uint8))[0]
    starts = itertools.product(range(rows.start, rows.stop, most), range(columns.start, columns.stop, most))
    boxes = [(slice(u, min(u + most, rows.stop)), slice(v, min(v + most, columns.stop))) for u, v in starts]
    return [box for box in boxes if lines[box].any()]
