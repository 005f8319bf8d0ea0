"""Gaps filled by a network where there is one, and by interpolation where there is none."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from braggd.config import InferenceConfig
from braggd.errors import ModelError
from braggd.inference.filler import Filler
from braggd.inference.interpolate import interpolate
from braggd.inference.networks import opened
from braggd.inference.slabs import Slab, slabs_of

# A network guesses fringes; where the surroundings of a voxel hold fewer photons than this on average, it has nothing
# to guess them from.
_SIGNAL_PHOTONS = 0.1
_SIGNAL_BOX = 9
# Dead pixels and their like have measured neighbours all around, which interpolation uses best.
_LEAST_LINES = 256
# The peak may lie in the gap and be brighter than all that was measured, but within reason: log counts above the rest.
_BRIGHTER = 4.0
# Lines about a crossing that the network is shown.
_AROUND_CROSSINGS = 16
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
    fills gaps without signal around them, single pixels, gaps wider than the network knows and those open on one side.
    Raises ModelError where nothing at all was measured.
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


def _by_network(start: Inpainted, measured: Bools, config: InferenceConfig) -> Inpainted:
    """Let the network fill the slabs with signal; start: all gaps interpolated."""
    session = opened("gaps", config.inpaint_model, config)
    filler = Filler.of(session)
    wanted = _near_signal(start.counts, measured)
    logs = np.log1p(np.maximum(start.counts, 0))
    ceiling = float(np.max(logs, where=measured, initial=0)) + _BRIGHTER
    missing, least = ~measured, _LEAST_LINES
    sigma = np.full(logs.shape, np.inf, np.float32)
    # Where gaps cross, no line across begins at what was measured; it does at what the first pass has painted.
    for _ in range(2):
        slabs, buried = slabs_of(missing, least)
        known = [_lit(slab, wanted) for slab in slabs if slab.stop - slab.start <= filler.widths[-1]]
        painted, left = filler.fill(logs, measured, [slab for slab in known if slab.lines.any()])
        now = np.isfinite(left)
        logs[now], sigma[now] = np.clip(painted[now], 0, ceiling), left[now]
        missing, least = buried, 1
        # a crossing is small: all of its surroundings would take as long as both gaps
        filler = replace(filler, around=min(filler.around, _AROUND_CROSSINGS))
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


def _lit(slab: Slab, wanted: Bools) -> Slab:
    """A slab with only those of its lines on which something is wanted."""
    inside = np.moveaxis(wanted, slab.axis, 0)[slab.start : slab.stop]
    return replace(slab, lines=slab.lines & inside.any(axis=0))
