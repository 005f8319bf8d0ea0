"""A problem handed to PyNX through files, and what it found."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from braggd.errors import BraggdError
from braggd.peers.interpreter import Installed, run
from braggd.phasing import fourier

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Found:
    """A phased object.

    density: (z, y, x) complex64, 0 outside the support, its middle at n // 2; in any scale
    support: bool
    psf: float, the blur of the intensity by partial coherence, middle at n // 2, sum 1; None: coherent
    seconds: of the iterations
    fault: why the run gave up, "" where it did not
    llk, free_llk: what the engine says itself, summed over the voxels; NaN where it says nothing
    """

    density: NDArray[np.complex64]
    support: NDArray[np.bool_]
    psf: NDArray[np.floating] | None
    seconds: float
    fault: str = ""
    llk: float = float("nan")
    free_llk: float = float("nan")


def phase(installed: Installed, problem: Mapping[str, Any], folder: Path | None = None) -> Found:
    """Have PyNX phase a problem, or take what it found before.

    problem: as `pynx_run.py` reads it
    folder: where its results are kept and looked for, by what was asked

    Raises BraggdError where it fails.
    """
    with tempfile.TemporaryDirectory(prefix="braggd-pynx-") as scratch:
        result = (folder or Path(scratch)) / f"pynx-{_digest(installed, problem)}.npz"
        if not result.is_file():
            path, unfinished = Path(scratch) / "problem.npz", Path(scratch) / "result.npz"
            np.savez(path, **problem)
            run(installed, path, unfinished)
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_bytes(unfinished.read_bytes())
        return read_result(result)


def read_result(path: Path) -> Found:
    """What `pynx_run.py` wrote.

    Raises BraggdError where the file lacks something.
    """
    try:
        with np.load(path) as file:
            support = fourier.centre(file["support"] > 0)
            return Found(
                density=np.where(support, fourier.centre(file["density"]), 0).astype(np.complex64),
                support=support,
                psf=_psf(file["psf"], support.shape) if "psf" in file else None,
                seconds=float(file["seconds"]),
                fault=str(file["fault"]),
                llk=float(file["llk"]),
                free_llk=float(file["free_llk"]),
            )
    except (OSError, KeyError, ValueError) as error:
        raise BraggdError(f"{path}: is no result of PyNX ({error}); remove it and run again") from error


def _psf(transformed: Array, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """PyNX keeps the transform of the PSF: rfftn of the (z, y, x) volume, its middle at [0, 0, 0], in some scale."""
    psf: NDArray[np.floating] = scipy.fft.irfftn(transformed, shape)
    return fourier.centre(psf / psf.sum())


def _digest(installed: Installed, problem: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(f"{installed.version} ".encode())
    digest.update(Path(__file__).with_name(installed.peer.script).read_bytes())
    for name in sorted(problem):
        digest.update(name.encode() + np.ascontiguousarray(problem[name]).tobytes())
    return digest.hexdigest()[:16]
