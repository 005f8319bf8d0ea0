"""The panels of the picture that show the crystal: its surface, and slices through it."""

from __future__ import annotations

from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy import ndimage

from braggd.data import Reconstruction
from braggd.outlets.render import View, shaded_surface

NIGHT, PANEL, INK, FAINT, AMBER = "#0d1117", "#151b24", "#e6edf3", "#8b98a9", "#e3b341"
_FINE = 6


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Field:
    """One row of slices: values inside the support, how they are coloured, what they are called."""

    name: str
    unit: str
    values: NDArray[np.float64]
    colours: Colormap
    norm: Normalize
    cyclic: bool = False


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Body:
    """What is drawn, in whichever frame is known.

    axes: names of the array's axes; voxel: edge of a voxel in `unit`
    """

    modulus: NDArray[np.float32]
    support: NDArray[np.bool_]
    fields: tuple[Field, ...]
    axes: tuple[str, str, str]
    voxel: float
    unit: str
    q_centre: tuple[float, float, float] | None


def body_of(reconstruction: Reconstruction) -> Body:
    """The crystal in the laboratory frame, or the object in the detector frame where there is none."""
    crystal = reconstruction.crystal
    fields: tuple[Field, ...]
    if crystal is None:
        modulus, support = np.abs(reconstruction.density).astype(np.float32), reconstruction.support
        modulus = modulus / max(float(modulus.max()), 1e-30)
        phase = np.angle(reconstruction.density)
        fields = (_modulus_field(modulus), _phase_field(phase))
        axes, voxel, unit = ("rocking", "row", "column"), 1.0, "voxels"
    else:
        modulus, support = crystal.modulus, crystal.support
        fields = (
            _modulus_field(modulus),
            _signed("displacement", "Å", crystal.displacement, support, "PuOr_r"),
            _signed("strain", "10⁻³", 1e3 * crystal.strain, support, "RdBu_r"),
        )
        axes, voxel, unit = ("z", "y", "x"), crystal.voxel_size_nm, "nm"
    return Body(
        modulus=modulus,
        support=support,
        fields=fields,
        axes=axes,
        voxel=voxel,
        unit=unit,
        q_centre=None if crystal is None else crystal.q_centre,
    )


def _modulus_field(modulus: NDArray[np.float32]) -> Field:
    return Field(
        name="modulus",
        unit="",
        values=modulus.astype(np.float64),
        colours=mpl.colormaps["magma"],
        norm=Normalize(0, 1.1),
    )


def _phase_field(phase: NDArray[np.floating]) -> Field:
    return Field(
        name="phase",
        unit="rad",
        values=phase.astype(np.float64),
        colours=mpl.colormaps["twilight_shifted"],
        norm=Normalize(-np.pi, np.pi),
        cyclic=True,
    )


def _signed(name: str, unit: str, values: NDArray[np.floating], support: NDArray[np.bool_], colours: str) -> Field:
    """A field about zero; the scale leaves out the outermost percent, so that one odd voxel does not flatten it."""
    inside = np.abs(values[support])
    reach = float(np.percentile(inside, 99)) if inside.size else 0.0
    limit = max(reach, 1e-12)
    return Field(
        name=name,
        unit=unit,
        values=values.astype(np.float64),
        colours=mpl.colormaps[colours],
        norm=Normalize(-limit, limit),
    )


def draw_surface(figure: Figure, body: Body) -> None:
    """The large panel: the body from outside, coloured by its last field."""
    axes = panel(figure, (0.022, 0.3295, 0.335, 0.5555))
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


def _solid(body: Body, field: Field) -> tuple[NDArray[np.float32], float, NDArray[np.float32]]:
    """What the surface is drawn from: a smooth body, the level of its surface, and the colour at every voxel."""
    window = _window(body.support)
    support = np.pad(body.support[window], 4)
    modulus = np.pad(body.modulus[window], 4) / np.median(body.modulus[body.support])
    smooth = ndimage.gaussian_filter((np.clip(modulus, 0.6, 1) * support).astype(np.float32), 1.0)
    values = _grown(np.pad(field.values[window], 4), support)
    if not field.cyclic:
        values = ndimage.gaussian_filter(values, 0.7)
    level = 0.5 if smooth.max() > 0.6 else 0.5 * float(smooth.max())
    return smooth, level, field.colours(field.norm(values))[..., :3].astype(np.float32)


