"""A network in ONNX Runtime: its providers, its options, and what it says when something is wrong.

It falls back to the CPU without an exception when a library of a GPU provider is missing, so what a session really uses
is asked of the session.
"""

from __future__ import annotations

import contextlib
import io
import logging
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.errors import ModelError

_NAMES: dict[str, str] = {
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


class Loaded:
    """A network, as `openvino.Compiled` is one.

    inputs, outputs: names, shapes (None where a size is free) and dtypes, as numpy calls them
    provider: "tensorrt", "cuda" or "cpu": the one that is really used
    """

    def __init__(self, model: Path, providers: Sequence[str], engines: Path, threads: int) -> None:
        """Load a file in the ONNX format.

        providers: of `built_in`, in order of preference; engines: where TensorRT keeps its own
        threads: of the CPU

        Raises one of `errors` where it cannot be loaded.
        """
        runtime = _runtime()
        if providers[0] in ("tensorrt", "cuda"):
            _preload()
        options = runtime.SessionOptions()
        # What is wrong comes as an exception, and is said in our words.
        options.log_severity_level = 4
        runtime.set_default_logger_severity(4)
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Idle threads that spin would take the cores that receive frames.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        chosen = [(_NAMES[name], _options(name, engines)) for name in providers]
        # Its own fallback prints to standard output.
        self._session = runtime.InferenceSession(str(model), options, providers=chosen, enable_fallback=0)
        self.inputs = [_described(node) for node in self._session.get_inputs()]
        self.outputs = [_described(node) for node in self._session.get_outputs()]
        used = self._session.get_providers()[0]
        self.provider = next((short for short, name in _NAMES.items() if name == used), "cpu")

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names; raises one of `errors` where the network fails."""
        return [np.asarray(made) for made in self._session.run(list(names), dict(feeds))]


def built_in() -> list[str]:
    """The providers that this ONNX Runtime was built with, of "tensorrt", "cuda" and "cpu"."""
    available = _runtime().get_available_providers()
    return [short for short, name in _NAMES.items() if name in available]


def version() -> str:
    """Of ONNX Runtime."""
    return str(_runtime().__version__)


def errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises; its own exceptions have no common base."""
    _runtime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (*own, RuntimeError, ValueError)


def reason(error: BaseException) -> str:
    """ONNX Runtime's own words, without its error codes, source lines and C++ signatures."""
    text = str(error).strip().replace("\n", " ")
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"^Load model from .*? failed: *", "", text)
    text = re.sub(r"\S*onnxruntime_src/\S+ .*?\) ", "", text)
    return text.partition(". ")[0].strip().rstrip(".")[:200] or type(error).__name__


def _described(node: Any) -> tuple[str, tuple[int | None, ...], str]:
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in node.shape)
    return node.name, shape, _DTYPES.get(node.type, node.type)


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


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            f"networks need ONNX Runtime ({error}); install braggd[cpu] or braggd[gpu], or set no network"
        ) from error
    return onnxruntime
