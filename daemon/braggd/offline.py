"""Recorded scans through the daemon's own pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from braggd.config import Config
from braggd.data import Ledger, Scan
from braggd.example import example_scan
from braggd.outlets.archive import write_archive
from braggd.outlets.picture import write_picture
from braggd.pipeline import reconstruct
from braggd.scan.detector import from_shape, load_mask
from braggd.sources.files import RecordedScan, read_scan


def load_scan(spec: str, config: Config, scan_id: str) -> Scan:
    """A recorded scan as the assembler would have made it, with the configuration's masks and geometry.

    Raises ScanFileError, DetectorError.
    """
    recorded = read_scan(str(example_scan()) if spec == "example" else spec)
    counts = recorded.counts
    valid = np.isfinite(counts) & (counts >= 0)
    if recorded.valid is not None:
        valid &= recorded.valid
    valid &= ~_blind(recorded, config)
    if config.detector.saturation > 0:
        valid &= counts < config.detector.saturation
    return Scan(
        scan_id=scan_id,
        counts=np.where(valid, counts, 0).astype(np.float32),
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


def _blind(recorded: RecordedScan, config: Config) -> np.ndarray:
    shape = recorded.counts.shape[1:]
    blind = np.zeros(shape, np.bool_)
    known = from_shape((shape[0], shape[1]))
    if config.detector.name:
        from braggd.scan.detector import detector

        known = detector(config.detector.name)
    if known is not None and known.shape == shape:
        blind |= known.mask
    if config.detector.mask:
        blind |= load_mask(config.detector.mask, (shape[0], shape[1]))
    return blind