def _draw_triad(axes: Axes, view: View, q_centre: NDArray[np.float64]) -> None:
    """The laboratory's axes and the scattering vector in the lower right corner."""
    (_, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    length = 0.085 * (top - bottom)
    corner = np.array([right - 2.1 * length, bottom + 1.6 * length])
    arrows = {"x": np.eye(3)[0], "y": np.eye(3)[1], "z": np.eye(3)[2], "q": q_centre / np.linalg.norm(q_centre)}
    for label, vector in arrows.items():
        colour = AMBER if label == "q" else FAINT
        tip = view.axes()[:2] @ vector * length
        style = {"arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
        axes.annotate("", (corner + tip).tolist(), corner.tolist(), arrowprops=style)
        place = corner + tip + 0.3 * length * tip / max(float(np.linalg.norm(tip)), 1e-9)
        axes.text(float(place[0]), float(place[1]), label, fontsize=11, color=colour, ha="center", va="center")


def draw_slices(figure: Figure, body: Body) -> None:
    """Three slices through the body's centre for every field, one row each."""
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
            axes = panel(figure, place)
            cut, inside = np.take(values, centre[axis], axis), np.take(support, centre[axis], axis)
            extent_across, extent_up = _show_cut(axes, field, cut, inside)
            if row == 0:
                up, across = (name for n, name in enumerate(body.axes) if n != axis)
                axes.text(
                    0.04, 0.955, f"{across} →   {up} ↑", transform=axes.transAxes, fontsize=11, color=FAINT, va="top"
                )
            if row == 0 and column == 2 and extent_across and extent_up:
                _scale_bar(axes, body, float(np.ptp(axes.get_xlim())))
        _draw_colour_bar(figure, field, (left + 3 * width + gap * 1.2 + 0.009, place[1], 0.0085, height))
    if len(body.fields) < 3:
        place = (left, top - 3 * height - 2 * 0.0125, 3 * width + 1.2 * gap, height)
        axes = panel(figure, place)
        note = "no strain: the geometry of the measurement is not known"
        axes.text(0.5, 0.5, note, transform=axes.transAxes, fontsize=12, color=FAINT, ha="center", va="center")


def _show_cut(axes: Axes, field: Field, cut: NDArray[np.float64], inside: NDArray[np.bool_]) -> tuple[float, float]:
    """Draw one slice, finer than its voxels, with soft edges; y up, x as seen along the beam."""
    box = axes.get_window_extent()
    rows, columns = cut.shape
    half = 0.56 * max(rows, columns * box.height / box.width)
    if inside.any():
        fine = _finer(_grown(cut, inside), field.cyclic)
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


def _draw_colour_bar(figure: Figure, field: Field, place: tuple[float, float, float, float]) -> None:
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
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    axes.tick_params(colors=FAINT, labelsize=9.5, length=2)
    for spine in axes.spines.values():
        spine.set_visible(False)
    title = f"{field.name} ({field.unit})" if field.unit else field.name
    figure.text(left + width + 0.0365, bottom + height / 2, title, rotation=90, fontsize=11.5, va="center", ha="center")


def panel(figure: Figure, place: tuple[float, float, float, float]) -> Axes:
    """An empty panel; place: (left, bottom, width, height) as shares of the figure."""
    axes = figure.add_axes(place, facecolor=PANEL)
    axes.tick_params(which="both", left=False, bottom=False, labelleft=False, labelbottom=False)
    for spine in axes.spines.values():
        spine.set_color("#222b36")
    return axes


def _scale_bar(axes: Axes, body: Body, width: float) -> None:
    """A bar of a round length, about a quarter of the panel; width: of the panel in voxels."""
    length = _round(width * body.voxel / 4)
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    x, y = left + 0.05 * (right - left), bottom + 0.06 * (top - bottom)
    axes.add_patch(Rectangle((x, y), length / body.voxel, 0.008 * (top - bottom), color=INK, lw=0))
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


def _finer(values: NDArray[np.float64], cyclic: bool) -> NDArray[np.float64]:
    if cyclic:
        return np.arctan2(_finer(np.sin(values), False), _finer(np.cos(values), False))
    return np.asarray(ndimage.zoom(values, _FINE, order=1, grid_mode=True, mode="nearest"), np.float64)


def _grown(values: NDArray[np.float64], inside: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Values carried over the edge from the nearest voxel inside, so that edges are not blended with zero."""
    nearest = ndimage.distance_transform_edt(~inside, return_distances=False, return_indices=True)
    return np.asarray(values[tuple(nearest)], np.float64)
