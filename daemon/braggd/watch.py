"""`braggd watch`: a running daemon in the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from braggd.client import Client
from braggd.data import Result, Status

_BARS = " ▁▂▃▄▅▆▇█"


class View:
    """What is shown: the status, the rocking curve, and one row per stage."""

    def __init__(self) -> None:
        self.status = Status()
        self.curve = ""
        self.stages: dict[tuple[str, str], Result] = {}

    def take(self, message: Result | Status) -> None:
        """Show a message of the daemon."""
        if isinstance(message, Status):
            self.status = message
            return
        self.stages.pop((message.scan_id, message.stage), None)
        self.stages[message.scan_id, message.stage] = message
        if message.stage == "live":
            self.curve = sparkline(np.asarray(message.array("rocking_curve"), float), 60)

    def __rich__(self) -> RenderableType:
        s = self.status
        style = {"ALARM": "yellow", "FAULT": "red", "RUNNING": "cyan"}.get(s.state, "green")
        frames = f"{s.frames_received}/{s.frames_expected or '?'} frames" if s.frames_received else ""
        head = Text.assemble((f"{s.state:8}", f"bold {style}"), f" {s.activity or 'waiting for a scan'}  {frames}")
        rows: list[RenderableType] = [head, Padding(ProgressBar(total=1.0, completed=s.progress, width=62), 0)]
        if self.curve:
            rows.append(Text(f"rocking curve {self.curve}", style="dim"))
        rows += [Text(f"{name}: {sentence}", style="yellow") for name, sentence in s.degraded.items()]
        if self.stages:
            rows.append(stage_table(list(self.stages.values())[-8:]))
        return Group(*rows)


def watch(publish: str) -> None:
    """Follow a daemon until Ctrl-C."""
    view = View()
    with Client(publish=publish) as client, Live(view, console=Console(), refresh_per_second=8):
        for message in client.messages():
            view.take(message)


def stage_table(results: list[Result]) -> Table:
    """One row per stage: time after the last frame, and what was measured of it."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scan", no_wrap=True)
    table.add_column("stage")
    table.add_column("after last frame", justify="right")
    table.add_column("metrics")
    for result in results:
        latency = result.timing.get("latency", 0.0)
        table.add_row(result.scan_id, result.stage, f"{latency:.1f} s", ", ".join(_told(result.metrics)))
    return table


def sparkline(curve: np.ndarray, width: int) -> str:
    """A curve as one line of block characters."""
    if not len(curve) or not np.nanmax(curve) > 0:
        return ""
    edges = np.linspace(0, len(curve), min(width, len(curve)) + 1).astype(int)
    values = np.array([np.nanmax(curve[a:b]) for a, b in pairwise(edges)])
    scaled = np.log1p(values) / np.log1p(values.max())
    return "".join(_BARS[int(value * (len(_BARS) - 1))] for value in scaled)


_TOLD = {
    "com_row": "centre of mass at row {:.1f}",
    "com_column": "column {:.1f}",
    "peak_step": "step {:.1f}",
    "llk": "LLK {:.3f}",
    "free_llk": "free LLK {:.3f}",
    "support_voxels": "{:.0f} voxels",
    "components": "{:.0f} piece(s)",
    "resolution_nm": "{:.0f} nm",
    "strain_rms": "strain {:.1e} rms",
}


def _told(metrics: Mapping[str, float]) -> list[str]:
    known = ((form, metrics.get(name, math.nan)) for name, form in _TOLD.items())
    return [form.format(value) for form, value in known if not math.isnan(value)]
