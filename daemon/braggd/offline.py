"""Recorded scans through the daemon's own pipeline."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from braggd.config import Config, DetectorConfig
from braggd.data import Ledger, Scan
from braggd.example import example_flatfield, example_scan
from braggd.outlets.archive import write_archive
from braggd.outlets.picture import write_picture
from braggd.pipeline import reconstruct
from braggd.scan.detector import detector, from_shape, load_flatfield, load_mask
from braggd.sources.files import read_scan


def load_scan(spec: str, config: Config, scan_id: str) -> Scan:
    """A recorded scan as the assembler would have made it, with the configuration's masks and geometry.

    Raises ScanFileError, DetectorError.
    """
    detector_config = config.detector
    if spec == "example":
        spec = str(example_scan())
        if not detector_config.flatfield:
            detector_config = msgspec.structs.replace(detector_config, flatfield=example_flatfield())
    recorded = read_scan(spec)
    counts = recorded.counts.astype(np.float32)
    valid = np.isfinite(counts) & (counts >= 0)
    if recorded.valid is not None:
        valid &= recorded.valid
    if detector_config.saturation > 0:
        valid &= counts < detector_config.saturation
    shape = counts.shape[1], counts.shape[2]
    valid &= ~_blind(shape, detector_config)
    if detector_config.flatfield:
        gain = load_flatfield(detector_config.flatfield, shape)
        valid &= np.isfinite(gain)
        counts /= gain
    return Scan(
        scan_id=scan_id,
        counts=np.where(valid, counts, 0),
        valid=valid,
        geometry=config.geometry.completed_by(recorded.geometry),
        ledger=Ledger(expected=len(counts), used=len(counts)),
    )


def reconstruct_file(spec: str, output: Path, config: Config) -> None:
    """Reconstruct one scan into `output`, with the picture beside it, and show progress.

    Raises BraggdError.
    """
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    scan = load_scan(spec, config, output.stem)
    with Progress(transient=True) as bar:
        task = bar.add_task("reconstructing", total=1.0)
        stages = reconstruct(scan, config, lambda share, doing: bar.update(task, completed=share, description=doing))
        for stage in stages:
            written = write_archive(output.parent, stage)
            if written != output:
                written.replace(output)
            write_picture(output.with_suffix(".png"), stage)
            console = Console()
            console.print(f"{output}: {stage.stage}", highlight=False, markup=False)
            for name, value in stage.metrics.items():
                console.print(f"  {name} {value:.6g}", highlight=False, markup=False)
            for warning in stage.warnings:
                console.print(f"  warning: {warning}", style="yellow", highlight=False, markup=False)


def _blind(shape: tuple[int, int], config: DetectorConfig) -> NDArray[np.bool_]:
    blind = np.zeros(shape, np.bool_)
    known = detector(config.name) if config.name else from_shape(shape)
    if known is not None and known.shape == shape:
        blind |= known.mask
    if config.mask:
        blind |= load_mask(config.mask, shape)
    return blind
