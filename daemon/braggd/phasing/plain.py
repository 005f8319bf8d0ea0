"""The steps of phase retrieval that touch every voxel, in numpy: what `braggd.phasing.compiled` does, only slower.

A `target` (float32) holds what was measured: where it is >= 0, the amplitude; where it is negative, nothing was
measured, the wave is free, and its modulus may grow up to -target.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

_TINY = np.float32(1e-12)
_FAINT = np.float32(1e-6)


def project_modulus(wave: NDArray[np.complex64], target: NDArray[np.float32]) -> None:
    """Give the wave its measured modulus, in place; a free voxel keeps its value, but for the bound.

    wave: complex64; target: float32, see above; same shape
    """
    size = np.abs(wave)
    nothing = size == 0
    _rescale(wave, target, np.where(nothing, 1, size))
    wave[nothing] = np.maximum(target[nothing], 0)


def project_blurred(wave: NDArray[np.complex64], target: NDArray[np.float32], calculated: NDArray[np.float32]) -> None:
    """The same for a partially coherent beam: the blurred intensity is what has to fit.

    calculated: float32, the wave's intensity after blurring; the wave is scaled by measured / sqrt(calculated)

    Clark et al., Nat. Commun. 3, 993 (2012), doi:10.1038/ncomms1994
    """
    _rescale(wave, target, np.sqrt(np.maximum(calculated, _TINY)))


def pull(
    wave: NDArray[np.complex64], places: NDArray[np.int64], amplitudes: NDArray[np.float32], weight: float
) -> None:
    """In place, at those places: the modulus (1 - weight) |wave| + weight * amplitude, and the same phase; 0 has 0."""
    some = wave[places]
    size = np.abs(some)
    share = np.float32(weight)
    goal = (1 - share) * size + share * amplitudes
    wave[places] = np.where(size == 0, goal, some * (goal / np.where(size == 0, 1, size)))


def total(density: NDArray[np.complex64], support: NDArray[np.bool_]) -> complex:
    """The sum over the support."""
    return complex(np.sum(density * support, dtype=np.complex128))


def within(
    density: NDArray[np.complex64],
    support: NDArray[np.bool_],
    direction: complex,
    cosine: float,
    inside: NDArray[np.bool_],
) -> None:
    """Write into inside where in the support the angle to the direction has at least that cosine."""
    real, imaginary = np.float32(direction.real), np.float32(direction.imag)
    least = np.float32(cosine) * np.sqrt(real * real + imaginary * imaginary)
    along = density.real * real + density.imag * imaginary
    inside[...] = support & (along >= least * np.abs(density))


def clear(density: NDArray[np.complex64], support: NDArray[np.bool_]) -> None:
    """In place: 0 outside the support."""
    density[~support] = 0


def update(
    density: NDArray[np.complex64],
    projected: NDArray[np.complex64],
    support: NDArray[np.bool_],
    keep: float,
    feedback: float,
) -> None:
    """In place: density = projected inside the support, keep * density + feedback * projected outside.

    density: the object before the modulus projection, projected: the one after it; complex64
    """
    outside = ~support
    mixed = np.float32(keep) * density[outside] + np.float32(feedback) * projected[outside]
    density[...] = projected
    density[outside] = mixed


def strength(density: NDArray[np.complex64], support: NDArray[np.bool_]) -> float:
    """The root of the mean of |density|^2 over the support; 0 where it is empty."""
    inside = density[support].astype(np.complex128)
    return math.sqrt(float(np.vdot(inside, inside).real) / max(1, inside.size))


def flip(
    density: NDArray[np.complex64], projected: NDArray[np.complex64], support: NDArray[np.bool_], threshold: float
) -> None:
    """Density = projected where it is inside the support and its modulus above the threshold, -projected elsewhere."""
    kept = support & (np.abs(projected) > np.float32(threshold))
    density[...] = np.where(kept, projected, -projected)


def spread(
    density: NDArray[np.complex64], support: NDArray[np.bool_], factor: float, out: NDArray[np.complex64]
) -> None:
    """Write the density into out, outside the support multiplied by the factor."""
    out[...] = np.where(support, density, np.float32(factor) * density)


def difference(
    density: NDArray[np.complex64],
    projected: NDArray[np.complex64],
    other: NDArray[np.complex64],
    support: NDArray[np.bool_],
    beta: float,
) -> None:
    """In place: (1 + beta) * projected - beta * other inside the support, density - beta * other outside."""
    b = np.float32(beta)
    density[...] = np.where(support, (1 + b) * projected, density) - b * other


def square(wave: NDArray[np.complex64], intensity: NDArray[np.float32]) -> None:
    """Write |wave|^2 into intensity."""
    np.add(wave.real**2, wave.imag**2, out=intensity)


def misfit(calculated: NDArray[np.float32], target: NDArray[np.float32]) -> tuple[float, float, float, int]:
    """How well a calculated intensity fits, over the measured voxels.

    Returns the summed Poisson log-likelihood `calculated - observed + observed log(observed / calculated)`,
    `sum |sqrt(calculated) - amplitude|`, `sum amplitude`, and the number of measured voxels.
    """
    measured = target >= 0
    goal = target[measured].astype(np.float64)
    found = calculated[measured]
    expected, observed = np.maximum(found, _FAINT).astype(np.float64), goal**2
    logarithm = np.log(np.where(observed > 0, observed / expected, 1))
    likelihood = float(np.sum(expected - observed + observed * logarithm))
    residual = float(np.sum(np.abs(np.sqrt(found.astype(np.float64)) - goal)))
    return likelihood, residual, float(goal.sum()), int(measured.sum())


def blur(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    kernel_z: NDArray[np.float32],
    kernel_y: NDArray[np.float32],
    kernel_x: NDArray[np.float32],
) -> None:
    """Convolve a periodic (z, y, x) volume with one symmetric kernel of odd length per axis; target is not source."""
    blurred = source
    for axis, kernel in enumerate((kernel_z, kernel_y, kernel_x)):
        blurred = ndimage.correlate1d(blurred, kernel, axis=axis, mode="wrap")
    target[...] = blurred


def explained(
    parts: NDArray[np.float32], observed: NDArray[np.float32], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How much of what is observed each part explains, per unit of its weight: `sum of part * observed / model`.

    parts: (part, voxel); observed: (voxel), photons; the model is the sum of the parts times their weights
    """
    model = np.tensordot(weights.astype(np.float32), parts, 1)
    ratio = observed / np.maximum(model, _FAINT)
    return np.asarray((parts * ratio).sum(axis=1, dtype=np.float64))


