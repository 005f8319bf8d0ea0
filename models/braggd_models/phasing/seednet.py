"""The network that gives refinement its start: from the middle of a pattern to the object at low resolution.

Two domains, with Fourier transforms as layers between them. A U-Net in reciprocal space guesses several phases of the
wave. Each gives an object, and convolutions in real space, where a crystal is compact and its phase smooth, make one
object of them; its wave keeps only its phases, the moduli are measured. The last steps are repeated: what
the measured moduli make of the object is seen beside it, as in iterative phasing, but the projection onto what crystals
look like is learnt. Masked voxels are an input, and are filled on the way.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from braggd_models.phasing import fourier
from braggd_models.phasing.layers import Residual, UNet, active, fold, unfold
from braggd_models.phasing.losses import unit

_FILL = 0.05  # share of the volume that a crystal fills, about: sets the unit of objects


class SeedNet(nn.Module):
    """Intensity to waves, the last of which is the answer; see `forward`.

    guesses: phases that the first part proposes; steps: repetitions of the last part
    widths: channels of the first part's levels; hidden: of the others; box: voxels about the object's middle that are kept
    """

    plain = ("first.head",)  # left to AdamW by the optimiser

    def __init__(
        self,
        widths: tuple[int, ...] = (32, 96, 256),
        guesses: int = 4,
        hidden: int = 64,
        blocks: int = 2,
        steps: int = 1,
        box: int = 20,
    ) -> None:
        super().__init__()
        self.guesses, self.box = guesses, box
        self.first = UNet(3 * 8, (2 * guesses + 1) * 8, widths)
        self.merge = Refiner(2 * guesses, hidden, blocks)
        self.refine = nn.ModuleList(Refiner(4, hidden, blocks) for _ in range(steps))

    def forward(self, intensity: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
        """Guesses (batch, guesses, n, n, n) and answers (batch, 1 + steps, n, n, n), complex64 waves.

        intensity: (batch, n, n, n) float32, photons, zero frequency at n // 2; measured: float32, 1 or 0
        Where measured, a guess has the measured modulus; of the answers only the phase means anything.
        """
        seen, amplitude = features(intensity, measured)
        made = unfold(self.first(fold(seen))).float()
        fill = torch.sigmoid(made[:, -1]) * amplitude.amax((1, 2, 3), keepdim=True)
        amplitude = amplitude * measured + fill * (1 - measured)
        # objects of about modulus 1
        power = amplitude.square().sum((1, 2, 3), keepdim=True)
        amplitude = amplitude * (_FILL * measured[0].numel() ** 2 / power.clamp_min(1e-12)).sqrt()
        fields = torch.complex(made[:, : self.guesses], made[:, self.guesses : -1])
        guesses = unit(fields) * amplitude[:, None]
        objects = fourier.inverse(guesses, self.box)
        answer = self.merge(objects, objects.mean(1))
        answers = [fourier.forward(answer, intensity.shape[-1])]
        for refine in self.refine:
            fitted = fourier.inverse(unit(answers[-1]) * amplitude, self.box)
            answer = refine(torch.stack([answer, fitted], 1), fitted)
            answers.append(fourier.forward(answer, intensity.shape[-1]))
        return guesses, torch.stack(answers, 1)


class Refiner(nn.Module):
    """Objects in a box, (batch, channels / 2, n, n, n) complex64, to one, as what is added to a start."""

    def __init__(self, channels: int, hidden: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Conv3d(channels * 8, hidden, 3, padding=1)
        self.blocks = nn.ModuleList(Residual(hidden) for _ in range(blocks))
        self.head = nn.Conv3d(hidden, 16, 3, padding=1)

    def forward(self, objects: Tensor, start: Tensor) -> Tensor:
        """objects: (batch, k, n, n, n), start: (batch, n, n, n), complex64; returns the same shape as the start."""
        x = self.stem(fold(torch.cat([objects.real, objects.imag], 1)))
        for block in self.blocks:
            x = block(x)
        made = unfold(self.head(active(x))).float()
        return start + torch.complex(made[:, 0], made[:, 1])


def features(intensity: Tensor, measured: Tensor) -> tuple[Tensor, Tensor]:
    """What networks see, (batch, 3, n, n, n), and the measured amplitude, brightest 1, (batch, n, n, n); float32.

    log(1 + counts) and amplitude, both scaled to 0..1, and what was measured
    """
    counts = intensity * measured
    top = counts.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    amplitude = (counts / top).sqrt()
    logs = torch.log1p(counts) / torch.log1p(top)
    return torch.stack([logs, amplitude, measured], 1), amplitude
