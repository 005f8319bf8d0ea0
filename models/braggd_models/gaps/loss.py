"""What the network is taught: the noiseless intensity, on log counts, amplitudes and counts at once.

Errors are taken over those of interpolation in the same gap, so that a narrow gap through the peak counts as much as a
wide one in the noise; far beyond them they count as their root. Counts are decided by the few brightest voxels of a
gap, which no sum over lines can weigh: how well they correlate (thesis, eq. 3.1) is therefore a term of its own. As
correlation knows no scale, and what is unsure of in logarithms comes out too faint, so are the photons of a gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from braggd.inference.slabs import WIDEST

WEIGHTS = {
    "log": 1.0,
    "slope": 0.5,
    "amplitude": 0.5,
    "counts": 0.3,
    "log pcc": 0.5,
    "counts pcc": 1.0,
    "sum": 0.5,
    "sigma": 0.03,
}

# Floors of interpolation's errors, where it is right by chance: of log counts; of the rest as share of their variance;
# of 1 - PCC.
_LOG_FLOOR = 1e-3
_SHARE_FLOOR = 3e-3
_PCC_FLOOR = 0.02
# Log counts above a gap's maximum up to which counts are told apart; beyond, an error is an error.
_ABOVE = 1.5
# So dark, relative to that ceiling, is nothing.
_DARK = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Gaps of several scans, all of the same (u, v).

    lines: (n, CHANNELS, u + 2 REACH, v + 2 REACH), see `slabs.lines_across`
    width: (n,) int64
    by_logs, by_counts, interpolated, truth: (n, WIDEST, u, v) log counts by the linear guesses, by interpolation, and
        noiseless; what lies beyond the width means nothing
    """

    lines: Tensor
    width: Tensor
    by_logs: Tensor
    by_counts: Tensor
    interpolated: Tensor
    truth: Tensor

    def to(self, device: torch.device) -> Planes:
        """The same on a device."""
        return Planes(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


def plane_loss(outputs: tuple[Tensor, Tensor], batch: Planes) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its terms, means over the gaps."""
    guess, log_sigma = (values.float() for values in outputs)
    inside = (torch.arange(WIDEST, device=guess.device) < batch.width[:, None])[:, :, None, None].to(guess.dtype)
    inside = inside.expand_as(guess)
    error, before = ((values - batch.truth) * inside for values in (guess, batch.interpolated))
    log_off = _mean(before**2, inside) + _LOG_FLOOR
    slope = ((error[:, 1:] - error[:, :-1]) * inside[:, 1:]) ** 2
    ceiling = (batch.truth * inside).amax(dim=(1, 2, 3), keepdim=True) + _ABOVE
    then, now, easy = (
        torch.exp(torch.minimum(values, ceiling) - ceiling) for values in (batch.truth, guess, batch.interpolated)
    )
    by_line = (error**2).sum(dim=1) / batch.width[:, None, None] / log_off[:, None, None]
    sigma = log_sigma.clamp(-4, 2)
    terms = {
        "log": _soft(by_line, 4.0).mean(dim=(1, 2)),
        "slope": _soft(slope.sum(dim=1) / (batch.width[:, None, None] - 1) / log_off[:, None, None], 4.0).mean((1, 2)),
        "amplitude": _soft(_over(now.sqrt(), then.sqrt(), easy.sqrt(), inside), 2.0),
        "counts": _soft(_over(now, then, easy, inside), 2.0),
        "log pcc": _uncorrelated(guess, batch.truth, batch.interpolated, inside),
        "counts pcc": _uncorrelated(now, then, easy, inside),
        "sum": _soft((torch.log(_mean(now, inside) + _DARK) - torch.log(_mean(then, inside) + _DARK)) ** 2, 1.0),
        "sigma": _mean(sigma + 0.5 * error.detach() ** 2 * torch.exp(-2 * sigma), inside),
    }
    means = {name: term.mean() for name, term in terms.items()}
    return torch.stack([WEIGHTS[name] * term for name, term in means.items()]).sum(), means


def _mean(values: Tensor, inside: Tensor) -> Tensor:
    return (values * inside).sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))


def _over(now: Tensor, then: Tensor, easy: Tensor, inside: Tensor) -> Tensor:
    """Mean squared error over interpolation's."""
    middle = _mean(then, inside)[:, None, None, None]
    floor = _SHARE_FLOOR * _mean((then - middle) ** 2, inside) + 1e-12
    return _mean((now - then) ** 2, inside) / (_mean((easy - then) ** 2, inside) + floor)


def _uncorrelated(now: Tensor, then: Tensor, easy: Tensor, inside: Tensor) -> Tensor:
    """1 - PCC over interpolation's."""
    return _soft((1 - _pcc(now, then, inside)) / (1 - _pcc(easy, then, inside) + _PCC_FLOOR), 2.0)


def _pcc(a: Tensor, b: Tensor, inside: Tensor) -> Tensor:
    a, b = ((values - _mean(values, inside)[:, None, None, None]) * inside for values in (a, b))
    size = (a.square().sum(dim=(1, 2, 3)) * b.square().sum(dim=(1, 2, 3))).clamp(min=1e-24).sqrt()
    return (a * b).sum(dim=(1, 2, 3)) / size


def _soft(ratio: Tensor, knee: float) -> Tensor:
    """The ratio itself where small, growing as its root beyond the knee."""
    return 2 * knee * (torch.sqrt(1 + ratio / knee) - 1)
