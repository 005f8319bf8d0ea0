"""A network in ONNX Runtime or OpenVINO: which provider really runs it, and what happens when that one fails.

What was wanted and not got is said in `warnings`.

A network whose card says `precision`: `bfloat16` loses nothing by it, and has it where OpenVINO and the CPU do.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from braggd.errors import ModelError
from braggd.inference import onnxruntime, openvino
from braggd.inference.onnxruntime import Loaded
from braggd.inference.openvino import Compiled

Provider = Literal["auto", "tensorrt", "cuda", "openvino", "cpu"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tensor:
    """An input or output of a network.

    shape: None where a size is free
    dtype: as numpy calls it
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(slots=True, eq=False)
class Session:
    """A loaded network.

    model: the ONNX file
    model_hash: its SHA-256, hexadecimal
    card: what the JSON file beside it says, empty where there is none
    provider: "tensorrt", "cuda", "openvino" or "cpu": the one that is really used
    warnings: what was wanted and not got; grows when a run falls back to the CPU
    """

    model: Path
    model_hash: str
    card: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    provider: str
    warnings: tuple[str, ...]
    threads: int
    _inner: Loaded | Compiled = field(repr=False)

    def run(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Run the network.

        feeds: the inputs by name, of the dtype and shape that `inputs` tells
        Returns the outputs by name.

        A run that fails on a GPU, out of memory for example, or in OpenVINO is repeated once in a fresh session of ONNX
        Runtime on the CPU, which then stays. Raises ModelError where the inputs do not fit or the run fails there.
        """
        self._check(feeds)
        feeds = {name: np.ascontiguousarray(feed) for name, feed in feeds.items()}
        names = [tensor.name for tensor in self.outputs]
        try:
            return dict(zip(names, self._inner.run(names, dict(feeds)), strict=True))
        except onnxruntime.errors() as error:
            why = onnxruntime.reason(error)
            if self.provider == "cpu":
                raise ModelError(
                    f"{self.model}: the network failed ({why}); check that it is made for such an input"
                ) from error
            warning = f"{self.model.name} failed on {self.provider} and now runs on the cpu ({why})"
        _log.warning("%s", warning)
        self.warnings = (*self.warnings, warning)
        self.provider = "cpu"
        del self._inner  # gives the GPU's memory back before the CPU's is taken
        self._inner = _create(self.model, ["cpu"], Path(), self.threads)
        return self.run(feeds)

    def _check(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        wanted = {tensor.name: tensor for tensor in self.inputs}
        if set(feeds) != set(wanted):
            raise ModelError(
                f"{self.model}: takes the inputs {', '.join(wanted)}, not {', '.join(feeds) or 'none'}; "
                "use a network made for this step"
            )
        for name, feed in feeds.items():
            tensor = wanted[name]
            fits = len(feed.shape) == len(tensor.shape) and all(
                size is None or size == given for size, given in zip(tensor.shape, feed.shape, strict=True)
            )
            if not fits:
                free = tuple("any" if size is None else size for size in tensor.shape)
                raise ModelError(
                    f"{self.model}: input {name} takes shape ({', '.join(map(str, free))}), not {feed.shape}; "
                    "use a network exported for it, or with free sizes"
                )
            if feed.dtype.name != tensor.dtype:
                raise ModelError(f"{self.model}: input {name} takes {tensor.dtype}, not {feed.dtype.name}; convert it")


def open_session(
    model: Path,
    providers: tuple[Provider, ...] = ("auto",),
    engine_cache: Path | None = None,
    threads: int = 0,
) -> Session:
    """Load a network.

    model: the ONNX file; a JSON file of the same name beside it is its card
    providers: in order of preference; ONNX Runtime's own for the CPU is always there as the last. "auto" is CUDA where
        the machine has a GPU and ONNX Runtime was built for it, else OpenVINO where it is installed, and no warning
    engine_cache: folder for TensorRT engines, a subfolder per network; None: `~/.cache/braggd/engines`
    threads: of the CPU, 0: all cores

    Raises ModelError where the file is missing, is no ONNX network, or is newer than this ONNX Runtime.
    """
    model_hash = _hash(model)
    card = _card(model)
    built_in = [*onnxruntime.built_in(), *(["openvino"] if openvino.installed() else [])]
    wanted: list[str] = list(dict.fromkeys([*_chosen(providers, built_in), "cpu"]))
    here = [provider for provider in wanted if provider in built_in]
    engines = (engine_cache or Path.home() / ".cache" / "braggd" / "engines") / model_hash[:16]
    inner = _create(model, here, engines, threads, rough=card.get("precision") == "bfloat16")
    missed = wanted[: wanted.index(inner.provider)]
    warnings = (_missed(model, inner.provider, missed, here),) if missed else ()
    for warning in warnings:
        _log.warning("%s", warning)
    return Session(
        model=model,
        model_hash=model_hash,
        card=card,
        inputs=tuple(Tensor(*described) for described in inner.inputs),
        outputs=tuple(Tensor(*described) for described in inner.outputs),
        provider=inner.provider,
        warnings=warnings,
        threads=threads,
        _inner=inner,
    )


def _chosen(providers: Sequence[Provider], built_in: Sequence[str]) -> list[str]:
    """The providers by name. TensorRT is left out of "auto", as it builds an engine for every new size of a gap."""
    has_gpu = "cuda" in built_in and any(Path("/dev").glob("nvidia[0-9]*"))
    automatic = ["cuda"] if has_gpu else ["openvino"] if "openvino" in built_in else []
    return [name for provider in providers for name in (automatic if provider == "auto" else [provider])]


def _missed(model: Path, used: str, missed: Sequence[str], here: Sequence[str]) -> str:
    failed = [provider for provider in missed if provider in here]
    if "openvino" in failed:
        return f"{model.name} runs on the {used}: openvino cannot compile it; update openvino"
    if failed:
        return f"{model.name} runs on the {used}: {' and '.join(failed)} found no GPU, or not all of their libraries"
    if missed == ["openvino"]:
        return f"{model.name} runs on the {used}: openvino is not installed; install braggd[cpu]"
    return f"{model.name} runs on the {used}: this ONNX Runtime has no {' and no '.join(missed)}; install braggd[gpu]"


def _create(
    model: Path, providers: Sequence[str], engines: Path, threads: int, *, rough: bool = False
) -> Loaded | Compiled:
    """A network in the first provider that does not fail; rough: bfloat16 is precise enough."""
    # ONNX Runtime counts the machine's cores by itself, but gets virtual machines and containers wrong.
    threads = threads or len(os.sched_getaffinity(0))
    for first, provider in enumerate(providers):
        try:
            if provider == "openvino":
                return Compiled(model, threads, rough=rough)
            left = [name for name in providers[first:] if name != "openvino"]
            return Loaded(model, left, engines, threads)
        except onnxruntime.errors() as error:
            if provider == "cpu":
                raise ModelError(
                    f"{model}: is not a network that ONNX Runtime {onnxruntime.version()} can run "
                    f"({onnxruntime.reason(error)}); export it again or update onnxruntime"
                ) from error
            _log.info("%s cannot be opened with %s: %s", model, provider, onnxruntime.reason(error))
    raise ModelError(f"{model}: this ONNX Runtime has no CPU provider; install onnxruntime or onnxruntime-gpu again")


def _hash(model: Path) -> str:
    try:
        with model.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ModelError(f"{model}: cannot be read ({error.strerror}); name an ONNX file, or leave it out") from error


def _card(model: Path) -> dict[str, Any]:
    path = model.with_suffix(".json")
    try:
        card = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: the network's card cannot be read ({error}); mend it or take it away") from error
    if not isinstance(card, dict):
        raise ModelError(f"{path}: the network's card must be a JSON object; mend it or take it away")
    return card
