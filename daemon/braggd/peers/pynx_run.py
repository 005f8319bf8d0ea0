"""Run PyNX: `python pynx_run.py time PROBLEM.npz`, or `python pynx_run.py phase PROBLEM.npz RESULT.npz`.

PROBLEM.npz holds volumes (z, y, x) with the zero frequency and the object's middle at [0, 0, 0]: counts, mask (not 0
where not measured), free (not 0 where measured and withheld), support, start (complex); to phase also hio, raar, er
(numbers of iterations), period (iterations between two support updates), threshold (of the rms), psf (whether to fit
the point-spread function).

`time` answers each line of its input, `ER 4` or `support 1`, by the seconds that so many iterations took.
`phase` follows PyNX's own runner and its defaults. RESULT.npz holds density (in PyNX's scale, 0 outside the support),
support, psf (in the frequency order of rfftn, if fitted), llk and free_llk (PyNX's own sums), seconds, fault.

It runs on the CPU through OpenCL (PoCL).
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import numpy as np

os.environ["PYNX_PU"] = "opencl"  # before PyNX is imported
ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # PyNX talks on the standard output

import pyopencl as cl  # type: ignore[import-not-found, unused-ignore] # noqa: E402
from pynx.processing_unit import (  # type: ignore[import-not-found, unused-ignore] # noqa: E402
    default_processing_unit as unit,
)

DEVICES = [device for platform in cl.get_platforms() for device in platform.get_devices(cl.device_type.CPU)]
if not DEVICES:
    sys.exit("OpenCL has no CPU device; install PoCL (pocl-opencl-icd)")
unit.set_device(DEVICES[0], test_fft=False)

from pynx import cdi as pynx  # type: ignore[import-not-found, unused-ignore] # noqa: E402

ALGORITHMS = {"HIO": pynx.HIO, "RAAR": pynx.RAAR, "ER": pynx.ER}
PSF_FROM, PSF_EVERY = 0.66, 5  # share of HIO and RAAR; iterations: as PyNX's runner has it
SMOOTHING = (2.0, 0.5)  # the runner's, over HIO and RAAR
FRACTIONS = (1e-4, 0.7)  # the runner's bounds of the support's share


def main() -> None:
    """Do what the command line says."""
    what, problem, *result = sys.argv[1:]
    with np.load(problem) as file:
        given = dict(file)
    if what == "time":
        answer_times(given)
    else:
        np.savez(result[0], **phase(given))


def answer_times(given: dict[str, Any]) -> None:
    """Run what each line asks for, and answer the seconds."""
    cdi = started(given)
    for line in sys.stdin:
        step, count = line.split()
        operator = update((1.0, 1.0, 1)) if step == "support" else ALGORITHMS[step]() ** int(count)
        begun = time.perf_counter()
        cdi = operator * cdi
        finish()
        ANSWERS.write(f"{time.perf_counter() - begun}\n")


def phase(given: dict[str, Any]) -> dict[str, Any]:
    """The result of all iterations, as RESULT.npz holds it."""
    for name in ALGORITHMS:  # compiles the kernels
        update((*SMOOTHING, 1)) * ALGORITHMS[name]() ** 2 * started(given)
    finish()
    cdi = started(given)
    fault, begun = "", time.perf_counter()
    try:
        cdi = iterated(cdi, given)
    except (pynx.SupportTooSmall, pynx.SupportTooLarge) as error:
        fault = str(error)
    finish()
    seconds = time.perf_counter() - begun
    support = cdi.get_support() > 0
    found = {"density": cdi.get_obj() * support, "support": support, "seconds": seconds, "fault": fault}
    if cdi._psf_f is not None:
        found["psf"] = cdi._psf_f
    cdi = pynx.FourierApplyAmplitude(calc_llk=True) * cdi
    return {**found, "llk": cdi.llk_poisson, "free_llk": cdi.llk_poisson_free}


def started(given: dict[str, Any]) -> Any:
    """PyNX's object for the problem, before the first iteration."""
    cdi = pynx.CDI(given["counts"], support=given["support"], obj=given["start"], mask=given["mask"])
    if given["free"].any():
        cdi.set_free_pixel_mask(given["free"] > 0)
    return pynx.ScaleObj(method="F") * cdi


def iterated(cdi: Any, given: dict[str, Any]) -> Any:
    """HIO, RAAR and ER in this order, the support updated in between, the last iteration's object left as it is."""
    counts = {name: int(given[name.lower()]) for name in ALGORITHMS}
    period, before_er = int(given["period"]), counts["HIO"] + counts["RAAR"]
    total, fitted = before_er + counts["ER"], round(PSF_FROM * before_er) if given["psf"] else -1
    ends = np.cumsum(list(counts.values()))
    stops = sorted({*ends.tolist(), *range(0, total, period), fitted} - {0, -1})
    done, smoothing = 0, (*SMOOTHING, before_er)
    for stop in stops:
        name = next(name for name, end in zip(counts, ends, strict=True) if done < end)
        fit = PSF_EVERY if 0 <= fitted <= done else 0
        cdi = ALGORITHMS[name](update_psf=fit) ** (stop - done) * cdi
        done = stop
        if done == fitted:
            cdi = pynx.InitPSF() * cdi
        if done % period == 0 and done < total:
            cdi = update(smoothing, float(given["threshold"])) * cdi
    return cdi


def update(smoothing: tuple[float, float, int], threshold: float = 0.25) -> Any:
    """PyNX's shrink-wrap; smoothing: first width, last width, iterations between them."""
    least, most = FRACTIONS
    return pynx.SupportUpdate(
        threshold_relative=threshold, smooth_width=smoothing, method="rms", min_fraction=least, max_fraction=most
    )


def finish() -> None:
    """Wait for the device; the operators share one queue."""
    pynx.ER().processing_unit.cl_queue.finish()


if __name__ == "__main__":
    main()
