"""The steps of phase retrieval that touch every voxel, as numba kernels: parallel, one pass over memory each.

`braggd.phasing.plain` has the same functions in numpy, for machines without numba, and states what each does.
Arrays are C-contiguous; flat where a docstring does not say otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba
import numpy as np
from numba import prange
from numpy.typing import NDArray

from braggd.phasing.plain import newton as newton
from braggd.phasing.plain import share as share

P = ParamSpec("P")
T = TypeVar("T")

_TINY = np.float32(1e-12)
_FAINT = np.float32(1e-6)
_SMALLEST = np.float32(1e-37)
_PIECE = 1024
_ZERO, _ONE = np.float32(0), np.float32(1)
_FASTMATH = {"nsz", "arcp", "contract", "reassoc", "afn"}  # not `nnan`, `ninf`: a NaN has to stay visible


def _compile(function: Callable[P, T]) -> Callable[P, T]:
    """Compile for all cores; kept on disk where there is a place to write, else compiled once per process."""
    try:
        return cast("Callable[P, T]", numba.njit(parallel=True, nogil=True, fastmath=_FASTMATH, cache=True)(function))
    except RuntimeError:  # no folder to write to
        return cast("Callable[P, T]", numba.njit(parallel=True, nogil=True, fastmath=_FASTMATH)(function))


@_compile
def project_modulus(wave: NDArray[np.complex64], target: NDArray[np.float32]) -> None:
    """See `braggd.phasing.plain.project_modulus`; without branches, which takes half the time."""
    for i in prange(wave.size):
        goal, real, imaginary = target[i], wave[i].real, wave[i].imag
        square = real * real + imaginary * imaginary
        factor = abs(goal) / math.sqrt(max(square, _SMALLEST))
        factor = factor if goal >= 0 else min(factor, _ONE)
        wave[i] = complex(max(goal, _ZERO) if square == 0 else real * factor, imaginary * factor)


@_compile
def project_blurred(wave: NDArray[np.complex64], target: NDArray[np.float32], calculated: NDArray[np.float32]) -> None:
    """See `braggd.phasing.plain.project_blurred`."""
    for i in prange(wave.size):
        goal = target[i]
        factor = abs(goal) / math.sqrt(max(calculated[i], _TINY))
        factor = factor if goal >= 0 else min(factor, _ONE)
        wave[i] = complex(wave[i].real * factor, wave[i].imag * factor)


@_compile
def pull(
    wave: NDArray[np.complex64], places: NDArray[np.int64], amplitudes: NDArray[np.float32], weight: float
) -> None:
    """See `braggd.phasing.plain.pull`."""
    share = np.float32(weight)
    for i in prange(places.size):
        value = wave[places[i]]
        size = math.sqrt(value.real * value.real + value.imag * value.imag)
        goal = (_ONE - share) * size + share * amplitudes[i]
        factor = goal / size if size > 0 else _ZERO
        wave[places[i]] = complex(value.real * factor if size > 0 else goal, value.imag * factor)


@_compile
def total(density: NDArray[np.complex64], support: NDArray[np.bool_]) -> complex:
    """See `braggd.phasing.plain.total`."""
    real, imaginary = 0.0, 0.0
    for i in prange(density.size):
        if support[i]:
            real += density[i].real
            imaginary += density[i].imag
    return complex(real, imaginary)


@_compile
def within(
    density: NDArray[np.complex64],
    support: NDArray[np.bool_],
    direction: complex,
    cosine: float,
    inside: NDArray[np.bool_],
) -> None:
    """See `braggd.phasing.plain.within`."""
    real, imaginary = np.float32(direction.real), np.float32(direction.imag)
    least = np.float32(cosine) * math.sqrt(real * real + imaginary * imaginary)
    for i in prange(density.size):
        value = density[i]
        size = math.sqrt(value.real * value.real + value.imag * value.imag)
        inside[i] = support[i] and value.real * real + value.imag * imaginary >= least * size


@_compile
def clear(density: NDArray[np.complex64], support: NDArray[np.bool_]) -> None:
    """See `braggd.phasing.plain.clear`."""
    for i in prange(density.size):
        if not support[i]:
            density[i] = 0


@_compile
def update(
    density: NDArray[np.complex64],
    projected: NDArray[np.complex64],
    support: NDArray[np.bool_],
    keep: float,
    feedback: float,
) -> None:
    """See `braggd.phasing.plain.update`."""
    a, b = np.float32(keep), np.float32(feedback)
    for i in prange(density.size):
        if support[i]:
            density[i] = projected[i]
        else:
            density[i] = a * density[i] + b * projected[i]


@_compile
def strength(density: NDArray[np.complex64], support: NDArray[np.bool_]) -> float:
    """See `braggd.phasing.plain.strength`."""
    power, number = 0.0, 0
    for i in prange(density.size):
        if support[i]:
            value = density[i]
            power += np.float64(value.real) * value.real + np.float64(value.imag) * value.imag
            number += 1
    return math.sqrt(power / max(number, 1))


@_compile
def flip(
    density: NDArray[np.complex64], projected: NDArray[np.complex64], support: NDArray[np.bool_], threshold: float
) -> None:
    """See `braggd.phasing.plain.flip`."""
    least = np.float32(threshold)
    for i in prange(density.size):
        value = projected[i]
        size = math.sqrt(value.real * value.real + value.imag * value.imag)
        density[i] = value if support[i] and size > least else -value


@_compile
def spread(
    density: NDArray[np.complex64], support: NDArray[np.bool_], factor: float, out: NDArray[np.complex64]
) -> None:
    """See `braggd.phasing.plain.spread`."""
    outside = np.float32(factor)
    for i in prange(density.size):
        out[i] = density[i] if support[i] else outside * density[i]


@_compile
def difference(
    density: NDArray[np.complex64],
    projected: NDArray[np.complex64],
    other: NDArray[np.complex64],
    support: NDArray[np.bool_],
    beta: float,
) -> None:
    """See `braggd.phasing.plain.difference`."""
    b = np.float32(beta)
    more = np.float32(1 + b)
    for i in prange(density.size):
        density[i] = (more * projected[i] if support[i] else density[i]) - b * other[i]


@_compile
def square(wave: NDArray[np.complex64], intensity: NDArray[np.float32]) -> None:
    """See `braggd.phasing.plain.square`."""
    for i in prange(wave.size):
        intensity[i] = wave[i].real * wave[i].real + wave[i].imag * wave[i].imag


@_compile
def misfit(calculated: NDArray[np.float32], target: NDArray[np.float32]) -> tuple[float, float, float, int]:
    """See `braggd.phasing.plain.misfit`."""
    likelihood, residual, total, measured = 0.0, 0.0, 0.0, 0
    for i in prange(target.size):
        goal = target[i]
        if goal >= 0:
            expected = np.float64(max(calculated[i], _FAINT))
            observed = np.float64(goal) * goal
            likelihood += expected - observed
            if goal > 0:
                likelihood += observed * math.log(observed / expected)
            residual += abs(math.sqrt(calculated[i]) - goal)
            total += goal
            measured += 1
    return likelihood, residual, total, measured


@_compile
def blur(
    source: NDArray[np.float32],
    target: NDArray[np.float32],
    kernel_z: NDArray[np.float32],
    kernel_y: NDArray[np.float32],
    kernel_x: NDArray[np.float32],
) -> None:
    """See `braggd.phasing.plain.blur`; (z, y, x) arrays."""
    nz, ny, nx = source.shape
    rz, ry, rx = kernel_z.size // 2, kernel_y.size // 2, kernel_x.size // 2
    for z in prange(nz):
        plane = np.zeros((ny, nx), np.float32)
        for d in range(-rz, rz + 1):
            weight, layer = kernel_z[d + rz], source[(z + d) % nz]
            for y in range(ny):
                for x in range(nx):
                    plane[y, x] += weight * layer[y, x]
        row = np.empty(nx + 2 * rx, np.float32)
        for y in range(ny):
            row[:] = 0
            for d in range(-ry, ry + 1):
                weight, line = kernel_y[d + ry], plane[(y + d) % ny]
                for x in range(nx):
                    row[rx + x] += weight * line[x]
            for x in range(rx):
                row[rx - 1 - x] = row[rx + (nx - 1 - x) % nx]
                row[rx + nx + x] = row[rx + x % nx]
            for x in range(nx):
                total = np.float32(0)
                for d in range(2 * rx + 1):
                    total += kernel_x[d] * row[x + d]
                target[z, y, x] = total


@_compile
def explained(
    parts: NDArray[np.float32], observed: NDArray[np.float32], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """See `braggd.phasing.plain.explained`; in pieces that stay in the cache."""
    number, size = parts.shape
    pieces = (size + _PIECE - 1) // _PIECE
    sums = np.zeros((pieces, number))
    for piece in prange(pieces):
        first = piece * _PIECE
        length = min(_PIECE, size - first)
        ratio = np.zeros(length, np.float32)
        for part in range(number):
            weight = np.float32(weights[part])
            for i in range(length):
                ratio[i] += weight * parts[part, first + i]
        for i in range(length):
            ratio[i] = observed[first + i] / max(ratio[i], _FAINT)
        for part in range(number):
            total = np.float32(0)
            for i in range(length):
                total += ratio[i] * parts[part, first + i]
            sums[piece, part] = total
    explaining: NDArray[np.float64] = np.sum(sums, axis=0)
    return explaining


@_compile
def weigh(calculated: NDArray[np.float32], target: NDArray[np.float32], floor: float, out: NDArray[np.float32]) -> None:
    """See `braggd.phasing.plain.weigh`."""
    least = np.float32(floor)
    for i in prange(target.size):
        observed = target[i] * target[i]
        if target[i] >= 0 or calculated[i] > observed:
            out[i] = 1 - (observed + least) / (calculated[i] + least)
        else:
            out[i] = 0


@_compile
def scale(wave: NDArray[np.complex64], weight: NDArray[np.float32], out: NDArray[np.complex64]) -> None:
    """See `braggd.phasing.plain.scale`."""
    for i in prange(wave.size):
        out[i] = wave[i] * weight[i]


@_compile
def expand(
    wave: NDArray[np.complex64],
    change: NDArray[np.complex64],
    linear: NDArray[np.float32],
    quadratic: NDArray[np.float32],
) -> None:
    """See `braggd.phasing.plain.expand`."""
    for i in prange(wave.size):
        one, other = wave[i], change[i]
        linear[i] = 2 * (one.real * other.real + one.imag * other.imag)
        quadratic[i] = other.real * other.real + other.imag * other.imag


@_compile
def slope(
    constant: NDArray[np.float32],
    linear: NDArray[np.float32],
    quadratic: NDArray[np.float32],
    target: NDArray[np.float32],
    step: float,
    floor: float,
) -> tuple[float, float, float]:
    """See `braggd.phasing.plain.slope`."""
    s = np.float32(step)
    first, second, likely = 0.0, 0.0, 0.0
    for i in prange(target.size):
        calculated = constant[i] + s * (linear[i] + s * quadratic[i])
        if target[i] >= 0 or calculated > target[i] * target[i]:
            expected = np.float64(max(calculated, np.float32(0))) + floor
            ratio = (np.float64(target[i]) * target[i] + floor) / expected
            rise = np.float64(linear[i] + 2 * s * quadratic[i])
            usual = rise * rise / expected
            first += rise * (1 - ratio)
            second += 2 * quadratic[i] * (1 - ratio) + ratio * usual
            likely += usual
    return first, second, likely


@_compile
def dot(one: NDArray[np.complex64], other: NDArray[np.complex64]) -> float:
    """See `braggd.phasing.plain.dot`."""
    product = 0.0
    for i in prange(one.size):
        product += np.float64(one[i].real) * other[i].real + np.float64(one[i].imag) * other[i].imag
    return product


@_compile
def add(array: NDArray[np.complex64], step: float, change: NDArray[np.complex64]) -> None:
    """See `braggd.phasing.plain.add`."""
    s = np.float32(step)
    for i in prange(array.size):
        array[i] += s * change[i]


@_compile
def turn(direction: NDArray[np.complex64], gradient: NDArray[np.complex64], share: float) -> None:
    """See `braggd.phasing.plain.turn`."""
    s = np.float32(share)
    for i in prange(direction.size):
        direction[i] = s * direction[i] - gradient[i]
