"""The patch approach: one network for the middle of a pattern, another that goes outwards from what is known.

Patches overlap; in shells a step apart, each patch is given the phases that the shells within it have fixed, and adds
its own. Where several patches of a shell overlap, their phases are averaged as phasors.

Masto, PhD thesis, Univ. Grenoble Alpes, sections 4.6 and 4.7, which found the middle good and the stitching poor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product

import torch
from torch import Tensor

from braggd_models.phasing.crystals import Crystals
from braggd_models.phasing.losses import unit, wca, wca_one_sign

PATCH, STEP = 32, 10

Place = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Patches of patterns.

    seen: (batch, 1 or 3, n, n, n) float32: log counts of the patch scaled to 0..1; outside the middle also the known
        phase in rad, 0 where unknown, and 1 where it is known
    phase: (batch, n, n, n) rad; weights: likewise, magnitudes, 0 where the phase was given
    """

    seen: Tensor
    phase: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> Patches:
        """The same on a device."""
        return Patches(*(getattr(self, f.name).to(device) for f in fields(self)))


def centre_loss(phase: Tensor, patches: Patches) -> tuple[Tensor, Mapping[str, Tensor]]:
    """WCA, the better sign."""
    return wca(phase[:, 0], patches.phase, patches.weights).mean(), {}


def outer_loss(phase: Tensor, patches: Patches) -> tuple[Tensor, Mapping[str, Tensor]]:
    """WCA of one sign, over what was not given: the known phases have fixed the sign, and the offset counts too."""
    return wca_one_sign(phase[:, 0], patches.phase, patches.weights).mean(), {}


def centre_patches(fresh: Iterator[Crystals], size: int, rng: torch.Generator, edge: int = PATCH) -> Iterator[Patches]:
    """The middle of every pattern."""
    for batch in fresh:
        start = (batch.wave.shape[-1] - edge) // 2
        yield _cut(batch, (start, start, start), edge)


def outer_patches(
    fresh: Iterator[Crystals], size: int, rng: torch.Generator, edge: int = PATCH, step: int = STEP
) -> Iterator[Patches]:
    """A patch at random of every batch, with the true phases of the shells within its own given."""
    for batch in fresh:
        whole = batch.wave.shape[-1]
        rings = shells(whole, edge, step)
        ring = 1 + int(torch.randint(len(rings) - 1, (1,), generator=rng, device=rng.device))
        place = rings[ring][int(torch.randint(len(rings[ring]), (1,), generator=rng, device=rng.device))]
        known = torch.zeros(whole, whole, whole, device=batch.wave.device)
        for inner in (inner for shell in rings[:ring] for inner in shell):
            known[_box(inner, edge)] = 1
        yield _cut(batch, place, edge, known)


def shells(whole: int, edge: int = PATCH, step: int = STEP) -> list[list[Place]]:
    """Corners of the patches of every shell, the middle first."""
    middle = (whole - edge) // 2
    reach = middle // step
    rings: list[list[Place]] = [[] for _ in range(reach + 1)]
    for offsets in product(range(-reach, reach + 1), repeat=3):
        z, y, x = (middle + step * offset for offset in offsets)
        rings[max(abs(offset) for offset in offsets)].append((z, y, x))
    return rings


def stitched(
    centre: Callable[[Tensor], Tensor],
    outer: Callable[[Tensor], Tensor],
    intensity: Tensor,
    edge: int = PATCH,
    step: int = STEP,
) -> Tensor:
    """The phases of whole patterns, (batch, n, n, n) rad, from networks for the middle and for what is around it.

    centre, outer: (batch, 1 or 3, edge, edge, edge) to phases, (batch, 1, edge, edge, edge)
    intensity: (batch, n, n, n) photons. What no patch reaches is 0.
    """
    rings = shells(intensity.shape[-1], edge, step)
    known = torch.zeros_like(intensity)
    phase = torch.zeros_like(intensity)
    for number, ring in enumerate(rings):
        total = torch.zeros_like(intensity, dtype=torch.complex64)
        for place in ring:
            box = (slice(None), *_box(place, edge))
            seen = _scaled(intensity[box])[:, None]
            if number:
                seen = torch.cat([seen, (phase * known)[box][:, None], known[box][:, None]], 1)
            made = (outer if number else centre)(seen)[:, 0].float()
            total[box] += torch.polar(torch.ones_like(made), made)
        fresh = (total != 0) & (known == 0)
        phase = torch.where(fresh, unit(total).angle(), phase)
        known = torch.where(fresh, 1.0, known)
    return phase


def _cut(batch: Crystals, place: Place, edge: int, known: Tensor | None = None) -> Patches:
    box = (slice(None), *_box(place, edge))
    seen = _scaled(batch.intensity[box])[:, None]
    phase, weights = batch.wave[box].angle(), batch.wave[box].abs()
    if known is not None:
        given = known[box[1:]].expand_as(phase)
        seen = torch.cat([seen, (phase * given)[:, None], given[:, None]], 1)
        weights = weights * (1 - given)
    return Patches(seen, phase, weights)


def _box(place: Place, edge: int) -> tuple[slice, slice, slice]:
    z, y, x = (slice(start, start + edge) for start in place)
    return z, y, x


def _scaled(counts: Tensor) -> Tensor:
    logs = torch.log1p(counts)
    return logs / logs.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
