"""The whole chain from a scan to a crystal, readable on one screen."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from braggd.config import Config
from braggd.crystal.geometry import direct_basis, missing
from braggd.crystal.strain import crystal_from, strain_rms
from braggd.data import Crystal, Reconstruction, Scan, Stage
from braggd.errors import BraggdError, PhasingError
from braggd.inference.inpaint import Inpainted, inpaint
from braggd.inference.phase import Predicted, predict
from braggd.phasing.align import posed
from braggd.phasing.arrays import device_name, lesser, usable
from braggd.phasing.improve import improved
from braggd.phasing.resolution import resolution_nm
from braggd.phasing.retrieve import Retrieved, Seed, merge, retrieve
from braggd.phasing.support import dense
from braggd.scan.region import selected

Progress = Callable[[float, str], None]


@dataclass(slots=True)
class Clock:
    """Seconds by step."""

    steps: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    def lap(self, step: str) -> None:
        """Enter the time since the last lap."""
        now = time.perf_counter()
        self.steps[step] = round(now - self._last, 4)
        self._last = now


def _never() -> bool:
    return False


def reconstruct(
    scan: Scan,
    config: Config,
    progress: Progress | None = None,
    stop: Callable[[], bool] = _never,
    hurry: Callable[[], bool] = _never,
) -> Iterator[Reconstruction]:
    """Reconstruct a scan, stage by stage; each is yielded as soon as it exists.

    progress: told the share done, 0..1, and what is being done
    stop: asked now and then whether to give up; hurry: whether to leave out the final stage, also when it is under way

    Raises BraggdError, with a sentence, where there is nothing to reconstruct.
    """
    clock, warnings = Clock(), list(scan.warnings)

    part = selected(scan.counts, scan.valid, config.phasing.shape)
    counts, valid = part.counts, part.valid
    clock.lap("select")

    filled = inpaint(counts, valid, config.inference)
    warnings += filled.warnings
    clock.lap("inpaint")

    amplitude = np.sqrt(np.where(valid, counts, 0))
    predicted = predict(filled.counts, valid, config.inference)
    warnings += predicted.warnings
    clock.lap("predict")

    def reconstruction(stage: Stage, found: _Found) -> Reconstruction:
        crystal, why_not = _crystal(scan, found.density, found.support)
        clock.lap("crystal")
        metrics = dict(found.metrics)
        if crystal is not None:
            metrics["strain_rms"] = strain_rms(crystal)
            metrics |= _resolution(scan, found.retrieved, counts, valid)
        return Reconstruction(
            scan_id=scan.scan_id,
            stage=stage,
            counts=counts,
            valid=valid,
            inpainted=filled.counts,
            region=_within_raw(part.region, scan.origin),
            density=found.density,
            support=found.support,
            geometry=scan.geometry,
            crystal=crystal,
            metrics=metrics,
            warnings=tuple(dict.fromkeys((*warnings, *found.warnings, *why_not))),
            timing=dict(clock.steps),
            degraded={
                "inpainting": "; ".join(filled.warnings),
                "prediction": predicted.degraded,
                "phasing": lesser(config.phasing.device),
            },
            provenance=_provenance(config, filled, predicted, found, part.hot, scan),
        )

    first = _predicted(predicted, amplitude, valid, np.sqrt(filled.counts), config)
    if first is not None:
        clock.lap("appraise")
        yield reconstruction(Stage.DL, first)
    retrieved = retrieve(
        amplitude, valid, config.phasing, guess=np.sqrt(filled.counts),
        seeds=[] if first is None else [Seed(name=_NETWORK, density=first.density)], progress=progress, stop=stop,
    )  # fmt: skip
    clock.lap("phase")
    yield reconstruction(Stage.REFINED, _retrieved(retrieved, first))
    if config.phasing.final:
        try:
            merged = merge(retrieved, config.phasing, progress=progress, stop=lambda: stop() or hurry())
        except PhasingError:
            if stop() or not hurry():
                raise
            return
        clock.lap("merge")
        yield reconstruction(Stage.FINAL, _retrieved(merged, first))


_NETWORK = "network"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Found:
    """An object and what is said of it; retrieved: by iterations, None where the network made it."""

    density: np.ndarray
    support: np.ndarray
    metrics: Mapping[str, float]
    warnings: tuple[str, ...] = ()
    retrieved: Retrieved | None = None


def _predicted(
    predicted: Predicted, amplitude: np.ndarray, valid: np.ndarray, guess: np.ndarray, config: Config
) -> _Found | None:
    """The network's object after quick starts at low resolution, in the later stages' pose; None without one."""
    if predicted.density is None or predicted.support is None:
        return None
    density, support, quality = improved(predicted.density, predicted.support, amplitude, valid, config.phasing, guess)
    density, support = posed(density, support)
    figures = {name: getattr(quality, name) for name in ("llk", "free_llk", "r_factor", "support_voxels", "components")}
    metrics = {name: float(value) for name, value in figures.items() if np.isfinite(value)}
    return _Found(density=density, support=support, metrics=metrics | {"misfit": predicted.misfit})


def _retrieved(retrieved: Retrieved, first: _Found | None) -> _Found:
    metrics, warnings = dict(retrieved.metrics), list(retrieved.warnings)
    if first is not None:
        metrics["from_network"] = float(retrieved.origin == _NETWORK)
        name = "free_llk" if "free_llk" in metrics else "llk"
        if metrics.get(name, 0.0) > first.metrics.get(name, np.inf):
            warnings.append(f"the network's object had the better {name.replace('_', ' ')}; look at the `dl` stage too")
    return _Found(
        density=retrieved.density,
        support=retrieved.support,
        metrics=metrics,
        warnings=tuple(warnings),
        retrieved=retrieved,
    )


def _crystal(scan: Scan, density: np.ndarray, support: np.ndarray) -> tuple[Crystal | None, list[str]]:
    unknown = missing(scan.geometry)
    if unknown:
        return None, [
            f"the geometry lacks {', '.join(unknown)}; the crystal stays in the detector frame without strain"
        ]
    try:
        return crystal_from(density, dense(density, support), scan.geometry), []
    except BraggdError as error:
        return None, [str(error)]


def _resolution(scan: Scan, retrieved: Retrieved | None, counts: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Half-period resolution: of merged runs by their agreement, of a single one by the voxels that were withheld.

    Of the network's object nothing was withheld, and nothing can be said.
    """
    if retrieved is None:
        return {}
    found = resolution_nm(
        retrieved.merged or (retrieved.density,),
        np.sqrt(np.where(valid, counts, 0), dtype=np.float32),
        valid,
        direct_basis(scan.geometry, counts.shape),
        free=retrieved.free,
    )
    return {"resolution_nm": found} if np.isfinite(found) else {}


def _within_raw(
    region: tuple[tuple[int, int], tuple[int, int], tuple[int, int]], origin: tuple[int, int, int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    z, y, x = ((start + o, stop + o) for (start, stop), o in zip(region, origin, strict=True))
    return z, y, x


def _provenance(
    config: Config, filled: Inpainted, predicted: Predicted, found: _Found, hot: int, scan: Scan
) -> dict[str, object]:
    packages = ("braggd", "numpy", "scipy", "h5py", "onnxruntime", "openvino")
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "config": msgspec.to_builtins(config),
        "versions": versions,
        "inpainting": {"method": filled.method, "provider": filled.provider, "model_sha256": filled.model_hash},
        "prediction": {"provider": predicted.provider, "model_sha256": predicted.model_hash},
        "phasing": {"device": device_name(usable(config.phasing.device))},
        "start": {
            "origin": found.retrieved.origin if found.retrieved else _NETWORK,
            "faults": [run.fault for run in found.retrieved.runs] if found.retrieved else [],
        },
        "hot_pixels": hot,
        "ledger": {name: getattr(scan.ledger, name) for name in scan.ledger.__slots__},
    }
