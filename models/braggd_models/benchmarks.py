"""`models/BENCHMARKS.md`: what was measured, one section per subject, each written by the command that measures it."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

_TITLE = "# Benchmarks of the models\n\nWritten by `braggd-models score`; each section names its command and machine.\n"


def replace_section(path: Path, name: str, text: str) -> None:
    """Write a section between its markers, in the place of what it said before; all others stay.

    path: the Markdown file, made where it is not there
    name: of the section, as `gaps held-out`; text: Markdown
    """
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    block = f"{begin}\n{text.strip()}\n{end}"
    whole = path.read_text(encoding="utf-8") if path.exists() else _TITLE
    before, found, rest = whole.partition(begin)
    if found:
        _, _, after = rest.partition(end)
        whole = before + block + after
    else:
        whole = whole.rstrip() + "\n\n" + block + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(whole, encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers are written with three significant digits."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_written(cell) for cell in line) + " |" for line in lines)


def machine() -> str:
    """The processor and how many of its cores may be used."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        said = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = said[0] if said else name
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def _written(cell: object) -> str:
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
