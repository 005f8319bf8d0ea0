"""How well gaps are filled: every comparison, each a table and where it helps a picture.

1 - PCC is what is left to gain: Pearson's correlation over the gap's voxels only (thesis, eq. 3.1), of log(1 + counts)
and of counts.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from braggd.config import InferenceConfig
from braggd.example import example_flatfield, example_scan
from braggd.inference.inpaint import inpaint
from braggd_models.benchmarks import table
from braggd_models.gaps.classical import fillers
from braggd_models.simulate.dataset import PLAIN, atomistic_crystal, random_crystal
from braggd_models.simulate.gaps import cross, stripe
from braggd_models.simulate.pattern import wave_of
from braggd_models.simulate.recipe import Recipe

WIDTHS = (3, 6, 9, 12)
HELD_OUT_SEED = 770_000

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Size:
    """How much is computed.

    crystals: held-out ones; side: of their patterns; positions: of gaps in curves and in the measured scan
    minutes: of training of each network that is compared with
    """

    crystals: int = 12
    side: int = 128
    positions: int = 20
    minutes: float = 20.0


QUICK = Size(crystals=4, side=96, positions=20, minutes=2.0)


@dataclass(slots=True)
class Part:
    """One comparison: what it says, in Markdown, and its pictures by name."""

    text: str
    curves: dict[str, dict[str, tuple[list[float], list[float]]]] = field(default_factory=dict)


def off(filled: Floats, truth: Floats, inside: Bools) -> tuple[float, float]:
    """1 - PCC of log(1 + counts) and of counts, over the voxels inside."""
    a, b = filled[inside].astype(np.float64), truth[inside].astype(np.float64)
    return _off(np.log1p(a), np.log1p(b)), _off(a, b)


def _off(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    if a.std() == 0 or b.std() == 0:
        return 1.0
    return float(1 - np.corrcoef(a, b)[0, 1])


def network(model: str) -> Callable[[Floats, Bools], Floats]:
    """The filling network as the daemon runs it; model: as in the config's `inpaint_model`."""
    config = InferenceConfig(inpaint_model=model)

    def fill(counts: Floats, pixels: Bools) -> Floats:
        return inpaint(counts, np.broadcast_to(pixels, counts.shape), config).counts

    return fill


