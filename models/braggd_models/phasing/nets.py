"""The networks that can be trained to predict phases, by name: how each is built, fed and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from braggd_models.phasing.crystals import EDGE, Crystals, Ranges
from braggd_models.phasing.objective import Waves, seed_loss
from braggd_models.phasing.seednet import SeedNet


def _unchanged(batch: Crystals, rng: torch.Generator) -> Crystals:
    return batch


def _waves(net: nn.Module, batch: Crystals) -> Waves:
    made: Waves = net(batch.intensity, batch.measured)
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A network that can be trained.

    build: a new one; apply: (guesses, answers) that it makes of a batch, waves as `seednet.SeedNet.forward` has them
    loss: of these and the batch, with its terms
    prepare: what is done to a batch once it is simulated
    edge: voxels of the pattern; batch: crystals per step; ranges: of the crystals
    checked: it predicts whole waves in three dimensions, and is scored on held-out crystals while it trains
    """

    build: Callable[[], nn.Module]
    apply: Callable[[nn.Module, Crystals], Waves] = _waves
    loss: Callable[[Any, Any], tuple[Tensor, Mapping[str, Tensor]]] = seed_loss
    prepare: Callable[[Crystals, torch.Generator], Any] = _unchanged
    edge: int = EDGE
    batch: int = 16
    ranges: Ranges = field(default_factory=Ranges)
    checked: bool = True


NETS: dict[str, Kind] = {"seed": Kind(build=SeedNet)}
"""`seed` is the one that braggd ships; the others are those of the thesis and of the literature."""
