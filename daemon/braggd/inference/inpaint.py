"""Gaps filled by a network where there is one, and by interpolation where there is none.

What a network file must look like
----------------------------------
Layout (batch 1, channel, z, y, x), float32, free or fixed sizes of z, y and x. Counts go in as log(1 + counts), divided
by the largest such value that was measured, so that they lie in 0..1. Either one input with the channels in this order,
or one input of one channel each, with these names:

=============  ====================================================
`counts`       scaled log counts, 0 where not measured
`mask`         1 where not measured, 0 where measured
`interpolated` scaled log counts, gaps filled by `interpolate`; optional
=============  ====================================================

The one output has one channel: the filled volume, scaled as the input. Only its gap voxels are used. The card, a JSON
file beside the network, may hold `multiple` (sizes must be multiples of it, default 16) and `tile` (the largest
volume of one run as [z, y, x], default 128 each): larger scans are run in overlapping tiles, only where gaps are.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
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

_CHANNELS = ("counts", "mask", "interpolated")
_OVERLAP = 16
# A network guesses fringes; where the surroundings of a voxel hold fewer photons than this on average, it has nothing
# to guess them from.
_SIGNAL_PHOTONS = 0.1
_SIGNAL_BOX = 9
# The peak may lie in the gap and be brighter than all that was measured, but not by orders of magnitude.
_BRIGHTEST = 1.1
_log = logging.getLogger(__name__)

Box = tuple[slice, slice, slice]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Inpainted:
    """A volume without gaps.

    counts: (step, row, column) float32, photons; measured voxels as they were
    provider: what the network ran on, "cpu" for interpolation
    method: "network", "interpolation", or "none" where there was no gap
    warnings: sentences; what was wanted and not got
    model_hash: SHA-256 of the network's file, "" where none was used
    seconds: that it took
    """

    counts: NDArray[np.float32]
    provider: str
    method: str
    warnings: tuple[str, ...]
    model_hash: str
    seconds: float


def inpaint(counts: NDArray[np.generic], valid: NDArray[np.bool_], config: InferenceConfig) -> Inpainted:
    """Fill what was not measured, and keep every measured photon.

    counts: (step, row, column), photons; undefined where not valid
    valid: (step, row, column) bool, True where measured; a NaN or infinity counts as not measured
    config: `inpaint_model` names the network; empty: interpolation

    A network that is missing, does not fit or fails is replaced by interpolation, with a warning. A gap without signal
    around it is left to interpolation. Raises ModelError where nothing at all was measured.
    """
    began = time.perf_counter()
    measured = np.asarray(valid, np.bool_) & np.isfinite(counts)
    filled = interpolate(counts, measured)
    warnings: tuple[str, ...] = ()
    provider, method, model_hash = "cpu", "none" if measured.all() else "interpolation", ""
    if config.inpaint_model and method != "none":
        try:
            session = _session(config)
            wanted = _near_signal(filled, measured)
            if wanted.any():
                filled[wanted] = _painted(session, filled, measured, wanted)[wanted]
                provider, method = session.provider, "network"
            model_hash, warnings = session.model_hash, session.warnings
        except ModelError as error:
            warnings = (f"gaps are filled by interpolation, because of the network {error}",)
            _log.warning("%s", warnings[0])
    return Inpainted(
        counts=filled,
        provider=provider,
        method=method,
        warnings=warnings,
        model_hash=model_hash if method == "network" else "",
        seconds=time.perf_counter() - began,
    )


def _session(config: InferenceConfig) -> Session:
    model = Path(config.inpaint_model).expanduser()
    try:
        stamp = (model.stat().st_mtime_ns, model.stat().st_size)
    except OSError as error:
        raise ModelError(f"{model}: cannot be read ({error.strerror}); name an ONNX file, or leave it out") from error
    return _opened(model, stamp, config.providers, config.engine_cache)


@lru_cache(maxsize=2)
def _opened(model: Path, stamp: tuple[int, int], providers: tuple[Any, ...], engine_cache: str) -> Session:
    """Open a network once, not per scan; a file that changed is another network."""
    return open_session(model, providers, Path(engine_cache).expanduser() if engine_cache else None)


def _near_signal(filled: NDArray[np.float32], measured: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Gap voxels with signal around them, (step, row, column) bool."""
    mean = ndimage.uniform_filter(filled, _SIGNAL_BOX, mode="nearest")
    near: NDArray[np.bool_] = ~measured & (mean >= _SIGNAL_PHOTONS)
    return near


