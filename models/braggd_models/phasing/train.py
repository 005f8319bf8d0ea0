"""Training of phase networks on crystals that are simulated as they are needed, on the device that trains."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from braggd_models.phasing.crystals import Crystals, draw
from braggd_models.phasing.nets import NETS, Kind
from braggd_models.phasing.objective import checker
from braggd_models.training import Plan, Run, device_of, fit, resumed


class Batches(IterableDataset[Crystals]):
    """Batch after batch without end, shared among data workers; batch n is the same whoever makes it."""

    def __init__(self, kind: Kind, seed: int, size: int, device: torch.device, start: int = 0) -> None:
        self.kind, self.seed, self.size, self.device, self.start = kind, seed, size, device, start

    def __iter__(self) -> Iterator[Crystals]:
        """Yield this worker's batches."""
        info = get_worker_info()
        number, workers = (info.id, info.num_workers) if info else (0, 1)
        number += self.start
        while True:
            generator = torch.Generator(self.device).manual_seed(self.seed * 1_000_000_007 + number)
            yield draw(self.size, generator, self.kind.ranges, self.kind.edge)
            number += workers


def train(
    folder: Path,
    name: str,
    plan: Plan,
    *,
    batch: int = 0,
    seed: int = 0,
    workers: int = 0,
    device: str = "auto",
    watched: int = 96,
) -> Run:
    """Train a network, or go on training it, in a folder.

    name: of `nets.NETS`; batch: crystals per step, 0: as the network's kind says
    seed: of the crystals; a run taken up again sees new ones
    workers: processes that simulate, for CPUs with cores to spare; 0: the training process does, on its device
    watched: held-out crystals that the accuracy at every checkpoint is of
    """
    place, kind = device_of(device), NETS[name]
    torch.manual_seed(seed)
    run = resumed(kind.build(), folder, plan, place)
    simulating = torch.device("cpu") if workers else place
    size = batch or kind.batch
    data = Batches(kind, seed, size, simulating, run.step)
    loader = DataLoader(data, None, num_workers=workers, prefetch_factor=4 if workers else None)
    rng = torch.Generator(simulating).manual_seed(seed + run.step)
    batches = kind.feed(iter(loader), size, rng)
    check = checker(kind.predict, place, watched, kind.edge) if kind.predict else None
    fit(run, kind.apply, batches, kind.loss, plan, folder, device=place, check=check, title=name)
    return run