def weigh(calculated: NDArray[np.float32], target: NDArray[np.float32], floor: float, out: NDArray[np.float32]) -> None:
    """The slope of the log-likelihood with the intensity, `1 - (observed + floor) / (calculated + floor)`, into out.

    0 where a free voxel is within its bound; one above it is drawn to the bound. out may be calculated.
    """
    observed = target * target
    slope = 1 - (observed + np.float32(floor)) / (calculated + np.float32(floor))
    out[...] = np.where((target >= 0) | (calculated > observed), slope, 0)


def scale(wave: NDArray[np.complex64], weight: NDArray[np.float32], out: NDArray[np.complex64]) -> None:
    """Write wave * weight into out."""
    np.multiply(wave, weight, out=out)


def expand(
    wave: NDArray[np.complex64],
    change: NDArray[np.complex64],
    linear: NDArray[np.float32],
    quadratic: NDArray[np.float32],
) -> None:
    """The intensity of wave + step * change is |wave|^2 + linear * step + quadratic * step^2."""
    linear[...] = 2 * (wave.real * change.real + wave.imag * change.imag)
    square(change, quadratic)


def slope(
    constant: NDArray[np.float32],
    linear: NDArray[np.float32],
    quadratic: NDArray[np.float32],
    target: NDArray[np.float32],
    step: float,
    floor: float,
) -> tuple[float, float, float]:
    """The log-likelihood's first and second derivative with the step, and what is expected of the second (positive)."""
    s = np.float32(step)
    calculated = constant + s * (linear + s * quadratic)
    counts = (target >= 0) | (calculated > target * target)
    expected = np.maximum(calculated[counts], 0).astype(np.float64) + floor
    ratio = (target[counts].astype(np.float64) ** 2 + floor) / expected
    rise = (linear + 2 * s * quadratic)[counts].astype(np.float64)
    bend = 2 * quadratic[counts].astype(np.float64)
    first = float(np.sum(rise * (1 - ratio)))
    likely = rise * rise / expected
    return first, float(np.sum(bend * (1 - ratio) + ratio * likely)), float(likely.sum())


def newton(state: NDArray[np.float64], slopes: tuple[float, float, float], begun: bool) -> None:
    """One step of Newton's method to where the first slope is 0, within the bracket known so far.

    state: step, low and high end of the bracket, the best step yet and its slope's modulus; changed in place
    slopes: of `slope`, at the step; begun: whether that step may be the best
    """
    step, low, high, best, least = (float(value) for value in state)
    first, second, expected = slopes
    low, high = (step, high) if first < 0 else (low, step)
    if begun and abs(first) < least:
        best, least = step, abs(first)
    step -= first / max(second, 0.1 * expected, 1e-30)
    if not low < step < high:
        step = (low + high) / 2 if np.isfinite(high) else 2 * low
    state[:] = step, low, high, best, least


def dot(one: NDArray[np.complex64], other: NDArray[np.complex64]) -> float:
    """The real part of the scalar product."""
    return float(np.vdot(one, other).real)


def share(norm: float, product: float, last: float, slope_before: float) -> float:
    """How much of the direction before goes into the next one, after Polak and Ribiere; 0 where that would lead uphill.

    norm: of the gradient, squared; last: of the one before, 0 at the beginning; product: of the two
    slope_before: product of the direction before and the gradient
    """
    part = max(0.0, (norm - product) / last) if last > 0 else 0.0
    return part if part * slope_before < norm else 0.0


def add(array: NDArray[np.complex64], step: float, change: NDArray[np.complex64]) -> None:
    """In place: array + step * change."""
    array += np.float32(step) * change


def turn(direction: NDArray[np.complex64], gradient: NDArray[np.complex64], share: float) -> None:
    """In place: direction = share * direction - gradient."""
    direction *= np.float32(share)
    direction -= gradient


def _rescale(wave: NDArray[np.complex64], target: NDArray[np.float32], size: NDArray[np.float32]) -> None:
    goal = np.where(target >= 0, target, np.minimum(size, -target))
    wave *= (goal / size).astype(np.float32)
