"""The measured pattern as the iterations need it, whole or its middle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from braggd.errors import PhasingError
from braggd.phasing import fourier
from braggd.phasing.free import free_voxels
from braggd.phasing.projections import free_target
from braggd.phasing.support import fill_smoothly, free_bound, local_level

_FEWEST_PHOTONS = 100.0
_SHARE = 0.999  # of the photons above the background that the middle has to hold, per axis
_SHORTEST = 48  # an axis of the middle, voxels
_WORTH = 0.6  # of the volume: a larger middle would save nothing
_FAINT = 0.06  # of the amplitude at the peak, both as local root mean squares
_AGAINST_GUESS = 3.0  # times what a free voxel may have by its neighbours: a guess above that is no guess
_PLANE = 8  # the darkest share of an axis' planes, as 1 / n, shows the background


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pattern:
    """Amplitudes with the zero frequency at [0, 0, 0].

    target: (z, y, x) float32, as `braggd.phasing.projections` has it
    filled: float32, amplitudes with the masked and the withheld voxels filled
    withheld: float32, as a target, of the voxels that were measured and left out of the fit, all others free; None
        where none were left out
    masked: whether voxels were not measured; what they are filled with is held on to at first
    peak: index of the brightest place per axis, in the order with the zero frequency at n // 2
    window: the (start, stop) per axis that this is of a larger pattern, in that same order
    """

    target: NDArray[np.float32]
    filled: NDArray[np.float32]
    withheld: NDArray[np.float32] | None
    masked: bool
    peak: tuple[int, ...]
    window: tuple[tuple[int, int], ...] = ()

    def middle(self) -> Pattern:
        """The part about the peak that holds nearly all photons; itself where that is not much smaller."""
        shape = self.target.shape
        starts, edges = self._bright_window()
        if np.prod(edges) > _WORTH * np.prod(shape):
            return self
        cut = tuple(slice(s, s + e) for s, e in zip(starts, edges, strict=True))

        def part(volume: NDArray[np.float32]) -> NDArray[np.float32]:
            return fourier.corner(fourier.centre(volume)[cut])

        return Pattern(
            target=part(self.target),
            filled=part(self.filled),
            withheld=None if self.withheld is None else part(self.withheld),
            masked=self.masked,
            peak=tuple(p - s for p, s in zip(self.peak, starts, strict=True)),
            window=tuple((s.start, s.stop) for s in cut),
        )

    def faint_gaps(self) -> NDArray[np.int64]:
        """Flat indices of the voxels that were not measured, where the pattern is faint about them.

        There a filling is about right, and voxels left to themselves gather light that no crystal gives, in gaps of 12
        voxels as in smaller ones. Near the peak a filling is often wrong by factors, and the object knows better.
        """
        free = self.target < 0 if self.withheld is None else (self.target < 0) & (self.withheld < 0)
        local = local_level(self.filled)
        return np.flatnonzero(free & (local < _FAINT * local.max()))

    def _bright_window(self) -> tuple[list[int], tuple[int, ...]]:
        """Start and length per axis."""
        photons = fourier.centre(np.square(self.filled))
        wanted = []
        for axis, (size, top) in enumerate(zip(photons.shape, self.peak, strict=True)):
            profile = photons.sum(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)
            profile -= np.sort(profile)[: max(1, size // _PLANE)].mean()
            distance = np.abs(np.arange(size) - top)
            nearest = np.argsort(distance, kind="stable")
            held = np.cumsum(profile[nearest]) >= _SHARE * profile.sum()
            reach = int(distance[nearest[int(np.argmax(held))]])
            wanted.append(min(size, max(_SHORTEST, 2 * reach + 2)))
        edges = tuple(min(_fast(n), *fourier.good_shape([size])) for n, size in zip(wanted, photons.shape, strict=True))
        starts = [min(max(0, p - e // 2), n - e) for p, e, n in zip(self.peak, edges, photons.shape, strict=True)]
        return starts, edges

    def embed(self, density: NDArray[np.complex64], middle: Pattern) -> NDArray[np.complex64]:
        """An object found from the middle, on this pattern's finer grid; its wave beyond the middle is 0."""
        wave = np.empty_like(density)
        fourier.forward(density, wave)
        full = np.zeros(self.target.shape, np.complex64)
        full[tuple(slice(*edge) for edge in middle.window)] = fourier.centre(wave)
        full = fourier.corner(full)
        fourier.inverse(full, full)
        return full

    def cut(self, density: NDArray[np.complex64], middle: Pattern) -> NDArray[np.complex64]:
        """An object on this pattern's grid, on the coarser one of its middle."""
        wave = np.empty_like(density)
        fourier.forward(density, wave)
        part = fourier.corner(fourier.centre(wave)[tuple(slice(*edge) for edge in middle.window)])
        fourier.inverse(part, part)
        return part


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
        bound = free_bound(filled, fitted)
        if guess is not None:
            filled = np.where(valid, filled, np.minimum(guess, _AGAINST_GUESS * bound)).astype(np.float32)
            bound = free_bound(filled, fitted)
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


def _fast(size: int) -> int:
    """The smallest length from there on that is fast to transform."""
    return next(n for n in range(size, 2 * size + 2) if fourier.good_shape([n]) == (n,))


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
