"""What the network is taught: the noiseless intensity, on log counts, amplitudes and counts at once.

Every term is the squared error over that of interpolation in the same gap, so that a narrow gap through the peak counts
as much as a wide one in the noise; errors far beyond it count linearly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from braggd.inference.slabs import WIDEST

WEIGHTS = {"log": 1.0, "slope": 0.5, "amplitude": 0.7, "counts": 0.5, "sigma": 0.03}


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Lines across gaps, side by side.

    seen: (n, CHANNELS, 5, 5), a line and its neighbours
    width: (n,) int64
    by_logs, by_counts, truth: (n, WIDEST) log counts by the linear guesses, and noiseless; beyond the width 0
    off: (n, 3) mean squares of interpolation's error in the whole gap: of log counts, of amplitudes, of counts
    """

    seen: Tensor
    width: Tensor
    by_logs: Tensor
    by_counts: Tensor
    truth: Tensor
    off: Tensor

    def to(self, device: torch.device) -> Lines:
        """The same on a device."""
        return Lines(*(getattr(self, name).to(device, non_blocking=True) for name in self.__slots__))


def line_loss(outputs: tuple[Tensor, Tensor], batch: Lines) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss and its terms, means over the lines."""
    guess, log_sigma = (values[:, :, 0, 0].float() for values in outputs)
    inside = torch.arange(WIDEST, device=batch.width.device) < batch.width[:, None]
    error = torch.where(inside, guess - batch.truth, 0)

    def mean(values: Tensor) -> Tensor:
        return torch.where(inside, values, 0).sum(dim=1) / batch.width

    slope = (error[:, 1:] - error[:, :-1]) * inside[:, 1:]
    # beyond twice the true maximum an error is an error
    top = torch.where(inside, batch.truth, 0).amax(dim=1, keepdim=True) + 1.5
    now, then = torch.exp(torch.minimum(guess, top)), torch.exp(batch.truth)
    terms = {
        "log": _soft(mean(error**2) / batch.off[:, 0], 4.0),
        "slope": _soft((slope**2).sum(dim=1) / (batch.width - 1) / batch.off[:, 0], 4.0),
        "amplitude": _soft(mean((now.sqrt() - then.sqrt()) ** 2) / batch.off[:, 1], 10.0),
        "counts": _soft(mean((now - then) ** 2) / batch.off[:, 2], 30.0),
    }
    sigma = log_sigma.clamp(-4, 2)
    terms["sigma"] = mean(sigma + 0.5 * error.detach() ** 2 * torch.exp(-2 * sigma))
    means = {name: term.mean() for name, term in terms.items()}
    return torch.stack([WEIGHTS[name] * term for name, term in means.items()]).sum(), means


def _soft(ratio: Tensor, knee: float) -> Tensor:
    """The ratio itself where small, growing as its root beyond the knee."""
    return 2 * knee * (torch.sqrt(1 + ratio / knee) - 1)
