"""The networks that can be trained to predict phases, by name: how each is built, fed and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from braggd_models.phasing import fourier, literature, patches, planes, rspnets
from braggd_models.phasing.crystals import EDGE, Crystals, Ranges
from braggd_models.phasing.objective import course_loss, mse_loss, wave_loss
from braggd_models.phasing.pool import Course, Pool
from braggd_models.phasing.seednet import Data, SeedNet

_TRAINED_STEPS = 2


def _course(net: nn.Module, course: Course) -> Tensor:
    """Two steps on, and the pool told of it; (steps, batch, BOX, BOX, BOX) objects."""
    data = Data.of(course.crystals.intensity, course.crystals.measured)
    density, made = course.density, []
    for _ in range(_TRAINED_STEPS):
        density = net.step(density, data)  # type: ignore[operator]
        made.append(density)
    course.advance(density)
    return torch.stack(made)


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


def _direct(fresh: Iterator[Crystals], size: int, rng: torch.Generator) -> Iterator[Crystals]:
    return fresh


def _phase(net: nn.Module, batch: Crystals) -> Tensor:
    """The wave of a network that gives the phase of log counts."""
    phase = net(features(batch)[0][:, None])[:, 0].float()
    return torch.polar(features(batch)[1], phase)


def _density(net: nn.Module, batch: Crystals) -> Tensor:
    density: Tensor = net(features(batch)[1])
    return density


def _wave(net: nn.Module, batch: Crystals) -> Tensor:
    return fourier.forward(_density(net, batch), batch.wave.shape[-1])


def _planes(net: nn.Module, batch: planes.Planes) -> Tensor:
    phase: Tensor = net(batch.logs).float()
    return phase


def _patches(net: nn.Module, batch: patches.Patches) -> Tensor:
    phase: Tensor = net(batch.seen).float()
    return phase


_WHOLE = Ranges(gaps=0.0, cropped=0.0)
_LITTLE = Ranges(gaps=0.0, cropped=0.0, phase_range=(0.0, 1.5))
_PLANES = Kind(
    build=rspnets.high_strain, feed=planes.planes, apply=_planes, loss=planes.plane_wca, edge=64, ranges=_WHOLE
)
_PATCHES = Kind(
    build=rspnets.centre_patch,
    feed=patches.centre_patches,
    apply=_patches,
    loss=patches.centre_loss,
    edge=128,
    batch=4,
    ranges=_WHOLE,
)

_VOLUME = Kind(
    build=rspnets.volume, feed=_direct, apply=_phase, loss=wave_loss, predict=_phase, edge=64, batch=8, ranges=_WHOLE
)

NETS: dict[str, Kind] = {
    "seed": Kind(build=SeedNet, feed=_pooled, apply=_course, loss=course_loss, predict=_predicted),
    "rsp-2d": _PLANES,
    "rsp-2d-mse": replace(_PLANES, loss=planes.plane_mse),
    "rsp-2d-low": replace(_PLANES, build=rspnets.low_strain, ranges=_LITTLE),
    "rsp-2d-low-mse": replace(_PLANES, build=rspnets.low_strain, ranges=_LITTLE, loss=planes.plane_mse),
    "rsp-3d": _VOLUME,
    "rsp-3d-mse": replace(_VOLUME, loss=mse_loss),
    "patch-centre": _PATCHES,
    "patch-outer": replace(_PATCHES, build=rspnets.outer_patch, feed=patches.outer_patches, loss=patches.outer_loss),
    "two-decoders": Kind(
        build=literature.TwoDecoders,
        feed=_direct,
        apply=_density,
        loss=literature.unsupervised,
        predict=_wave,
        edge=64,
        ranges=_WHOLE,
    ),
    "complex": Kind(
        build=literature.ComplexUNet,
        feed=_direct,
        apply=_density,
        loss=literature.object_loss,
        predict=_wave,
        edge=64,
        ranges=_WHOLE,
    ),
}
"""`seed` is the one that braggd ships; the others are those of the thesis and of the literature, trained by WCA
or, as `-mse`, by the mean squared error of the object (Fig. 4.11)."""


def features(batch: Crystals) -> tuple[Tensor, Tensor]:
    """Log counts and amplitudes, (batch, n, n, n) both, scaled to 0..1; 0 where not measured."""
    counts = batch.intensity * batch.measured
    top = counts.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    return torch.log1p(counts) / torch.log1p(top), (counts / top).sqrt()
