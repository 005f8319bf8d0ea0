"""One picture that tells a reconstruction at a glance: shape, displacement, strain, and the data it came from."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from scipy import ndimage

from braggd.data import Reconstruction
from braggd.outlets.files import replace_file
from braggd.outlets.render import View, shaded_surface

_NIGHT, _PANEL, _INK, _FAINT, _AMBER = "#0d1117", "#151b24", "#e6edf3", "#8b98a9", "#e3b341"
_STAGE_COLOURS = {"live": "#6e7b8b", "dl": "#8a63d2", "refined": "#2f81f7", "final": "#2ea043"}
_FINE = 6
_FONT: Any = {"font.family": "DejaVu Sans", "text.color": _INK, "text.parse_math": False}


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Field:
    """One row of slices: values inside the support, how they are coloured, what they are called."""

    name: str
    unit: str
    values: NDArray[np.float64]
    colours: Colormap
    norm: Normalize


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class _Body:
    """What is drawn, in whichever frame is known.

    axes: names of the array's axes; voxel: edge of a voxel in `unit`
    """

    modulus: NDArray[np.float32]
    support: NDArray[np.bool_]
    fields: tuple[_Field, ...]
    axes: tuple[str, str, str]
    voxel: float
    unit: str
    q_centre: tuple[float, float, float] | None


def write_picture(path: Path, reconstruction: Reconstruction) -> None:
    """Draw a reconstruction into a PNG of 1920 x 1080 pixels; the file appears at once or not at all.

    In the laboratory frame, in nm, where the geometry is known; else in the detector frame, in voxels, without strain.
    Raises OutletError where the folder is missing, not writable or full.
    """
    with mpl.rc_context(_FONT):
        figure = Figure(figsize=(16, 9), dpi=120, facecolor=_NIGHT)
        FigureCanvasAgg(figure)
        body = _body(reconstruction)
        _draw_header(figure, reconstruction)
        _draw_surface(figure, body)
        _draw_slices(figure, body)
        _draw_data(figure, reconstruction)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="png", facecolor=_NIGHT, metadata={"Title": reconstruction.scan_id})
    replace_file(path, drawn.getvalue())


def _body(reconstruction: Reconstruction) -> _Body:
    crystal = reconstruction.crystal
    fields: tuple[_Field, ...]
    if crystal is None:
        modulus, support = np.abs(reconstruction.density).astype(np.float32), reconstruction.support
        modulus = modulus / max(float(modulus.max()), 1e-30)
        phase = np.angle(reconstruction.density)
        fields = (_modulus_field(modulus), _signed("phase", "rad", phase, support, "PuOr_r"))
        axes, voxel, unit = ("rocking", "row", "column"), 1.0, "voxels"
    else:
        modulus, support = crystal.modulus, crystal.support
        fields = (
            _modulus_field(modulus),
            _signed("displacement", "Å", crystal.displacement, support, "PuOr_r"),
            _signed("strain", "10⁻³", 1e3 * crystal.strain, support, "RdBu_r"),
        )
        axes, voxel, unit = ("z", "y", "x"), crystal.voxel_size_nm, "nm"
    return _Body(
        modulus=modulus,
        support=support,
        fields=fields,
        axes=axes,
        voxel=voxel,
        unit=unit,
        q_centre=None if crystal is None else crystal.q_centre,
    )


def _modulus_field(modulus: NDArray[np.float32]) -> _Field:
    return _Field(
        name="modulus", unit="", values=modulus.astype(np.float64), colours=mpl.colormaps["magma"], norm=Normalize(0, 1.1)
    )


def _signed(name: str, unit: str, values: NDArray[np.floating], support: NDArray[np.bool_], colours: str) -> _Field:
    """A field about zero; the scale leaves out the outermost percent, so that one odd voxel does not flatten it."""
    inside = np.abs(values[support])
    reach = float(np.percentile(inside, 99)) if inside.size else 0.0
    limit = max(reach, 1e-12)
    return _Field(
        name=name,
        unit=unit,
        values=values.astype(np.float64),
        colours=mpl.colormaps[colours],
        norm=Normalize(-limit, limit),
    )


def _draw_header(figure: Figure, reconstruction: Reconstruction) -> None:
    name = figure.text(0.022, 0.942, reconstruction.scan_id, fontsize=25, fontweight="bold", va="center")
    name.set_text(_shortened(reconstruction.scan_id, 44))
    stage = str(reconstruction.stage)
    right = name.get_window_extent().x1 / figure.bbox.width + 0.018
    figure.text(
        right,
        0.942,
        stage,
        fontsize=13,
        fontweight="bold",
        va="center",
        bbox={"boxstyle": "round,pad=0.45,rounding_size=0.9", "fc": _STAGE_COLOURS.get(stage, _FAINT), "ec": "none"},
    )
    figure.text(0.978, 0.942, _metrics_line(reconstruction), fontsize=13, color=_INK, va="center", ha="right")
    warnings = [_shortened(warning, 150) for warning in reconstruction.warnings[:2]]
    if len(reconstruction.warnings) > 2:
        warnings[-1] += f"  (and {len(reconstruction.warnings) - 2} more)"
    if warnings:
        figure.text(0.022, 0.022, "⚠  " + "   ·   ".join(warnings), fontsize=10, color=_AMBER, va="center")
    figure.text(0.978, 0.022, "braggd", fontsize=10, color=_FAINT, va="center", ha="right")


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


def _draw_surface(figure: Figure, body: _Body) -> None:
    axes = _panel(figure, (0.022, 0.3295, 0.335, 0.5555))
    field = body.fields[-1]
    if body.support.any():
        view = View()
        image, half = shaded_surface(*_solid(body, field), view)
        box = axes.get_window_extent()
        axes.imshow(image, extent=(-half, half, -half, half), interpolation="antialiased")
        across, up = 1.2 * half * np.array([box.width / box.height, 1.0])
        axes.set_xlim(-across, across)
        axes.set_ylim(-up - 0.04 * half, up - 0.04 * half)
        _scale_bar(axes, body, 2 * across)
        if body.q_centre is not None:
            _draw_triad(axes, view, np.array(body.q_centre))
    axes.text(0.035, 0.955, f"surface, coloured by {field.name}", transform=axes.transAxes, fontsize=12, va="top")


def _solid(body: _Body, field: _Field) -> tuple[NDArray[np.float32], float, NDArray[np.float32]]:
    """What the surface is drawn from: a smooth body, the level of its surface, and the colour at every voxel."""
    window = _window(body.support)
    support = np.pad(body.support[window], 4)
    modulus = np.pad(body.modulus[window], 4) / np.median(body.modulus[body.support])
    smooth = ndimage.gaussian_filter((np.clip(modulus, 0.6, 1) * support).astype(np.float32), 1.0)
    values = ndimage.gaussian_filter(_grown(np.pad(field.values[window], 4), support), 0.7)
    level = 0.5 if smooth.max() > 0.6 else 0.5 * float(smooth.max())
    return smooth, level, field.colours(field.norm(values))[..., :3].astype(np.float32)


def _draw_triad(axes: Axes, view: View, q_centre: NDArray[np.float64]) -> None:
    """The laboratory's axes and the scattering vector in the lower right corner."""
    (_, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    length = 0.085 * (top - bottom)
    corner = np.array([right - 2.1 * length, bottom + 1.6 * length])
    arrows = {"x": np.eye(3)[0], "y": np.eye(3)[1], "z": np.eye(3)[2], "q": q_centre / np.linalg.norm(q_centre)}
    for label, vector in arrows.items():
        colour = _AMBER if label == "q" else _FAINT
        tip = view.axes()[:2] @ vector * length
        style = {"arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (corner + tip).tolist(), corner.tolist(), arrowprops=style)
        place = corner + tip + 0.3 * length * tip / max(float(np.linalg.norm(tip)), 1e-9)
        axes.text(float(place[0]), float(place[1]), label, fontsize=11, color=colour, ha="center", va="center")


def _draw_slices(figure: Figure, body: _Body) -> None:
    left, top, width, height, gap = 0.372, 0.885, 0.1735, 0.2715, 0.0085
    window = _window(body.support)
    support = body.support[window]
    centre = [int(np.round(c)) for c in ndimage.center_of_mass(support)] if support.any() else [0, 0, 0]
    for row, field in enumerate(body.fields):
        values = field.values[window]
        for column, axis in enumerate((0, 1, 2)):
            place = (
                left + column * (width + gap * 0.6),
                top - (row + 1) * height - row * 0.0125,
                width,
                height,
            )
            axes = _panel(figure, place)
            cut, inside = np.take(values, centre[axis], axis), np.take(support, centre[axis], axis)
            extent_across, extent_up = _show_cut(axes, field, cut, inside)
            if row == 0:
                up, across = (name for n, name in enumerate(body.axes) if n != axis)
                axes.text(
                    0.04, 0.955, f"{across} →   {up} ↑", transform=axes.transAxes, fontsize=11, color=_FAINT, va="top"
                )
            if row == 0 and column == 2 and extent_across and extent_up:
                _scale_bar(axes, body, float(np.ptp(axes.get_xlim())))
        _draw_colour_bar(figure, field, (left + 3 * width + gap * 1.2 + 0.009, place[1], 0.0085, height))
    if len(body.fields) < 3:
        place = (left, top - 3 * height - 2 * 0.0125, 3 * width + 1.2 * gap, height)
        axes = _panel(figure, place)
        note = "no strain: the geometry of the measurement is not known"
        axes.text(0.5, 0.5, note, transform=axes.transAxes, fontsize=12, color=_FAINT, ha="center", va="center")


def _show_cut(axes: Axes, field: _Field, cut: NDArray[np.float64], inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Draw one slice, finer than its voxels, with soft edges; y up, x as seen along the beam."""
    box = axes.get_window_extent()
    rows, columns = cut.shape
    half = 0.56 * max(rows, columns * box.height / box.width)
    if inside.any():
        fine = ndimage.zoom(_grown(cut, inside), _FINE, order=1, grid_mode=True, mode="nearest")
        soft = ndimage.gaussian_filter(np.pad(inside, 1).astype(np.float64), 0.6)
        mask = ndimage.zoom(soft, _FINE, order=1, grid_mode=True, mode="nearest")
        mask = mask[_FINE:-_FINE, _FINE:-_FINE]
        image = field.colours(field.norm(fine))
        image[..., 3] = np.clip((mask - 0.40) / 0.2, 0, 1)
        extent = (-columns / 2, columns / 2, -rows / 2, rows / 2)
        axes.imshow(image, extent=extent, origin="lower", interpolation="antialiased")
    axes.set_xlim(-half * box.width / box.height, half * box.width / box.height)
    axes.set_ylim(-half, half)
    return columns, rows


def _draw_colour_bar(figure: Figure, field: _Field, place: tuple[float, float, float, float]) -> None:
    left, bottom, width, height = place
    axes = figure.add_axes((left, bottom + 0.035, width, height - 0.07))
    axes.imshow(
        np.linspace(0, 1, 256)[:, None],
        cmap=field.colours,
        origin="lower",
        aspect="auto",
        extent=(0, 1, field.norm.vmin or 0.0, field.norm.vmax or 1.0),
    )
    axes.set_xticks([])
    axes.yaxis.tick_right()
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.tick_params(colors=_FAINT, labelsize=9.5, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title = f"{field.name} ({field.unit})" if field.unit else field.name
    figure.text(left + width + 0.0365, bottom + height / 2, title, rotation=90, fontsize=11.5, va="center", ha="center")


def _draw_data(figure: Figure, reconstruction: Reconstruction) -> None:
    bottom, height = 0.0455, 0.2715
    curve = _panel(figure, (0.022, bottom, 0.1085, height))
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
    curve.text(0.05, 0.85, unit, transform=curve.transAxes, fontsize=9, color=_FAINT, va="top")

    measured = np.where(reconstruction.valid, reconstruction.counts, 0).sum(axis=0, dtype=np.float64)
    seen = reconstruction.valid.any(axis=0)
    filled = reconstruction.inpainted.sum(axis=0, dtype=np.float64)
    norm = LogNorm(1, max(float(filled.max()), 10.0), clip=True)
    for left, name, frame in ((0.1352, "measured", measured), (0.2484, "inpainted", filled)):
        axes = _panel(figure, (left, bottom, 0.1085, height))
        image = mpl.colormaps["magma"](norm(np.maximum(frame, 1)))
        if name == "measured":
            image[~seen] = mpl.colors.to_rgba("#3d5a6c")
        axes.imshow(image, interpolation="nearest", aspect="equal", zorder=0)
        _cover(axes, frame.shape)
        label = axes.text(0.05, 0.93, name, transform=axes.transAxes, fontsize=11, va="top")
        label.set_bbox({"fc": _NIGHT, "ec": "none", "alpha": 0.55, "pad": 2.5})


def _cover(axes: Axes, shape: tuple[int, ...]) -> None:
    """Fill the panel with the middle of a frame."""
    box = axes.get_window_extent()
    rows, columns = shape
    scale = min(rows / box.height, columns / box.width)
    across, up = scale * box.width / 2, scale * box.height / 2
    axes.set_xlim(columns / 2 - across - 0.5, columns / 2 + across - 0.5)
    axes.set_ylim(rows / 2 + up - 0.5, rows / 2 - up - 0.5)


def _panel(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    axes = figure.add_axes(place, facecolor=_PANEL)
    axes.tick_params(which="both", left=False, bottom=False, labelleft=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_color("#222b36")
    return axes


def _scale_bar(axes: Axes, body: _Body, width: float) -> None:
    """A bar of a round length, about a quarter of the panel; width: of the panel in voxels."""
    length = _round(width * body.voxel / 4)
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    x, y = left + 0.05 * (right - left), bottom + 0.06 * (top - bottom)
    axes.add_patch(Rectangle((x, y), length / body.voxel, 0.008 * (top - bottom), color=_INK, lw=0))
    axes.text(x, y + 0.025 * (top - bottom), f"{length:g} {body.unit}", fontsize=11, va="bottom")


def _round(length: float) -> float:
    power = 10.0 ** np.floor(np.log10(length))
    return float(max(step * power for step in (1, 2, 5) if step * power <= length * 1.0001))


def _window(support: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The support's bounding box, two voxels wider where there is room."""
    found = ndimage.find_objects(support.astype(np.int8))
    if not found:
        return tuple(slice(None) for _ in support.shape)
    return tuple(slice(max(0, s.start - 2), s.stop + 2) for s in found[0])


def _grown(values: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values carried over the edge from the nearest voxel inside, so that edges are not blended with zero."""
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)], np.float64)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
