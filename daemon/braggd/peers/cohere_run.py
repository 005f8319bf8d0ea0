"""Run cohere with numpy: `python cohere_run.py time PROBLEM.npz`.

PROBLEM.npz holds counts and mask, as for `pynx_run.py`. Each line of the input, such as `ER 4`, is answered by the
seconds that so many iterations took; cohere's own preparation is not timed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # cohere talks on the standard output

from cohere_core.controller import phasing  # type: ignore[import-not-found, unused-ignore] # noqa: E402


def main() -> None:
    """Answer every line."""
    with np.load(sys.argv[2]) as file:
        amplitude = np.fft.fftshift(np.sqrt(np.where(file["mask"] > 0, 0, file["counts"])))
    prepared: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="braggd-bench-") as folder:
        data = str(Path(folder) / "data.npy")
        np.save(data, amplitude)
        for line in sys.stdin:
            step, count = line.split()
            if line not in prepared:
                parameters = {"algorithm_sequence": f"{count}*{step}"}
                prepared[line] = phasing.create_rec(parameters, data, "np", -1, debug=True)
            begun = time.perf_counter()
            prepared[line].iterate()
            ANSWERS.write(f"{time.perf_counter() - begun}\n")


if __name__ == "__main__":
    main()
