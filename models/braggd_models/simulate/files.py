"""Simulated scans as files: what braggd reads as a recorded scan, with the truth beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from braggd_models.errors import SimulationError
from braggd_models.simulate.pattern import Simulated


def write(path: Path, scan: Simulated) -> None:
    """Write a scan as .npz, or as .h5 with NeXus' NXdata.

    The counts are `data` (entry/data/data), `mask` is 1 where not measured; `noiseless`, `density`, `support` and the
    JSON text `parameters` are the truth, in an .h5 file under entry/truth.

    Raises SimulationError where the name's ending is another or the file cannot be written.
    """
    truth: dict[str, NDArray[Any]] = {"noiseless": scan.noiseless, "density": scan.density, "support": scan.support}
    mask = (~scan.valid).astype(np.uint8)
    parameters = json.dumps(dict(scan.parameters))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npz":
            arrays: dict[str, Any] = {"data": scan.counts, "mask": mask, "parameters": np.array(parameters), **truth}
            np.savez_compressed(path, **arrays)
        elif path.suffix in (".h5", ".hdf5", ".nxs"):
            _write_hdf5(path, scan.counts, mask, truth, parameters)
        else:
            raise SimulationError(f"{path}: name a file that ends in .npz or .h5")
    except OSError as error:
        raise SimulationError(f"{path} cannot be written: {error}") from error


def _write_hdf5(
    path: Path,
    counts: NDArray[np.float32],
    mask: NDArray[np.uint8],
    truth: dict[str, NDArray[Any]],
    parameters: str,
) -> None:
    packed = hdf5plugin.Bitshuffle(cname="lz4")
    with h5py.File(path, "w") as file:
        file.attrs["default"] = "entry"
        entry = file.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": "data"})
        data = entry.create_group("data")
        data.attrs.update({"NX_class": "NXdata", "signal": "data"})
        data.create_dataset("data", data=counts, chunks=(1, *counts.shape[1:]), **packed)
        data.create_dataset("mask", data=mask, chunks=(1, *counts.shape[1:]), **packed)
        known = entry.create_group("truth")
        known.attrs["NX_class"] = "NXcollection"
        for name, array in truth.items():
            known.create_dataset(
                name, data=array, chunks=(1, *counts.shape[1:]), compression="gzip", compression_opts=1
            )
        known["parameters"] = parameters
