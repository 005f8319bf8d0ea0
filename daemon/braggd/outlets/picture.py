"""One picture that tells a reconstruction at a glance: shape, displacement, strain, and the data it came from."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm, to_rgba
from matplotlib.figure import Figure

from braggd.data import Reconstruction
from braggd.outlets.files import replace_file
from braggd.outlets.panels import AMBER, FAINT, INK, NIGHT, body_of, draw_slices, draw_surface, panel

_STAGE_COLOURS = {"live": "#6e7b8b", "dl": "#8a63d2", "refined": "#2f81f7", "final": "#2ea043"}
_FONT: Any = {"font.family": "DejaVu Sans", "text.color": INK, "text.parse_math": False}


def write_picture(path: Path, reconstruction: Reconstruction) -> None:
    """Draw a reconstruction into a PNG of 1920 x 1080 pixels; the file appears at once or not at all.

    In the laboratory frame, in nm, where the geometry is known; else in the detector frame, in voxels, without strain.
    Raises OutletError where the folder is missing, not writable or full.
    """
    with mpl.rc_context(_FONT):
        figure = Figure(figsize=(16, 9), dpi=120, facecolor=NIGHT)
        FigureCanvasAgg(figure)
        body = body_of(reconstruction)
        _draw_header(figure, reconstruction)
        draw_surface(figure, body)
        draw_slices(figure, body)
        _draw_data(figure, reconstruction)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", facecolor=NIGHT, metadata={"Title": reconstruction.scan_id})
    replace_file(path, drawn.getvalue())


def _draw_header(figure: Figure, reconstruction: Reconstruction) -> None:
    metrics = figure.text(0.978, 0.942, _metrics_line(reconstruction), fontsize=13, va="center", ha="right")
    room = metrics.get_window_extent().x0 / figure.bbox.width - 0.022 - 0.095
    name = figure.text(
        0.022, 0.942, _shortened(reconstruction.scan_id, 60), fontsize=25, fontweight="bold", va="center"
    )
    width = name.get_window_extent().width / figure.bbox.width
    name.set_fontsize(25 * min(1.0, room / width))
    stage = str(reconstruction.stage)
    figure.text(
        0.022 + min(width, room) + 0.018,
        0.942,
        stage,
        fontsize=13,
        fontweight="bold",
        va="center",
        bbox={"boxstyle": "round,pad=0.45,rounding_size=0.9", "fc": _STAGE_COLOURS.get(stage, FAINT), "ec": "none"},
    )
    warnings = [_shortened(warning, 150) for warning in reconstruction.warnings[:2]]
    if len(reconstruction.warnings) > 2:
        warnings[-1] += f"  (and {len(reconstruction.warnings) - 2} more)"
    if warnings:
        figure.text(0.022, 0.022, "⚠  " + "   ·   ".join(warnings), fontsize=10, color=AMBER, va="center")
    figure.text(0.978, 0.022, "braggd", fontsize=10, color=FAINT, va="center", ha="right")


def _metrics_line(reconstruction: Reconstruction) -> str:
    wanted = {
        "resolution_nm": "resolution {:.0f} nm",
        "strain_rms": "strain {:.2f} · 10⁻³ rms",
        "llk": "LLK {:.3g}",
        "free_llk": "free LLK {:.3g}",
        "support_voxels": "{:,.0f} voxels",
    }
    scale = {"strain_rms": 1e3}
    known = {name: value * scale.get(name, 1.0) for name, value in reconstruction.metrics.items() if np.isfinite(value)}
    parts = [text.format(known[name]).replace(",", "\u202f") for name, text in wanted.items() if name in known]
    return "     ".join(parts)


def _draw_data(figure: Figure, reconstruction: Reconstruction) -> None:
    bottom, height = 0.0455, 0.2715
    curve = panel(figure, (0.022, bottom, 0.1085, height))
    counts = reconstruction.inpainted.sum(axis=(1, 2), dtype=np.float64)
    start, stop = reconstruction.region[0]
    angles = np.asarray(reconstruction.geometry.rocking_deg[max(0, start) : stop])
    known = len(angles) == len(counts)
    steps = angles if known else np.arange(start, start + len(counts), dtype=np.float64)
    floor = max(1.0, float(counts.max()) * 1e-4)
    curve.fill_between(steps, np.maximum(counts, floor), floor, color="#2f81f7", alpha=0.35, lw=0)
    curve.plot(steps, np.maximum(counts, floor), color="#79b8ff", lw=1.2)
    curve.set_yscale("log")
    curve.set_xlim(steps[0], steps[-1] if len(steps) > 1 else steps[0] + 1)
    curve.set_ylim(floor, max(float(counts.max()), floor) * 14)
    unit = f"{reconstruction.geometry.rocking_motor} {steps[0]:.2f}° … {steps[-1]:.2f}°" if known else "rocking step"
    curve.text(0.05, 0.93, "rocking curve", transform=curve.transAxes, fontsize=11, va="top")
    curve.text(0.05, 0.85, unit, transform=curve.transAxes, fontsize=9, color=FAINT, va="top")

    measured = np.where(reconstruction.valid, reconstruction.counts, 0).sum(axis=0, dtype=np.float64)
    seen = reconstruction.valid.any(axis=0)
    filled = reconstruction.inpainted.sum(axis=0, dtype=np.float64)
    norm = LogNorm(1, max(float(filled.max()), 10.0), clip=True)
    for left, name, frame in ((0.1352, "measured", measured), (0.2484, "inpainted", filled)):
        axes = panel(figure, (left, bottom, 0.1085, height))
        image = mpl.colormaps["magma"](norm(np.maximum(frame, 1)))
        if name == "measured":
            image[~seen] = to_rgba("#3d5a6c")
        axes.imshow(image, interpolation="nearest", aspect="equal", zorder=0)
        _cover(axes, frame.shape)
        label = axes.text(0.05, 0.93, name, transform=axes.transAxes, fontsize=11, va="top")
        label.set_bbox({"fc": NIGHT, "ec": "none", "alpha": 0.55, "pad": 2.5})


def _cover(axes: Axes, shape: tuple[int, ...]) -> None:
    """Fill the panel with the middle of a frame."""
    box = axes.get_window_extent()
    rows, columns = shape
    scale = min(rows / box.height, columns / box.width)
    across, up = scale * box.width / 2, scale * box.height / 2
    axes.set_xlim(columns / 2 - across - 0.5, columns / 2 + across - 0.5)
    axes.set_ylim(rows / 2 + up - 0.5, rows / 2 - up - 0.5)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
