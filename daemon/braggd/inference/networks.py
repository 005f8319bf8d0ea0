"""The networks that a configuration names, opened once and kept."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from braggd.config import InferenceConfig
from braggd.errors import ModelError
from braggd.inference.session import Session, open_session
from braggd.inference.shipped import shipped


def model_path(task: str, chosen: str) -> Path:
    """The file of a network.

    task: "gaps" or "phase"; chosen: the configuration's word for it: a file, or "auto" for the one that is shipped
    Raises ModelError where none is shipped.
    """
    if chosen != "auto":
        return Path(chosen).expanduser()
    found = shipped(task)
    if found is None:
        raise ModelError("that comes with braggd is not there; install braggd again or name one in [inference]")
    return found


def opened(task: str, chosen: str, config: InferenceConfig) -> Session:
    """A network, ready to run; from the second call on the same one, unless its file has changed.

    Raises ModelError where it cannot be had.
    """
    model = model_path(task, chosen)
    try:
        stamp = (model.stat().st_mtime_ns, model.stat().st_size)
    except OSError as error:
        raise ModelError(f"{model}: cannot be read ({error.strerror}); name an ONNX file, or leave it out") from error
    return _opened(model, stamp, config.providers, config.engine_cache)


@lru_cache(maxsize=4)
def _opened(model: Path, stamp: tuple[int, int], providers: tuple[Any, ...], engine_cache: str) -> Session:
    """A file that changed is another network."""
    return open_session(model, providers, Path(engine_cache).expanduser() if engine_cache else None)
