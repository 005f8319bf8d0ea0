"""Where arrays live: in main memory (numpy) or on an NVIDIA GPU (CuPy).

Everything in `braggd.phasing` that touches every voxel works where its arrays are; moving them decides the device. CuPy
is only imported when a GPU is asked for, or looked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import platform
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.errors import PhasingError

DEVICES = ("cpu", "cuda", "auto")
"""What can be asked for; `auto` is the GPU where there is one."""

_log = logging.getLogger(__name__)
_given_up: list[str] = []  # why the GPU is not used any more


def choose(wanted: str) -> str:
    """`cpu` or `cuda`, for one of DEVICES.

    Raises PhasingError where it is none of them, or a GPU is asked for and there is none.
    """
    if wanted not in DEVICES:
        raise PhasingError(f"device {wanted!r} is unknown; take one of {', '.join(DEVICES)}")
    if wanted == "cpu":
        return "cpu"
    fault = _given_up[0] if _given_up else _fault()
    if not fault:
        return "cuda"
    if wanted == "cuda":
        raise PhasingError(f"no GPU can be used for phasing: {fault}; set the device to cpu or auto")
    _log.debug("phasing on the CPU: %s", fault)
    return "cpu"


def usable(wanted: str) -> str:
    """`cpu` or `cuda`, whichever of them comes nearest to what is wanted, one of DEVICES; see `lesser`."""
    return "cpu" if lesser(wanted) else choose(wanted)


def lesser(wanted: str) -> str:
    """Why the CPU does what a GPU was to do, as a sentence; "" where all is as it was wanted."""
    if wanted == "cpu" or not (_given_up or (wanted == "cuda" and _fault())):
        return ""
    return f"phasing runs on the CPU: {_given_up[0] if _given_up else _fault()}"


def give_up(reason: str) -> None:
    """Leave the GPU alone from now on; reason: what it did, without a full stop."""
    _given_up.append(reason)


def device_name(device: str) -> str:
    """What the device, `cpu` or `cuda`, is called."""
    if device == "cuda":
        cupy = importlib.import_module("cupy")
        return str(cupy.cuda.runtime.getDeviceProperties(cupy.cuda.Device().id)["name"].decode())
    return platform.processor() or platform.machine()


def namespace(array: Any) -> Any:
    """The module that works on the array: numpy or cupy."""
    return np if isinstance(array, np.ndarray) else importlib.import_module("cupy")


def to_device(array: NDArray[Any], device: str) -> NDArray[Any]:
    """The array on that device, `cpu` or `cuda`; itself where it is there already."""
    if device == "cpu":
        return to_host(array)
    moved: NDArray[Any] = importlib.import_module("cupy").asarray(array)
    return moved


def beside(array: NDArray[Any], other: Any) -> NDArray[Any]:
    """The array where the other one is; itself where it is there already."""
    return to_device(array, "cpu" if isinstance(other, np.ndarray) else "cuda")


def to_host(array: Any) -> NDArray[Any]:
    """The array in main memory; itself where it is there already. Waits for the GPU."""
    return np.asarray(array) if isinstance(array, (np.ndarray, np.generic, float, int)) else np.asarray(array.get())


def wait() -> None:
    """Until the GPU has done all that it was given."""
    importlib.import_module("cupy").cuda.get_current_stream().synchronize()


@lru_cache(maxsize=1)
def _fault() -> str:
    """Why there is no GPU to use; nothing where there is one."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed (the extra `gpu`)"
    try:
        cupy = importlib.import_module("cupy")
        cupy.cuda.Device().synchronize()
        importlib.import_module("braggd.phasing.cuda").square(cupy.ones(1, np.complex64), cupy.empty(1, np.float32))
        cupy.cuda.Device().synchronize()
    # CuPy's own errors of the driver and the compiler are RuntimeErrors; what is left of an uninstalled one is empty
    except (ImportError, AttributeError, RuntimeError, OSError) as error:
        return str(error).splitlines()[0].rstrip(".")
    return ""
