"""The networks that can be trained to predict phases, by name: how each is built, fed and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from braggd_models.phasing.crystals import EDGE, Crystals, Ranges
from braggd_models.phasing.objective import course_loss
from braggd_models.phasing.pool import Course, Pool
from braggd_models.phasing.seednet import Data, SeedNet, bright
from braggd_models.phasing import fourier

_TRAINED_STEPS = 2


def _course(net: nn.Module, course: Course) -> Tensor:
    """Two steps on, and the pool told of it; (steps, batch, n, n, n) waves."""
    data = Data.of(course.crystals.intensity, course.crystals.measured)
    density, waves = course.density, []
    for _ in range(_TRAINED_STEPS):
        density = net.step(density, data)  # type: ignore[operator]
        waves.append(fourier.forward(density, EDGE))
    course.advance(density)
    return torch.stack(waves)


def _predicted(net: nn.Module, batch: Crystals) -> Tensor:
    wave: Tensor = net(batch.intensity, batch.measured)[0]
    return wave


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A network that can be trained.

    build: a new one
    feed: from batches of crystals to those that it is trained on
    apply: what it makes of such a batch; loss: of that and the batch, with its terms
    predict: the wave, (batch, n, n, n) complex64, that it makes of crystals; None where it does not predict whole ones
    edge: voxels of the pattern; batch: crystals per step; ranges: of the crystals
    """

    build: Callable[[], nn.Module]
    feed: Callable[[Iterator[Crystals], int, torch.Generator], Iterator[Any]]
    apply: Callable[[nn.Module, Any], Any]
    loss: Callable[[Any, Any], tuple[Tensor, Mapping[str, Tensor]]]
    predict: Callable[[nn.Module, Crystals], Tensor] | None = None
    edge: int = EDGE
    batch: int = 16
    ranges: Ranges = field(default_factory=Ranges)


def _pooled(fresh: Iterator[Crystals], size: int, rng: torch.Generator) -> Iterator[Course]:
    return Pool(fresh, rng).batches(size)


NETS: dict[str, Kind] = {
    "seed": Kind(build=SeedNet, feed=_pooled, apply=_course, loss=course_loss, predict=_predicted),
}
"""`seed` is the one that braggd ships; the others are those of the thesis and of the literature."""
