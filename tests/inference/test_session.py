"""ONNX Runtime sessions: what they run on, what they say when they cannot, with real networks."""

import dataclasses
import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from braggd.errors import ModelError
from braggd.inference import openvino
from braggd.inference.session import open_session

with_openvino = pytest.mark.skipif(not openvino.installed(), reason="needs OpenVINO, which is for x86-64")
VOLUME = np.arange(2 * 4 * 5 * 6, dtype=np.float32).reshape(1, 2, 4, 5, 6)


def test_a_network_gives_what_its_weights_say(tmp_path, networks):
    session = open_session(networks.weighted_sum(tmp_path / "sum.onnx", [2.0, -1.0], bias=0.5), ("cpu",))
    np.testing.assert_allclose(session.run({"volume": VOLUME})["filled"], 2 * VOLUME[:, :1] - VOLUME[:, 1:] + 0.5)
    assert session.provider == "cpu"
    assert session.warnings == ()


def test_a_view_that_is_not_contiguous_is_run_as_well(tmp_path, networks):
    session = open_session(networks.weighted_sum(tmp_path / "sum.onnx", [1.0, 0.0]), ("cpu",))
    turned = VOLUME.transpose(0, 1, 4, 3, 2)
    np.testing.assert_array_equal(session.run({"volume": turned})["filled"], turned[:, :1])


def test_hash_and_card_are_those_of_the_files(tmp_path, networks):
    model = networks.weighted_sum(tmp_path / "sum.onnx", [1.0, 1.0])
    networks.card(model, tile=[32, 32, 32], trained_on="simulation")
    session = open_session(model, ("cpu",))
    assert session.model_hash == hashlib.sha256(model.read_bytes()).hexdigest()
    assert session.card == {"tile": [32, 32, 32], "trained_on": "simulation"}


def test_a_gpu_that_is_not_there_is_said_and_the_cpu_taken(tmp_path, networks):
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    session = open_session(networks.weighted_sum(tmp_path / "sum.onnx", [1.0, 1.0]), ("tensorrt", "cuda", "cpu"))
    assert session.provider == "cpu"
    (warning,) = session.warnings
    assert "tensorrt" in warning
    assert "cuda" in warning
    assert session.run({"volume": VOLUME})["filled"].shape == (1, 1, 4, 5, 6)


