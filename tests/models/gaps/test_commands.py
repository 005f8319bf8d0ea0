"""The commands around the gap network, in processes of their own."""

import subprocess
import sys


def run(*arguments):
    command = [sys.executable, "-c", "from braggd_models.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_a_comparison_that_does_not_exist_is_wrong_usage(tmp_path):
    done = run("score", "gaps", "--part", "magic", "-o", tmp_path)
    assert done.returncode == 2
    assert "held-out" in done.stderr
    assert not list(tmp_path.iterdir())


def test_exporting_a_run_that_is_not_there_fails_with_a_sentence(tmp_path):
    done = run("export", "gaps", "--folder", tmp_path, "-o", tmp_path / "net.onnx")
    assert done.returncode == 1
    assert "guesses.npz" in done.stderr
    assert "Traceback" not in done.stderr
