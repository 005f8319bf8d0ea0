"""A network compiled by OpenVINO: on CPUs that multiply bfloat16 three times as fast as ONNX Runtime's own provider.

OpenVINO is used as it is, not as ONNX Runtime's provider of that name, which gave wrong values for the network that
fills gaps (onnxruntime-openvino 1.24.1; OpenVINO itself gives them to 1e-5).
"""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Compiled:
    """A network, as `onnxruntime.Loaded` is one.

    inputs, outputs: names, shapes (None where a size is free) and dtypes, as numpy calls them
    """

    provider = "openvino"

    def __init__(self, model: Path, threads: int, *, rough: bool) -> None:
        """Compile a file in the ONNX format; rough: bfloat16 is precise enough where the CPU has it.

        Raises RuntimeError where OpenVINO cannot read or run it.
        """
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if rough and multiplies_bf16() else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_CPU_PINNING": False,  # the cores are shared with those who receive frames
        }
        self._compiled = openvino.Core().compile_model(_read(model), "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._turn = threading.Lock()  # a request serves one at a time
        # what an input is only passed on to has its names, too
        names = [port.get_node().get_friendly_name() for port in self._compiled.inputs]
        self.inputs = [_described(name, port) for name, port in zip(names, self._compiled.inputs, strict=True)]
        self.outputs = [_described(port.get_any_name(), port) for port in self._compiled.outputs]

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names; raises RuntimeError where the network fails."""
        with self._turn:
            self._request.infer(dict(feeds), share_inputs=True)
            return [np.array(self._request.get_tensor(name).data) for name in names]


def installed() -> bool:
    """Whether OpenVINO is here; it is not loaded for that."""
    return importlib.util.find_spec("openvino") is not None


def _read(model: Path) -> Any:
    """As ONNX: the core's own reader also tries other formats, and complains to standard error."""
    from openvino import frontend

    reader = frontend.FrontEndManager().load_by_framework("onnx")
    # they are no RuntimeErrors, as those of the compiler are
    failures = tuple(value for name, value in vars(frontend).items() if name.endswith("Failure"))
    try:
        return reader.convert(reader.load(str(model)))
    except failures as error:
        raise RuntimeError(str(error)) from error


def _described(name: str, port: Any) -> tuple[str, tuple[int | None, ...], str]:
    sizes = tuple(size.get_length() if size.is_static else None for size in port.get_partial_shape())
    return name, sizes, np.dtype(port.get_element_type().to_dtype()).name


@cache
def multiplies_bf16() -> bool:
    """Whether the CPU multiplies bfloat16; where it does not, OpenVINO would imitate it, slowly."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags
