"""The README says what is true."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from braggd.config import Config, ScanConfig
from braggd.data import Geometry
from braggd.outlets.tango import BraggDaemon

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_configuration_in_the_readme_holds_the_defaults() -> None:
    found = re.search(r"```toml\n(.*?)```", README, re.DOTALL)
    assert found is not None
    config = msgspec.toml.decode(found[1], type=Config)
    assert config.scan.peak is not None
    assert config.geometry.diffractometer
    example_parts = msgspec.structs.replace(
        config, scan=msgspec.structs.replace(config.scan, peak=ScanConfig().peak), geometry=Geometry()
    )
    assert example_parts == Config()


def test_every_tango_attribute_and_command_in_the_readme_exists() -> None:
    section = README[README.index("## Tango") : README.index("## HTTP")]
    table = section[section.index("| scalars |") : section.index("Commands:")]
    names = [name for name in re.findall(r"`([a-z_]+)`", table) if name not in ("phase", "strain")]
    assert len(names) > 15
    missing = [name for name in names if not hasattr(BraggDaemon, name)]
    assert not missing
    commands = re.findall(r"`([A-Z]\w+)(?:\(\w+\))?`", section[section.index("Commands:") :].split("States:")[0])
    assert commands == ["Start", "Stop", "Abort", "Reset", "PrepareScan", "Reprocess"]
    assert all(hasattr(BraggDaemon, command) for command in commands)


def test_every_file_that_the_readme_links_to_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_service_starts_the_command_that_is_installed() -> None:
    unit = (ROOT / "systemd" / "braggd.service").read_text()
    assert re.search(r"^ExecStart=\S+/bin/braggd run \S+\.toml$", unit, re.MULTILINE)
    assert "Type=notify" in unit
    assert "WatchdogSec=" in unit
