"""The networks that come with braggd, found by their cards.

A network is an ONNX file with a card beside it, a JSON file of the same name. Its `task` says what it is for, its
`format` how it is fed.
"""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path

_log = logging.getLogger(__name__)


def shipped(task: str) -> Path | None:
    """The newest network for a task, None where there is none.

    task: "gaps", ...; of several the one whose card has the highest `made` (ISO date and time) is taken
    """
    best: tuple[str, Path] | None = None
    for card in sorted(_folder().glob("*.json")):
        try:
            said = json.loads(card.read_bytes())
        except (OSError, ValueError) as error:
            _log.warning("%s: the network's card cannot be read (%s)", card, error)
            continue
        model = card.with_suffix(".onnx")
        if isinstance(said, dict) and said.get("task") == task and model.is_file():
            best = max(best or ("", model), (str(said.get("made", "")), model))
    return best[1] if best else None


def _folder() -> Path:
    # The weights lie beside the code that trains them, which is not imported.
    spec = importlib.util.find_spec("braggd_models")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0] if places else __file__) / "weights"
