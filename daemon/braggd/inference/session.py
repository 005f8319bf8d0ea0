"""A network in ONNX Runtime or OpenVINO: which provider really runs it, and what happens when that one fails.

ONNX Runtime falls back to the CPU without an exception when a library of a GPU provider is missing, so what a session
really uses is asked of the session, and what was wanted and not got is said in `warnings`.

A network whose card says `precision`: `bfloat16` loses nothing by it, and has it where OpenVINO and the CPU do.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from braggd.errors import ModelError
from braggd.inference import openvino

Provider = Literal["auto", "tensorrt", "cuda", "openvino", "cpu"]

_ORT_NAMES: dict[str, str] = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({kind}{bits})": f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
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
    _inner: Any = field(repr=False)

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
        except _ort_errors() as error:
            if self.provider == "cpu":
                raise ModelError(
                    f"{self.model}: the network failed ({_reason(error)}); check that it is made for such an input"
                ) from error
            warning = f"{self.model.name} failed on {self.provider} and now runs on the cpu ({_reason(error)})"
        _log.warning("%s", warning)
        self.warnings = (*self.warnings, warning)
        self.provider = "cpu"
        self._inner = None  # gives the GPU's memory back before the CPU's is taken
        self._inner, _ = _create(self.model, ["cpu"], Path(), self.threads)
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
    built_in = [short for short, name in _ORT_NAMES.items() if name in _runtime().get_available_providers()]
    built_in += ["openvino"] if openvino.installed() else []
    wanted: list[str] = list(dict.fromkeys([*_chosen(providers, built_in), "cpu"]))
    here = [provider for provider in wanted if provider in built_in]
    engines = (engine_cache or Path.home() / ".cache" / "braggd" / "engines") / model_hash[:16]
    inner, used = _create(model, here, engines, threads, rough=card.get("precision") == "bfloat16")
    missed = wanted[: wanted.index(used)]
    warnings = (_missed(model, used, missed, here),) if missed else ()
    for warning in warnings:
        _log.warning("%s", warning)
    return Session(
        model=model,
        model_hash=model_hash,
        card=card,
        inputs=_tensors(inner, "inputs"),
        outputs=_tensors(inner, "outputs"),
        provider=used,
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
) -> tuple[Any, str]:
    """A session of the first provider that does not fail, and that provider; rough: bfloat16 is precise enough."""
    runtime = _runtime()
    if providers[0] in ("tensorrt", "cuda"):
        _preload()
    # ONNX Runtime counts the machine's cores by itself, but gets virtual machines and containers wrong.
    threads = threads or len(os.sched_getaffinity(0))
    options = runtime.SessionOptions()
    # What is wrong comes as an exception, and is said in our words.
    options.log_severity_level = 4
    runtime.set_default_logger_severity(4)
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Idle threads that spin would take the cores that receive frames.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for first, provider in enumerate(providers):
        chosen = [(_ORT_NAMES[name], _options(name, engines)) for name in providers[first:] if name in _ORT_NAMES]
        try:
            if provider == "openvino":
                return openvino.Compiled(model, threads, rough=rough), provider
            # Its own fallback prints to standard output.
            inner = runtime.InferenceSession(str(model), options, providers=chosen, enable_fallback=0)
            return inner, _short(inner.get_providers()[0])
        except _ort_errors() as error:
            if provider == "cpu":
                raise ModelError(
                    f"{model}: is not a network that ONNX Runtime {runtime.__version__} can run "
                    f"({_reason(error)}); export it again or update onnxruntime"
                ) from error
            _log.info("%s cannot be opened with %s: %s", model, provider, _reason(error))
    raise ModelError(f"{model}: this ONNX Runtime has no CPU provider; install onnxruntime or onnxruntime-gpu again")


@cache
def _preload() -> None:
    """Find CUDA and cuDNN where pip has put them; the system's loader would not look there."""
    if hasattr(_runtime(), "preload_dlls"):
        # It prints what it does not find.
        with contextlib.redirect_stdout(io.StringIO()) as said:
            _runtime().preload_dlls()
        for line in filter(None, said.getvalue().splitlines()):
            _log.info("%s", line)


def _options(provider: str, engines: Path) -> dict[str, str]:
    if provider != "tensorrt":
        return {}
    try:
        engines.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("engine cache %s: %s; TensorRT engines are built anew each time", engines, error.strerror)
        return {"trt_fp16_enable": "1"}
    return {
        "trt_fp16_enable": "1",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(engines),
    }


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


def _tensors(inner: Any, kind: str) -> tuple[Tensor, ...]:
    if isinstance(inner, openvino.Compiled):
        return tuple(Tensor(*described) for described in getattr(inner, kind))
    return tuple(_tensor(node) for node in getattr(inner, f"get_{kind}")())


def _tensor(node: Any) -> Tensor:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return Tensor(node.name, shape, _DTYPES.get(node.type, node.type))


def _short(ort_name: str) -> str:
    return next((short for short, name in _ORT_NAMES.items() if name == ort_name), "cpu")


def _reason(error: BaseException) -> str:
    """ONNX Runtime's own words, without its error codes, source lines and C++ signatures."""
    text = str(error).strip().replace("\n", " ")
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed: *", "", text)
    text = re.sub(r"\S*onnxruntime_src/\S+ .*?\) ", "", text)
    return text.partition(". ")[0].strip().rstrip(".")[:200] or type(error).__name__


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            f"networks need ONNX Runtime ({error}); install braggd[cpu] or braggd[gpu], or set no network"
        ) from error
    return onnxruntime


def _ort_errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its own exceptions have no common base."""
    _runtime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)