def _painted(
    session: Session, filled: NDArray[np.float32], measured: NDArray[np.bool_], wanted: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """What the network says, photons; anything where it was not asked.

    filled: counts with the gaps interpolated; wanted: voxels that it must answer
    """
    scale = float(np.log1p(np.max(filled, where=measured, initial=0)))
    if scale <= 0:
        return filled
    logs = (np.log1p(np.maximum(filled, 0)) / scale).astype(np.float32)
    total = np.zeros(filled.shape, np.float32)
    weight = np.zeros(filled.shape, np.float32)
    tile, multiple = _tiling(session)
    for box in _tiles(filled.shape, tile):
        if wanted[box].any():
            painted = _run(session, logs[box], measured[box], multiple)
            ramp = _ramp(painted.shape)
            total[box] += painted * ramp
            weight[box] += ramp
    mean = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    return np.expm1(np.clip(mean, 0, _BRIGHTEST) * np.float32(scale))


def _tiling(session: Session) -> tuple[tuple[int, int, int], int]:
    """Largest (z, y, x) of one run, and the number that sizes must be multiples of."""
    fixed = session.inputs[0].shape[2:]
    try:
        multiple = int(session.card.get("multiple", 16))
        z, y, x = (int(size) for size in session.card.get("tile", (128, 128, 128)))
    except (TypeError, ValueError) as error:
        raise ModelError(f"{session.model}: its card has a wrong `multiple` or `tile`; mend the JSON file") from error
    if min(multiple, z, y, x) < 1:
        raise ModelError(f"{session.model}: its card has a `multiple` or `tile` below 1; mend the JSON file")
    if len(fixed) == 3 and all(fixed):
        z, y, x = (int(size or 0) for size in fixed)
        multiple = 0
    return (z, y, x), multiple


def _tiles(shape: tuple[int, ...], tile: tuple[int, int, int]) -> Iterator[Box]:
    """Boxes that cover a volume and overlap."""
    spans = []
    for size, most in zip(shape, tile, strict=True):
        count = 1 if size <= most else -(-(size - _overlap(most)) // (most - _overlap(most)))
        starts = np.linspace(0, max(size - most, 0), count).round().astype(int)
        spans.append([slice(int(start), min(int(start) + most, size)) for start in starts])
    yield from itertools.product(*spans)


def _overlap(tile: int) -> int:
    return min(_OVERLAP, tile // 4)


def _ramp(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Weights of a tile, falling to its faces, so that overlapping tiles blend."""
    ramps = [np.minimum(np.arange(1, size + 1), np.arange(size, 0, -1)).clip(max=_overlap(size) + 1) for size in shape]
    z, y, x = (ramp.astype(np.float32) for ramp in ramps)
    return z[:, None, None] * y[:, None] * x


def _run(
    session: Session, logs: NDArray[np.float32], measured: NDArray[np.bool_], multiple: int
) -> NDArray[np.float32]:
    """Run the network on one (z, y, x) tile, padded to what it takes."""
    fixed = session.inputs[0].shape[2:]
    goal = (
        [int(size or 0) for size in fixed] if not multiple else [-(-size // multiple) * multiple for size in logs.shape]
    )
    padding = [(0, want - size) for want, size in zip(goal, logs.shape, strict=True)]
    # Beyond the border nothing was measured; edge values keep the network from seeing a cliff there.
    channels = {
        "counts": np.pad(np.where(measured, logs, 0), padding),
        "mask": np.pad((~measured).astype(np.float32), padding, constant_values=1),
        "interpolated": np.pad(logs, padding, mode="edge"),
    }
    outputs = session.run(_feeds(session, channels))
    painted = next(iter(outputs.values()))
    if painted.shape != (1, 1, *goal):
        raise ModelError(f"{session.model}: returns shape {painted.shape}, not {(1, 1, *goal)}; use a filling network")
    if not np.isfinite(painted).all():
        raise ModelError(f"{session.model}: returns values that are not finite; train or export it again")
    inside = tuple(slice(size) for size in logs.shape)
    return np.asarray(painted[0, 0][inside], np.float32)


def _feeds(session: Session, channels: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    names = [tensor.name for tensor in session.inputs]
    if any(len(tensor.shape) != 5 for tensor in session.inputs) or len(session.outputs) != 1:
        raise ModelError(f"{session.model}: is no filling network; it must take and return one (n, c, z, y, x) volume")
    if len(names) > 1 or names[0] in _CHANNELS:
        if not set(names) <= set(_CHANNELS):
            raise ModelError(
                f"{session.model}: takes {', '.join(names)}; a filling network takes {', '.join(_CHANNELS)}"
            )
        # A single input may carry the first channel's name and yet hold all of them.
        if len(names) > 1:
            return {name: channels[name][None, None] for name in names}
    count = session.inputs[0].shape[1] or 2
    if count not in (2, 3):
        raise ModelError(f"{session.model}: takes {count} channels; a filling network takes counts and mask, 2 or 3")
    return {names[0]: np.stack([channels[name] for name in _CHANNELS[:count]])[None]}
