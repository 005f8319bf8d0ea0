"""The measured pattern as the iterations need it, whole or its middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from braggd.errors import PhasingError
from braggd.phasing import fourier
from braggd.phasing.projections import free_target
from braggd.phasing.support import fill_smoothly, free_bound

_FEWEST_PHOTONS = 100.0
_COARSE = 96  # an axis at least as long is halved for the middle


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pattern:
    """Amplitudes with the zero frequency at [0, 0, 0].

    target: (z, y, x) float32, as `braggd.phasing.projections` has it
    filled: float32, amplitudes with the masked voxels filled
    guessed: True where the filling is worth holding on to
    peak: index of the brightest place per axis, in the order with the zero frequency at n // 2
    window: the (start, stop) per axis that this is of a larger pattern, in that same order
    """

    target: NDArray[np.float32]
    filled: NDArray[np.float32]
    guessed: bool
    peak: tuple[int, ...]
    window: tuple[tuple[int, int], ...] = ()

    def middle(self) -> Pattern:
        """The part about the peak, half as long on each long axis; itself where no axis is long."""
        shape = self.target.shape
        edges = fourier.good_shape([n // 2 if n >= _COARSE else n for n in shape])
        if edges == shape:
            return self
        starts = [min(max(0, p - e // 2), n - e) for p, e, n in zip(self.peak, edges, shape, strict=True)]
        cut = tuple(slice(s, s + e) for s, e in zip(starts, edges, strict=True))
        return Pattern(
            target=fourier.corner(fourier.centre(self.target)[cut]),
            filled=fourier.corner(fourier.centre(self.filled)[cut]),
            guessed=self.guessed,
            peak=tuple(p - s for p, s in zip(self.peak, starts, strict=True)),
            window=tuple((s.start, s.stop) for s in cut),
        )

    def embed(self, density: NDArray[np.complex64], middle: Pattern) -> NDArray[np.complex64]:
        """An object found from the middle, on this pattern's finer grid; its wave beyond the middle is 0."""
        wave = np.empty_like(density)
        fourier.forward(density, wave)
        full = np.zeros(self.target.shape, np.complex64)
        full[tuple(slice(*edge) for edge in middle.window)] = fourier.centre(wave)
        full = fourier.corner(full)
        fourier.inverse(full, full)
        return full


def prepare(amplitude: NDArray[np.float32], valid: NDArray[np.bool_], guess: NDArray[np.float32] | None) -> Pattern:
    """Check amplitudes and bring them into the order of the transforms.

    amplitude, valid, guess: as `braggd.phasing.retrieve.retrieve` takes them

    Raises PhasingError where there is nothing to phase.
    """
    _check(amplitude, valid, guess)
    measured = np.where(valid, amplitude, 0).astype(np.float32)
    filled = fill_smoothly(measured, valid) if guess is None else np.where(valid, measured, guess).astype(np.float32)
    target = measured if valid.all() else free_target(measured, valid, free_bound(filled, valid))
    place = np.unravel_index(int(np.argmax(uniform_filter(filled, 3, mode="constant"))), filled.shape)
    return Pattern(
        target=fourier.corner(target),
        filled=fourier.corner(filled),
        guessed=guess is not None and not bool(valid.all()),
        peak=tuple(int(p) for p in place),
    )


def _check(amplitude: NDArray[np.float32], valid: NDArray[np.bool_], guess: NDArray[np.float32] | None) -> None:
    if amplitude.ndim != 3 or min(amplitude.shape) < 8:
        raise PhasingError(f"a volume of shape {amplitude.shape} cannot be phased; it needs three axes of 8 or more")
    for name, array in (("mask", valid), ("guess", guess)):
        if array is not None and array.shape != amplitude.shape:
            raise PhasingError(
                f"the {name} has the shape {array.shape}, the amplitudes {amplitude.shape}; make them equal"
            )
    if not valid.any():
        raise PhasingError("every voxel is masked; look at the detector's mask and its saturation value")
    measured = amplitude[valid]
    if not np.isfinite(measured).all():
        raise PhasingError("the amplitudes hold NaN or infinite values at measured voxels; mask these voxels")
    if (measured < 0).any():
        raise PhasingError("the amplitudes are negative at measured voxels; give the square root of counts >= 0")
    if guess is not None and not (np.isfinite(guess[~valid]).all() and (guess[~valid] >= 0).all()):
        raise PhasingError("the filled amplitudes are negative or not finite at masked voxels; leave the guess out")
    photons = float(np.sum(measured.astype(np.float64) ** 2))
    if photons < _FEWEST_PHOTONS:
        raise PhasingError(f"only {photons:.0f} photons were measured; a pattern needs {_FEWEST_PHOTONS:.0f} at least")
