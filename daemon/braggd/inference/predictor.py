"""A network that predicts the object, in the daemon's hands: how it is fed, and what is made of its answers.

Inputs `intensity` (photons, 0 where not measured) and `measured` (1 or 0), float32 (batch, EDGE, EDGE, EDGE), zero
frequency at EDGE // 2. Outputs: `wave`, float32 (batch, 2, EDGE, EDGE, EDGE), real and imaginary part, and `misfit`,
float32 (batch,), how badly an object in a compact support explains the moduli. The card, a JSON file beside the
network, must hold `format` (FORMAT), and may hold `hypotheses`: of how many mirror images the network is asked (1, 2, 4
or 8, default 4) where its first answer leaves something to explain.

A crystal's mirror image gives the mirrored pattern, but no network knows that exactly: each answer is another guess.
The mean is taken of the one with the least misfit and those about as good, each turned to the twin that the first one
shows: on simulated crystals it was better than the mean of all, and than the best one alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from braggd.errors import ModelError
from braggd.framing import EDGE
from braggd.inference.session import Session

FORMAT = 1

Floats = NDArray[np.float32]
Complex = NDArray[np.complex64]

_EXPLAINED = 0.18  # misfit of the first answer up to which others would hardly better it
_AS_GOOD = 1.2  # times the least misfit

_Number = TypeVar("_Number", bound=np.generic)

_MIRRORS: tuple[tuple[int, ...], ...] = ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))


@dataclass(frozen=True, slots=True, eq=False)
class Predictor:
    """A predicting network, and of how many mirror images it is asked."""

    session: Session
    hypotheses: int

    @classmethod
    def of(cls, session: Session) -> Predictor:
        """Read the network's card. Raises ModelError where the network or its card is of another kind."""
        card, model = session.card, session.model
        if card.get("format") != FORMAT or card.get("task") != "phase":
            raise ModelError(
                f"{model}: its card says {card.get('task')}, format {card.get('format')}; this braggd feeds phase, "
                f"format {FORMAT}; use the network that came with this version"
            )
        names = [tensor.name for tensor in session.inputs], [tensor.name for tensor in session.outputs]
        if names != (["intensity", "measured"], ["wave", "misfit"]) or session.inputs[0].shape[1:] != (EDGE,) * 3:
            raise ModelError(f"{model}: is no network that predicts phases; it must take {EDGE} voxels along each axis")
        hypotheses = card.get("hypotheses", 4)
        if hypotheses not in (1, 2, 4, 8):
            raise ModelError(f"{model}: its card has an impossible `hypotheses`; mend the JSON file")
        return cls(session, hypotheses)

    def ask(self, intensity: Floats, measured: Floats) -> tuple[Complex, float]:
        """The mean wave of the best mirror images, (EDGE, EDGE, EDGE), and their mean misfit.

        Raises ModelError where the network fails or makes no sense.
        """
        mirrors = _MIRRORS[: self.hypotheses]
        answers, misfits = self._answers(intensity, measured, mirrors[:1])
        if misfits[0] > _EXPLAINED and len(mirrors) > 1:
            more, theirs = self._answers(intensity, measured, mirrors[1:])
            answers, misfits = [*answers, *more], np.concatenate([misfits, theirs])
        good = [number for number in np.argsort(misfits) if misfits[number] <= _AS_GOOD * misfits.min()]
        return _mean([answers[number] for number in good]), float(misfits[good].mean())

    def _answers(
        self, intensity: Floats, measured: Floats, mirrors: Sequence[tuple[int, ...]]
    ) -> tuple[list[Complex], Floats]:
        """The waves, mirrored back, and their misfits."""
        feeds = {
            "intensity": np.stack([mirrored(intensity, axes) for axes in mirrors]),
            "measured": np.stack([mirrored(measured, axes) for axes in mirrors]),
        }
        outputs = self.session.run(feeds)
        waves, misfits = outputs["wave"], outputs["misfit"]
        model = self.session.model
        if waves.shape != (len(mirrors), 2, EDGE, EDGE, EDGE) or misfits.shape != (len(mirrors),):
            raise ModelError(f"{model}: returns shapes {waves.shape} and {misfits.shape}; use another network")
        if not (np.isfinite(waves).all() and np.isfinite(misfits).all()):
            raise ModelError(f"{model}: returns values that are not finite; train or export it again")
        answers = (waves[:, 0] + 1j * waves[:, 1]).astype(np.complex64)
        return [mirrored(wave, axes) for wave, axes in zip(answers, mirrors, strict=True)], misfits


def _mean(answers: Sequence[Complex]) -> Complex:
    """Of waves whose phase is known but for its sign and an offset."""
    first, total = answers[0], answers[0].astype(np.complex128)
    for answer in answers[1:]:
        overlap, other = complex(np.vdot(answer, first)), complex(np.vdot(answer.conj(), first))
        nearer, turn = (answer, overlap) if abs(overlap) >= abs(other) else (answer.conj(), other)
        total += nearer * (turn / max(abs(turn), 1e-30))
    return np.asarray(total / len(answers), np.complex64)


def mirrored(volume: NDArray[_Number], axes: Sequence[int]) -> NDArray[_Number]:
    """Mirrored at the voxel n // 2 of these axes; twice gives the volume back."""
    if not axes:
        return volume
    return np.ascontiguousarray(np.roll(np.flip(volume, tuple(axes)), (1,) * len(axes), tuple(axes)))
