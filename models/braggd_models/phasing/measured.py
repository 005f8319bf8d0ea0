"""The network's object of the measured scan, beside the final stage's and beside plain iterations."""

from __future__ import annotations

import numpy as np

from braggd.config import Config
from braggd.inference.inpaint import inpaint
from braggd.inference.phase import predict
from braggd.offline import load_scan
from braggd.phasing import fourier
from braggd.phasing.align import align
from braggd.phasing.improve import improved
from braggd.phasing.recipe import ONE_RUN
from braggd.phasing.retrieve import Seed, merge, retrieve
from braggd.scan.region import selected
from braggd_models.benchmarks import table
from braggd_models.errors import TrainingError
from braggd_models.phasing.study import plain_runs, polished


def compared(spec: str, config: Config, runs: int = 5) -> str:
    """Markdown: free log-likelihoods, all of a coherent beam, and how the moduli agree with the final stage's.

    spec: of a recorded scan, `FILE`, `FILE::DATASET` or `example`; runs: plain ones

    Raises TrainingError where the network predicts nothing, BraggdError where there is nothing to phase.
    """
    scan = load_scan(spec, config, "measured")
    part = selected(scan.counts, scan.valid, config.phasing.shape)
    counts, valid = part.counts, part.valid
    filled = inpaint(counts, valid, config.inference).counts
    amplitude = np.sqrt(np.where(valid, counts, 0), dtype=np.float32)
    predicted = predict(filled, valid, config.inference)
    if predicted.density is None or predicted.support is None:
        raise TrainingError(f"the network predicts nothing: {' '.join(predicted.warnings)}")
    density, support, quality = improved(predicted.density, predicted.support, amplitude, valid, config.phasing)
    after = polished(density, support, amplitude, valid)
    seeds = [Seed(name="network", density=density)]
    final = merge(retrieve(amplitude, valid, config.phasing, seeds=seeds), config.phasing)
    rows = [
        ("network", predicted.density, float("nan")),
        ("dl", density, quality.free_llk),
        ("dl + 300 ER", fourier.centre(after.solver.density), after.quality.free_llk),
        *(
            (f"run {run.number + 1}", fourier.centre(run.solver.density), run.quality.free_llk)
            for run in plain_runs(amplitude, valid, runs)
        ),
    ]
    said = [(name, "-" if np.isnan(llk) else llk, align(final.density, one).correlation) for name, one, llk in rows]
    head = ("object", "free LLK", "correlation with the final modulus")
    shape = " x ".join(map(str, counts.shape))
    return (
        f"{shape} voxels about the peak; the runs are of {ONE_RUN} from random phases. The free log-likelihoods are "
        "those of a coherent beam, which this one is not.\n\n" + table(head, said)
    )