def held_out(model: str, size: Size) -> Part:
    """Atomistic crystals never trained on, against the noiseless intensity, beside classical interpolation."""
    methods = fillers() | {"network": network(model)}
    scores: dict[tuple[int, str, str], dict[str, list[tuple[float, float]]]] = {}
    for made in _atomistic(size):
        peak = np.unravel_index(int(np.argmax(made[1])), made[1].shape)[1:]
        for width, (where, shift) in itertools.product(WIDTHS, (("through", None), ("beside", 10))):
            for kind in ("stripe", "cross"):
                starts = [int(at) - width // 2 if shift is None else int(at) + shift for at in peak]
                frame = made[0].shape[1:]
                pixels = stripe(frame, 1, starts[1], width)
                if kind == "cross":
                    pixels = cross(frame, (starts[0], starts[1]), (width, width))
                inside = np.broadcast_to(~pixels, made[0].shape)
                counts = np.where(pixels, made[0], 0).astype(np.float32)
                for name, fill in methods.items():
                    found = off(fill(counts, pixels), made[1], inside)
                    scores.setdefault((width, kind, where), {}).setdefault(name, []).append(found)
    return Part(_held_out_text(scores, size))


def _held_out_text(scores: dict[tuple[int, str, str], dict[str, list[tuple[float, float]]]], size: Size) -> str:
    head = ["gap", "network", "best interpolation", "ratio", "network", "best interpolation", "ratio"]
    rows: list[list[object]] = []
    ratios: dict[int, list[list[float]]] = {}
    for (width, kind, where), by_name in scores.items():
        means = {name: np.mean(found, axis=0) for name, found in by_name.items()}
        row: list[object] = [f"{width} px {kind}, {where} the peak"]
        for which in (0, 1):
            others = {name: float(mean[which]) for name, mean in means.items() if name != "network"}
            best = min(others, key=lambda name: others[name])
            ours = float(means["network"][which])
            row += [ours, f"{others[best]:.3g} ({best})", ours / others[best]]
            ratios.setdefault(width, [[], []])[which].append(ours / others[best])
        rows.append(row)
    for width, (logs, counts) in ratios.items():
        rows.append([f"**{width} px, geometric mean**", "", "", _geometric(logs), "", "", _geometric(counts)])
    return (
        f"1 - PCC in the gap against the noiseless intensity, mean over {size.crystals} atomistic crystals (60 000 "
        f"atoms, oversampling 2 to 5, 1e4 to 1e6 photons in the peak, Poisson noise), {size.side}^3 voxels. First "
        "three columns: log(1 + counts); last three: counts. The best interpolation is the best of seven, row by row."
        "\n\n" + table(head, rows)
    )


def _geometric(values: Sequence[float]) -> float:
    return float(np.exp(np.mean(np.log(values))))


def _atomistic(size: Size) -> Iterator[tuple[Floats, Floats]]:
    recipe = Recipe(shape=(size.side,) * 3, peak_counts=(1e4, 1e6), phase_range=(0.0, 10.0), off_peak=2.0)
    for number in range(size.crystals):
        made = atomistic_crystal(HELD_OUT_SEED + number, recipe, size=60_000)
        yield made.counts, made.noiseless


def measured(model: str, size: Size) -> Part:
    """Gaps put into the measured scan, against its counts, with the ceiling that Poisson noise sets."""
    counts = measured_scan()
    rng = np.random.default_rng(0)
    again = rng.poisson(counts).astype(np.float32), rng.poisson(counts).astype(np.float32)
    methods = fillers()
    fill = network(model)
    rows: list[list[object]] = []
    wins = [0, 0]
    gains: list[float] = []
    for number, place in enumerate(np.linspace(-44, 38, size.positions).round().astype(int)):
        axis, width = number % 2, (6, 12)[number // 2 % 2]
        pixels = stripe(counts.shape[1:], axis, 64 + int(place), width)
        inside = np.broadcast_to(~pixels, counts.shape)
        holed = np.where(pixels, counts, 0).astype(np.float32)
        ours = off(fill(holed, pixels), counts, inside)
        others = [off(method(holed, pixels), counts, inside) for method in methods.values()]
        best = [min(other[which] for other in others) for which in (0, 1)]
        ceiling = off(*again, inside)
        for which in (0, 1):
            wins[which] += ours[which] < best[which]
        gains.append((best[0] - ours[0]) / max(best[0] - ceiling[0], 1e-9))
        rows.append(
            [f"{'row' if axis == 0 else 'column'} {place:+d}, {width} px"]
            + [1 - value for value in (ours[0], best[0], ceiling[0], ours[1], best[1], ceiling[1])]
        )
    head = ["gap, from the peak", *["network", "best interpolation", "ceiling"] * 2]
    return Part(
        "PCC in the gap against the measured counts (shipped scan, divided by its flat field as the daemon does it, "
        "128^3 about the peak). First three columns: log(1 + counts); last three: counts. Ceiling: PCC between two "
        "Poisson draws of the counts. The network beats the best "
        f"of seven interpolations in {wins[0]} of {size.positions} (log counts) and {wins[1]} (counts); on log counts "
        f"it goes {np.median(gains):.0%} of the way from it to the ceiling (median).\n\n" + table(head, rows)
    )


def measured_scan() -> Floats:
    """The shipped scan about its peak, (128, 128, 128), divided by its flat field."""
    _, _, white = example_flatfield().partition("::")
    window = slice(94 - 32, 158 + 32), slice(95 - 32, 159 + 32)
    with h5py.File(example_scan(), "r") as file:
        counts = file["entry/data/data"][67 - 32 : 131 + 32, *window].astype(np.float32)
        flat = file[white][window].astype(np.float32)
    return np.asarray(counts / np.clip(flat / np.median(flat), 0.3, 3), np.float32)


def strain(model: str, size: Size) -> Part:
    """Gap-induced strain of a phase-free object, its true phases kept, as in section 3.8."""
    fill = network(model)
    rows: list[list[object]] = []
    curves: dict[str, tuple[list[float], list[float]]] = {"gap left in": ([], []), "inpainted": ([], [])}
    errors: dict[int, list[tuple[float, float]]] = {width: [] for width in WIDTHS}
    for seed in range(max(2, size.crystals // 3)):
        made = random_crystal(
            HELD_OUT_SEED + 500 + seed,
            PLAIN,
            shape=(size.side,) * 3,
            crystal="tetrahexahedron",
            strain="none",
            oversampling=(2.5, 3.5),
            edge=0.7,
            rough=0.03,
            peak_counts=(1e6, 1e6),
            noise=False,
        )
        amplitude = wave_of(np.abs(made.density))
        support = np.abs(made.density) > 0.5 * np.abs(made.density).max()
        for width in WIDTHS:
            first = size.side // 2 - width // 2
            pixels = cross((size.side,) * 2, (first, first), (width, width))
            intensity = np.abs(amplitude) ** 2
            filled = fill((intensity * pixels).astype(np.float32), pixels)
            turned = np.where(pixels, amplitude, np.sqrt(filled) * np.exp(1j * np.angle(amplitude)))
            errors[width].append(
                (_strain_rms(amplitude * pixels, support), _strain_rms(turned.astype(np.complex64), support))
            )
    for width, found in errors.items():
        left, painted = np.mean(found, axis=0)
        rows.append([f"{width} px", float(left), float(painted), float(left / painted)])
        for name, value in (("gap left in", left), ("inpainted", painted)):
            curves[name][0].append(width)
            curves[name][1].append(float(value))
    return Part(
        "RMS of the strain that a cross through the peak induces in a phase-free tetrahexahedron with its true "
        f"reciprocal phases (phase gradient inside the support, rad/voxel), {size.side}^3 voxels, 1e6 photons, mean "
        f"over {max(2, size.crystals // 3)} crystals.\n\n" + table(["gap", "left in", "inpainted", "ratio"], rows),
        {"strain": curves},
    )


def _strain_rms(wave: NDArray[np.complex64], support: Bools) -> float:
    density = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(wave)))
    gradients = []
    for axis in range(3):
        step = np.angle(density * np.conj(np.roll(density, 1, axis)))
        both = support & np.roll(support, 1, axis)
        gradients.append(step[both])
    return float(np.sqrt(np.mean(np.concatenate(gradients) ** 2)))


def speed(model: str, size: Size) -> Part:
    """A 6 px cross through 128^3."""
    made = random_crystal(
        HELD_OUT_SEED + 900, PLAIN, shape=(128, 128, 128), oversampling=(3.0, 3.0), peak_counts=(1e6, 1e6)
    )
    pixels = cross((128, 128), (70, 72), (6, 6))
    fill = network(model)
    fill(made.counts, pixels)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        fill(made.counts, pixels)
        times.append(time.perf_counter() - began)
    return Part(
        "A 6 px cross through 128^3 voxels, from counts to counts, as the daemon does it (the thesis: 11 min at a step "
        f"of 1 on a V100): {np.median(times):.2f} s, fastest {min(times):.2f} s, of {len(times)} runs."
    )


def trends(model: str, size: Size) -> Part:
    """PCC against the gap's position and against oversampling, 9 px stripes (Figs. 3.6, 3.7, 3.16, 3.17)."""
    fill = network(model)
    places = np.linspace(-size.side // 2 + 14, size.side // 2 - 24, size.positions // 2 + 1).round().astype(int)
    by_place: dict[int, list[float]] = {int(place): [] for place in places}
    for number in range(max(2, size.crystals // 2)):
        made = random_crystal(HELD_OUT_SEED + 600 + number, shape=(size.side,) * 3, peak_counts=(1e5, 1e5))
        for place in by_place:
            by_place[place].append(_pcc(fill, made.counts, made.noiseless, size.side // 2 + place - 4, 9))
    samplings = (2.0, 2.5, 3.0, 4.0, 5.0, 6.0)
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for width in WIDTHS:
        means = []
        for sampling in samplings:
            side = round(16 * sampling / 2) * 2  # the same extent in q
            found = []
            for number in range(max(2, size.crystals // 2)):
                made = random_crystal(
                    HELD_OUT_SEED + 700 + number, shape=(side,) * 3, oversampling=(sampling, sampling),
                    peak_counts=(1e5, 1e5), stretch=1.0, shear=0.0,
                )  # fmt: skip
                found += [
                    _pcc(fill, made.counts, made.noiseless, start, width)
                    for start in range(4, side - width - 4, max(2, side // 4))
                ]
            means.append(float(np.nanmean(found)))
        curves[f"{width} px"] = (list(samplings), means)
    position = ([float(place) for place in by_place], [float(np.nanmean(found)) for found in by_place.values()])
    rows: list[list[object]] = [[name, *values] for name, (_, values) in curves.items()]
    return Part(
        "PCC of log(1 + counts) in a stripe, network. Against oversampling, over the same extent in q:\n\n"
        + table(["gap", *(f"{sampling:g}" for sampling in samplings)], rows)
        + "\n\nAgainst the position of a 9 px stripe (voxels from the peak):\n\n"
        + table([f"{place:+g}" for place in position[0]], [position[1]]),
        {"position": {"9 px": position}, "oversampling": curves},
    )


def _pcc(fill: Callable[[Floats, Bools], Floats], counts: Floats, truth: Floats, start: int, width: int) -> float:
    pixels = stripe((counts.shape[1], counts.shape[2]), 1, start, width)
    inside = np.broadcast_to(~pixels, counts.shape)
    return 1 - off(fill(np.where(pixels, counts, 0).astype(np.float32), pixels), truth, inside)[0]


def plot(part: Part, folder: Path) -> list[Path]:
    """Draw a part's curves, one PNG each."""
    from matplotlib.figure import Figure

    written = []
    for name, lines in part.curves.items():
        figure = Figure(figsize=(4.5, 3), layout="constrained")
        axes = figure.add_subplot()
        for label, (x, y) in lines.items():
            axes.plot(x, y, marker=".", label=label)
        axes.set(xlabel={"strain": "gap (px)", "position": "voxels from the peak"}.get(name, name), title=name)
        axes.legend()
        axes.grid(alpha=0.3)
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder / f"gaps-{name}.png")
        figure.savefig(written[-1], dpi=90)
    return written


PARTS: dict[str, Callable[[str, Size], Part]] = {
    "held-out": held_out,
    "measured": measured,
    "strain": strain,
    "speed": speed,
    "trends": trends,
}
