"""The measured pattern as the iterations need it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from braggd.errors import PhasingError
from braggd.phasing import fourier
from braggd.phasing.free import free_voxels
from braggd.phasing.projections import free_target
from braggd.phasing.support import fill_smoothly, free_bound, local_level, measured_near

_FEWEST_PHOTONS = 100.0
_FAINT = 0.06  # of the amplitude at the peak, both as local root mean squares
_DRAWN = (0.3, 0.5)  # how much of a faint voxel's guess is the local average, near what was measured and farther away
_AGAINST_GUESS = 3.0  # times what a free voxel may have by its neighbours: a guess above that is no guess


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pattern:
    """Amplitudes with the zero frequency at [0, 0, 0].

    target: (z, y, x) float32, as `braggd.phasing.projections` has it
    filled: float32, amplitudes with the masked and the withheld voxels filled
    withheld: float32, as a target, of the voxels that were measured and left out of the fit, all others free; None
        where none were left out
    masked: whether voxels were not measured; what they are filled with is held on to at first
    peak: index of the brightest place per axis, in the order with the zero frequency at n // 2
    """

    target: NDArray[np.float32]
    filled: NDArray[np.float32]
    withheld: NDArray[np.float32] | None
    masked: bool
    peak: tuple[int, ...]

    def faint_gaps(self) -> NDArray[np.int64]:
        """Flat indices of the voxels that were not measured, where the pattern is faint about them.

        There a filling is about right, and voxels left to themselves gather light that no crystal gives, in gaps of 12
        voxels as in smaller ones. Near the peak a filling is often wrong by factors, and the object knows better.
        """
        free = self.target < 0 if self.withheld is None else (self.target < 0) & (self.withheld < 0)
        return np.flatnonzero(free & _faint(local_level(self.filled)))


def prepare(
    amplitude: NDArray[np.float32],
    valid: NDArray[np.bool_],
    guess: NDArray[np.float32] | None,
    withhold: NDArray[np.bool_] | None = None,
) -> Pattern:
    """Check amplitudes and bring them into the order of the transforms.

    amplitude, valid, guess: as `braggd.phasing.retrieve.retrieve` takes them
    withhold: bool, measured voxels to leave out of the fit; None: none

    Raises PhasingError where there is nothing to phase.
    """
    _check(amplitude, valid, guess)
    fitted = valid if withhold is None else valid & ~withhold
    measured = np.where(fitted, amplitude, 0).astype(np.float32)
    filled = fill_smoothly(measured, fitted)
    target = measured
    if not fitted.all():
        local = local_level(filled)
        bound = free_bound(filled, local, fitted)
        if guess is not None:
            filled[~valid] = _tempered(guess, filled, local, bound, valid)
            bound = free_bound(filled, local_level(filled), fitted)
        target = free_target(measured, fitted, bound)
    return Pattern(
        target=fourier.corner(target),
        filled=fourier.corner(filled),
        withheld=None if withhold is None else fourier.corner(_only(amplitude, valid & withhold)),
        masked=not bool(valid.all()),
        peak=_brightest(filled),
    )


def withheld_voxels(
    amplitude: NDArray[np.float32], valid: NDArray[np.bool_], fraction: float, seed: int
) -> NDArray[np.bool_] | None:
    """The voxels that `prepare` is to leave out; None where the fraction is 0, or the pattern too small for it."""
    _check(amplitude, valid, None)
    if not fraction:
        return None
    peak = _brightest(fill_smoothly(np.where(valid, amplitude, 0).astype(np.float32), valid))
    try:
        return free_voxels(valid, fraction, seed, peak=peak)
    except PhasingError:
        return None


def _tempered(
    guess: NDArray[np.float32],
    smooth: NDArray[np.float32],
    local: NDArray[np.float32],
    bound: NDArray[np.float32],
    valid: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """A guess where not valid, within reason, and where the pattern is faint drawn towards the local average.

    Both are off by factors there: the guess upwards, the more the farther from what was measured, and the average,
    which knows no fringes, downwards. On simulated gaps of 6 to 38 voxels, these weighted geometric means were nearer
    to the truth than either, and so was the object found with them.
    """
    places = ~valid
    average = smooth[places]
    within = np.minimum(guess[places], _AGAINST_GUESS * bound[places])
    near = measured_near(valid)[places]
    known = near | (average > 0)  # far from all that was measured there is no average
    share = np.where(near, *_DRAWN) * (_faint(local)[places] & known)
    return np.asarray(within ** (1 - share) * average**share, np.float32)


def _faint(local: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where amplitudes are small about a voxel beside those at the peak; local: their `local_level`."""
    return np.asarray(local < _FAINT * local.max(), np.bool_)


def _brightest(filled: NDArray[np.float32]) -> tuple[int, ...]:
    place = np.unravel_index(int(np.argmax(uniform_filter(filled, 3, mode="constant"))), filled.shape)
    return tuple(int(p) for p in place)


def _only(amplitude: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.float32]:
    return np.where(chosen, amplitude, -1).astype(np.float32)


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
