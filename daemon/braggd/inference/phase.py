"""From a pattern to the object in one forward pass: the start of refinement, and the `dl` stage.

After Masto, PhD thesis, Univ. Grenoble Alpes, section 4.8: crop, resample, log, scale, network, and the object brought
back to the scan's own grid.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from braggd.bright import bright_piece
from braggd.config import InferenceConfig
from braggd.errors import FramingError, ModelError
from braggd.framing import Framing, framing_of
from braggd.inference.networks import opened
from braggd.inference.oddities import oddities
from braggd.inference.predictor import Predictor

# The support: where the modulus, smoothed over so many of the network's voxels, is above that share of its maximum.
_SMOOTHING, _THRESHOLD = 0.5, 0.1
# An object in a compact support that misses more of the measured amplitude than this is no good start.
_POOR = 0.45
_log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Predicted:
    """What the network made of a pattern.

    density: (z, y, x) complex64, the object on the pattern's own grid, its middle near n // 2; 0 outside the support;
        None where there is no prediction
    support: bool, likewise
    misfit: the share of the measured amplitude that the object in its support misses, at the network's resolution
    warnings: sentences: what was wanted and not got, and what about the pattern is unlike what the network has learnt
    degraded: of the warnings, why there is no prediction or on what else it ran; "" where all is well
    provider: what the network ran on, "" where it did not; model_hash: SHA-256 of its file
    seconds: that it took
    """

    density: NDArray[np.complex64] | None = None
    support: Bools | None = None
    misfit: float = float("nan")
    warnings: tuple[str, ...] = ()
    degraded: str = ""
    provider: str = ""
    model_hash: str = ""
    seconds: float = 0.0


def predict(counts: Floats, valid: Bools, config: InferenceConfig) -> Predicted:
    """Predict the object.

    counts: (z, y, x) float32 photons, filled where not valid; valid: bool, True where measured
    config: `phase_model` names the network; empty: nothing is predicted

    A network that is missing, does not fit or fails gives no prediction, with a warning; phasing then starts at random.
    """
    began = time.perf_counter()
    if not config.phase_model:
        return Predicted()
    try:
        done = _by_network(np.asarray(counts, np.float32), np.asarray(valid, np.bool_), config)
    except (FramingError, ModelError) as error:
        why = f"the network {error}" if isinstance(error, ModelError) else error
        warning = f"phasing starts at random, because {why}"
        _log.warning("%s", warning)
        done = Predicted(warnings=(warning,), degraded=warning)
    return replace(done, seconds=time.perf_counter() - began)


def _by_network(counts: Floats, valid: Bools, config: InferenceConfig) -> Predicted:
    session = opened("phase", config.phase_model, config)
    predictor = Predictor.of(session)
    framing = framing_of(counts)
    small, misfit = predictor.ask(*framing.seen(counts, valid))
    density, support = grown(small, framing, counts, valid)
    odd = oddities(counts, framing)
    if misfit > _POOR:
        odd.append(f"its object misses {misfit:.0%} of the amplitude")
    flags = (f"the network's object is not to be trusted: {'; '.join(odd)}",) if odd else ()
    return Predicted(
        density=density,
        support=support,
        misfit=misfit,
        warnings=(*session.warnings, *flags),
        degraded="; ".join(session.warnings),
        provider=session.provider,
        model_hash=session.model_hash,
    )


def grown(
    small: NDArray[np.complex64], framing: Framing, counts: Floats, valid: Bools
) -> tuple[NDArray[np.complex64], Bools]:
    """The object and its support on the pattern's own grid, (z, y, x), at the network's resolution.

    small: the network's wave, (EDGE, EDGE, EDGE) complex64; counts: photons; valid: bool
    The object's wave is in the unit of the measured amplitude.
    """
    amplitude = np.sqrt(np.maximum(counts, 0), dtype=np.float32)
    wave = framing.on_pattern(small)
    density = _object(wave * _scale(wave, amplitude, (wave != 0) & valid))
    support = _compact(density, framing)
    return np.where(support, density, 0).astype(np.complex64), support


def _scale(wave: NDArray[np.complex64], amplitude: Floats, where: Bools) -> np.float32:
    """What brings the network's moduli to the unit of the measured ones."""
    own = np.abs(wave[where]).astype(np.float64)
    return np.float32(np.sum(own * amplitude[where]) / max(float(np.sum(own * own)), 1e-30))


def _compact(density: NDArray[np.complex64], framing: Framing) -> Bools:
    """The largest piece of where the object is bright."""
    # a voxel of the network's is n / (EDGE step) of the pattern's own in real space
    sigma = [_SMOOTHING * n / (32 * step) for n, step in zip(framing.shape, framing.step, strict=True)]
    return bright_piece(np.abs(density), sigma, _THRESHOLD)


def _object(wave: NDArray[np.complex64]) -> NDArray[np.complex64]:
    return np.asarray(scipy.fft.fftshift(scipy.fft.ifftn(scipy.fft.ifftshift(wave), workers=-1)), np.complex64)
