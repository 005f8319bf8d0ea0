"""Crystals on their way: each is trained on for a few steps, and goes on from where these brought it.

A network that is to do many steps has to see the objects of its own early and late steps. Keeping them beside the
crystals costs nothing; unrolling every crystal from its start would cost more than the training. Its own steps alone
would never show it an object that is nearly right, and it would not know to keep one (seen: true objects fell from an
accuracy of 99 % to 54 % in one step). So some crystals begin with phases that are partly true, and now and then an
object on its way is moved towards the truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from braggd_models.phasing.crystals import Crystals
from braggd_models.phasing.losses import unit
from braggd_models.phasing.seednet import Data, normalised

_SIZE = 16  # batches
_LEAVES = 0.35  # of the crystals of a batch, after it was trained on
_PARTLY_TRUE = 0.4  # of new crystals: phases between true and random ones
_HELPED = 0.35  # of the crystals of a batch: objects moved part of the way to the truth


class Pool:
    """The crystals, and the object that each has come to, (count, BOX, BOX, BOX) complex64."""

    def __init__(self, fresh: Iterator[Crystals], rng: torch.Generator) -> None:
        self.fresh, self.rng = fresh, rng
        first = [next(fresh) for _ in range(_SIZE)]
        self.crystals = Crystals(*(torch.cat([getattr(one, f.name) for one in first]) for f in fields(Crystals)))
        self.density = self._begun(self.crystals)
        self._spare: list[Crystals] = []

    def batches(self, size: int) -> Iterator[Course]:
        """Random crystals of the pool, without end. What `Course.advance` was not told stays where it was."""
        while True:
            device = self.rng.device
            where = torch.randperm(len(self.crystals), generator=self.rng, device=device)[:size]
            yield Course(self._taken(where), self.density[where], where, self)
            helped = where[torch.rand(size, generator=self.rng, device=device) < _HELPED]
            if len(helped):
                self._help(helped)
            leaving = where[torch.rand(size, generator=self.rng, device=device) < _LEAVES]
            if len(leaving):
                self._replace(leaving)

    def _taken(self, where: Tensor) -> Crystals:
        return Crystals(*(getattr(self.crystals, f.name)[where] for f in fields(Crystals)))

    def _replace(self, where: Tensor) -> None:
        """Put new crystals in these places."""
        while sum(len(one) for one in self._spare) < len(where):
            self._spare.append(next(self.fresh))
        joined = Crystals(*(torch.cat([getattr(one, f.name) for one in self._spare]) for f in fields(Crystals)))
        count = len(where)
        for f in fields(Crystals):
            getattr(self.crystals, f.name)[where] = getattr(joined, f.name)[:count]
        self.density[where] = self._begun(self._taken(where))
        self._spare = [Crystals(*(getattr(joined, f.name)[count:] for f in fields(Crystals)))]

    def _begun(self, crystals: Crystals) -> Tensor:
        phase = 2 * torch.pi * torch.rand(crystals.intensity.shape, generator=self.rng, device=self.rng.device)
        there = torch.rand(len(crystals), generator=self.rng, device=self.rng.device) < _PARTLY_TRUE
        share = (self._share(len(crystals)) * there)[:, None, None, None]
        mixed = share * unit(crystals.wave) + (1 - share) * torch.polar(torch.ones_like(phase), phase)
        return Data.of(crystals.intensity, crystals.measured).begun(mixed.angle())

    def _help(self, where: Tensor) -> None:
        """Move objects towards the truth, each towards the twin that it is nearer to."""
        crystals, density = self._taken(where), self.density[where]
        data = Data.of(crystals.intensity, crystals.measured)
        one, other = data.begun(crystals.wave.angle()), data.begun(-crystals.wave.angle())
        first, second = ((twin.conj() * density).sum((1, 2, 3)) for twin in (one, other))
        nearer = first.abs() >= second.abs()
        overlap = unit(torch.where(nearer, first, second))
        true = torch.where(nearer[:, None, None, None], one, other) * overlap[:, None, None, None]
        share = self._share(len(where))[:, None, None, None]
        self.density[where] = normalised(share * true + (1 - share) * density)

    def _share(self, count: int) -> Tensor:
        """0 to 1, of the truth in a mixture."""
        return torch.rand(count, generator=self.rng, device=self.rng.device)


@dataclass(frozen=True, slots=True, eq=False)
class Course:
    """A batch of a pool: crystals, the objects that they have come to, and their places in the pool."""

    crystals: Crystals
    density: Tensor
    where: Tensor
    pool: Pool

    def to(self, device: torch.device) -> Course:
        """The same on a device."""
        return Course(self.crystals.to(device), self.density.to(device), self.where, self.pool)

    def advance(self, density: Tensor) -> None:
        """Remember what the objects have become."""
        self.pool.density[self.where] = density.detach().to(self.pool.density.device)