def test_without_a_gpu_auto_is_openvino_or_the_cpu_and_no_reason_to_warn(tmp_path, networks, monkeypatch):
    if list(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")
    model = networks.weighted_sum(tmp_path / "sum.onnx", [1.0, 1.0])
    session = open_session(model)
    assert (session.provider, session.warnings) == ("openvino" if openvino.installed() else "cpu", ())
    monkeypatch.setattr(openvino, "installed", lambda: False)
    session = open_session(model)
    assert (session.provider, session.warnings) == ("cpu", ())
    (warning,) = open_session(model, ("openvino",)).warnings
    assert "install braggd[cpu]" in warning


@with_openvino
def test_openvino_gives_what_onnx_runtime_gives(tmp_path, networks):
    model = networks.weighted_sum(tmp_path / "sum.onnx", [2.0, -1.0], bias=0.5)
    sessions = [open_session(model, (provider,)) for provider in ("cpu", "openvino")]
    assert [session.provider for session in sessions] == ["cpu", "openvino"]
    one, other = (session.run({"volume": VOLUME})["filled"] for session in sessions)
    np.testing.assert_allclose(one, other, rtol=1e-6)
    assert sessions[0].inputs == sessions[1].inputs
    assert sessions[0].outputs == sessions[1].outputs
    # a second run leaves what the first one gave
    kept = other.copy()
    sessions[1].run({"volume": VOLUME + 1})
    np.testing.assert_array_equal(other, kept)


@with_openvino
def test_threads_that_share_a_session_take_turns(tmp_path, networks):
    session = open_session(networks.weighted_sum(tmp_path / "sum.onnx", [1.0, 0.0]), ("openvino",))
    volumes = [np.full((1, 2, 24, 24, 24), number, np.float32) for number in range(40)]
    with ThreadPoolExecutor(4) as threads:
        made = list(threads.map(lambda volume: session.run({"volume": volume})["filled"], volumes))
    for number, filled in enumerate(made):
        np.testing.assert_array_equal(filled, number)


@with_openvino
@pytest.mark.parametrize("precise", [True, False])
def test_bfloat16_is_for_networks_whose_cards_say_so(tmp_path, networks, precise):
    model = networks.weighted_sum(tmp_path / "sum.onnx", [1.0, 1.0])
    networks.card(model, **({} if precise else {"precision": "bfloat16"}))
    session = open_session(model, ("openvino",))
    asked = str(session._inner._compiled.get_property("INFERENCE_PRECISION_HINT"))
    assert ("bfloat16" in asked) == (not precise and openvino.multiplies_bf16())


@with_openvino
def test_what_openvino_cannot_compile_runs_on_the_cpu(tmp_path, networks, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(openvino.Compiled, "__init__", refuse)
    session = open_session(networks.weighted_sum(tmp_path / "sum.onnx", [1.0, 1.0]))
    assert session.provider == "cpu"
    (warning,) = session.warnings
    assert "openvino cannot compile it" in warning


def test_a_run_that_fails_on_the_gpu_is_repeated_on_the_cpu_and_stays_there(tmp_path, networks):
    """The session of a network that fails in every run stands where the GPU's would."""
    good = open_session(networks.weighted_sum(tmp_path / "good.onnx", [1.0, 0.0]), ("cpu",))
    bad = open_session(networks.failing(tmp_path / "bad.onnx"), ("cpu",))
    session = dataclasses.replace(good, provider="cuda", _inner=bad._inner)
    np.testing.assert_array_equal(session.run({"volume": VOLUME})["filled"], VOLUME[:, :1])
    assert session.provider == "cpu"
    (warning,) = session.warnings
    assert "failed on cuda" in warning
    session.run({"volume": VOLUME})
    assert len(session.warnings) == 1


def test_a_run_that_fails_on_the_cpu_is_an_error_that_names_the_file(tmp_path, networks):
    session = open_session(networks.failing(tmp_path / "bad.onnx"), ("cpu",))
    with pytest.raises(ModelError, match=r"bad\.onnx") as caught:
        session.run({"volume": VOLUME})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("feeds", "said"),
    [
        ({"volume": VOLUME[0]}, r"\(1, 2, any, any, any\), not \(2, 4, 5, 6\)"),
        ({"volume": VOLUME[:, :1]}, r"not \(1, 1, 4, 5, 6\)"),
        ({"volume": VOLUME.astype(np.float64)}, "float32, not float64"),
        ({"image": VOLUME}, "volume, not image"),
        ({}, "volume, not none"),
    ],
)
def test_inputs_that_do_not_fit_are_named_with_what_fits(tmp_path, networks, feeds, said):
    session = open_session(networks.weighted_sum(tmp_path / "sum.onnx", [1.0, 1.0]), ("cpu",))
    with pytest.raises(ModelError, match=said):
        session.run(feeds)


def test_files_that_are_no_usable_network_are_refused_in_one_sentence(tmp_path, networks):
    (tmp_path / "text.onnx").write_text("no network")
    (tmp_path / "empty.onnx").write_bytes(b"")
    networks.weighted_sum(tmp_path / "whole.onnx", np.ones(50))
    (tmp_path / "cut.onnx").write_bytes((tmp_path / "whole.onnx").read_bytes()[:120])
    networks.weighted_sum(tmp_path / "opset.onnx", [1.0, 1.0], opset=99)
    networks.weighted_sum(tmp_path / "ir.onnx", [1.0, 1.0], ir=99)
    networks.weighted_sum(tmp_path / "card.onnx", [1.0, 1.0])
    (tmp_path / "card.json").write_text("{ not JSON")
    for name in ("missing", "text", "empty", "cut", "opset", "ir", "card"):
        with pytest.raises(ModelError, match=name) as caught:
            open_session(tmp_path / f"{name}.onnx", ("cpu",))
        assert "\n" not in str(caught.value)
        assert "onnxruntime_src" not in str(caught.value)
    with pytest.raises(ModelError, match="directory"):
        open_session(tmp_path, ("cpu",))


def test_nothing_is_printed_and_no_runtime_is_loaded_before_it_is_needed(tmp_path, networks):
    model = networks.weighted_sum(tmp_path / "sum.onnx", [1.0, 1.0])
    (tmp_path / "text.onnx").write_text("no network")
    code = f"""
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from pathlib import Path
from braggd.inference import inpaint, session
assert "onnxruntime" not in sys.modules
session.open_session(Path({str(model)!r}), threads=1, engine_cache=Path({str(tmp_path)!r}))
try: session.open_session(Path({str(tmp_path / "text.onnx")!r}))
except session.ModelError: pass
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "runs on the cpu" not in line]
    assert (done.returncode, done.stdout, said) == (0, "", [])
