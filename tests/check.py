"""All checks in one command: `python tests/check.py [pytest options]`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = Path(sys.executable).parent
CHECKS = {
    "ruff": [TOOLS / "ruff", "check", "."],
    "ruff format": [TOOLS / "ruff", "format", "--check", "."],
    "mypy": [TOOLS / "mypy"],
    "import-linter": [TOOLS / "lint-imports"],
    "pytest": [TOOLS / "pytest", *sys.argv[1:]],
}


def main() -> int:
    failed = [name for name, command in CHECKS.items() if run(name, [str(part) for part in command])]
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "all checks passed\n")
    return 1 if failed else 0


def run(name: str, command: list[str]) -> int:
    sys.stdout.write(f"== {name}\n")
    sys.stdout.flush()
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
