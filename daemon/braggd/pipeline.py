"""The whole chain from a scan to a crystal, readable on one screen."""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from braggd.config import Config
from braggd.crystal.geometry import direct_basis, missing
from braggd.crystal.strain import crystal_from, strain_rms
from braggd.data import Crystal, Reconstruction, Scan, Stage
from braggd.errors import BraggdError, PhasingError
from braggd.inference.inpaint import Inpainted, inpaint
from braggd.phasing.resolution import resolution_nm
from braggd.phasing.retrieve import Retrieved, merge, retrieve
from braggd.scan.hot import trusted
from braggd.scan.region import phasing_region

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

    valid, hot = trusted(scan.counts, scan.valid)
    region = phasing_region(scan.counts, valid, config.phasing.shape)
    crop = tuple(slice(*edge) for edge in region)
    counts, valid = np.ascontiguousarray(scan.counts[crop]), np.ascontiguousarray(valid[crop])
    clock.lap("select")

    filled = inpaint(counts, valid, config.inference)
    warnings += filled.warnings
    clock.lap("inpaint")

    retrieved = retrieve(
        np.sqrt(np.where(valid, counts, 0)), valid, config.phasing,
        guess=np.sqrt(filled.counts), progress=progress, stop=stop,
    )  # fmt: skip
    clock.lap("phase")

    def reconstruction(stage: Stage, retrieved: Retrieved) -> Reconstruction:
        crystal, why_not = _crystal(scan, retrieved.density, retrieved.support)
        clock.lap("crystal")
        metrics = dict(retrieved.metrics)
        if crystal is not None:
            metrics["strain_rms"] = strain_rms(crystal)
            metrics |= _resolution(scan, retrieved, counts, valid)
        return Reconstruction(
            scan_id=scan.scan_id,
            stage=stage,
            counts=counts,
            valid=valid,
            inpainted=filled.counts,
            region=_within_raw(region, scan.origin),
            density=retrieved.density,
            support=retrieved.support,
            geometry=scan.geometry,
            crystal=crystal,
            metrics=metrics,
            warnings=tuple(dict.fromkeys((*warnings, *retrieved.warnings, *why_not))),
            timing=dict(clock.steps),
            degraded={"inpainting": "; ".join(filled.warnings)},
            provenance=_provenance(config, filled, retrieved, int(hot.sum()), scan),
        )

    yield reconstruction(Stage.REFINED, retrieved)
    if config.phasing.final:
        try:
            merged = merge(retrieved, config.phasing, progress=progress, stop=lambda: stop() or hurry())
        except PhasingError:
            if stop() or not hurry():
                raise
            return
        clock.lap("merge")
        yield reconstruction(Stage.FINAL, merged)


def _crystal(scan: Scan, density: np.ndarray, support: np.ndarray) -> tuple[Crystal | None, list[str]]:
    unknown = missing(scan.geometry)
    if unknown:
        return None, [
            f"the geometry lacks {', '.join(unknown)}; the crystal stays in the detector frame without strain"
        ]
    try:
        return crystal_from(density, support, scan.geometry), []
    except BraggdError as error:
        return None, [str(error)]


def _resolution(scan: Scan, retrieved: Retrieved, counts: np.ndarray, valid: np.ndarray) -> dict[str, float]:
    """Half-period resolution: of merged runs by their agreement, of a single one by the voxels that were withheld."""
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


def _provenance(config: Config, filled: Inpainted, retrieved: Retrieved, hot: int, scan: Scan) -> dict[str, object]:
    packages = ("braggd", "numpy", "scipy", "h5py", "onnxruntime")
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
        "start": {"origin": retrieved.origin, "faults": [run.fault for run in retrieved.runs]},
        "hot_pixels": hot,
        "ledger": {name: getattr(scan.ledger, name) for name in scan.ledger.__slots__},
    }
