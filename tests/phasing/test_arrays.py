import importlib.util
import sys

import numpy as np
import pytest

from braggd.errors import PhasingError
from braggd.phasing import arrays


def test_the_cpu_is_always_there():
    assert arrays.choose("cpu") == "cpu"
    assert arrays.choose("auto") in ("cpu", "cuda")
    assert arrays.device_name("cpu")
    volume = np.arange(3.0)
    assert arrays.namespace(volume) is np
    assert arrays.to_device(volume, "cpu") is volume
    assert arrays.to_host(volume) is volume


def test_a_gpu_that_is_not_there_is_said_in_one_sentence():
    with pytest.raises(PhasingError, match="unknown"):
        arrays.choose("gpu")
    if arrays.choose("auto") == "cuda":
        pytest.skip("there is one")
    with pytest.raises(PhasingError, match=r"no GPU can be used for phasing: .*set the device to cpu or auto"):
        arrays.choose("cuda")


def test_what_is_left_of_an_uninstalled_cupy_is_no_gpu(tmp_path, monkeypatch):
    (tmp_path / "cupy").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    arrays._fault.cache_clear()
    try:
        if importlib.util.find_spec("cupy").origin is not None:
            pytest.skip("CuPy is installed")
        assert arrays.choose("auto") == "cpu"
    finally:
        arrays._fault.cache_clear()
        sys.modules.pop("cupy", None)


@pytest.mark.skipif(importlib.util.find_spec("cupy") is not None, reason="CuPy is installed")
def test_the_cpu_does_without_cupy():
    from braggd.phasing import coherence, likelihood, solver  # noqa: F401

    assert "braggd.phasing.cuda" not in sys.modules
