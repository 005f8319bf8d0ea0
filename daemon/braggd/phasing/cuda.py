"""The steps of phase retrieval that touch every voxel, as fused CUDA kernels: one pass over memory each, with CuPy.

`braggd.phasing.plain` has the same functions in numpy and states what each does. Arrays are CuPy's, C-contiguous and
flat where a docstring does not say otherwise. Sums and steps stay on the device as 0-d arrays of float64, so that an
iteration never waits for the GPU; a sum takes the same order every time, so that a seed gives the same object.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import cupy

Array = Any
"""A CuPy array; a number is taken too where a docstring of `plain` says float."""

_BLOCKS, _THREADS = 256, 256

_REDUCTION = """
extern "C" __global__ void {name}({parameters}, const long long size, double* partial) {{
    double sums[{number}] = {{}};
    const long long first = blockIdx.x * (long long)blockDim.x + threadIdx.x;
    for (long long i = first; i < size; i += gridDim.x * (long long)blockDim.x) {{
        {body}
    }}
    __shared__ double shared[{threads}];
    for (int k = 0; k < {number}; ++k) {{
        shared[threadIdx.x] = sums[k];
        __syncthreads();
        for (int half = blockDim.x / 2; half > 0; half /= 2) {{
            if (threadIdx.x < half) shared[threadIdx.x] += shared[threadIdx.x + half];
            __syncthreads();
        }}
        if (threadIdx.x == 0) partial[k * gridDim.x + blockIdx.x] = shared[0];
        __syncthreads();
    }}
}}
"""


def _each(name: str, inputs: str, outputs: str, body: str) -> Any:
    """A kernel of one pass; `outputs` are read as well where the body does."""
    return cupy.ElementwiseKernel(inputs, outputs, body, f"braggd_{name}")


class _Sums:
    """Sums over all voxels: `body` adds to sums[0], sums[1], ...; complex arrays are float2."""

    def __init__(self, name: str, number: int, parameters: str, body: str) -> None:
        self.number = number
        self.source = _REDUCTION.format(
            name=f"braggd_{name}", number=number, parameters=parameters, body=body, threads=_THREADS
        )
        self._kernel = cupy.RawKernel(self.source, f"braggd_{name}")

    def __call__(self, size: int, *arguments: Any) -> Array:
        """The sums, float64 on the device; arrays and 0-d arrays go as pointers."""
        partial = cupy.empty((self.number, _BLOCKS), cupy.float64)
        self._kernel((_BLOCKS,), (_THREADS,), (*arguments, cupy.int64(size), partial))
        return partial.sum(axis=1)


_project_modulus = _each(
    "project_modulus",
    "float32 goal",
    "complex64 wave",
    """
    const float real = wave.real(), imaginary = wave.imag(), square = real * real + imaginary * imaginary;
    float factor = fabsf(goal) * rsqrtf(fmaxf(square, 1e-37f));
    factor = goal >= 0 ? factor : fminf(factor, 1.0f);
    wave = complex<float>(square == 0 ? fmaxf(goal, 0.0f) : real * factor, imaginary * factor)
    """,
)
_project_blurred = _each(
    "project_blurred",
    "float32 goal, float32 calculated",
    "complex64 wave",
    """
    const float factor = fabsf(goal) * rsqrtf(fmaxf(calculated, 1e-12f));
    wave *= goal >= 0 ? factor : fminf(factor, 1.0f)
    """,
)
_pull = _each(
    "pull",
    "int64 place, float32 amplitude, float32 share",
    "raw complex64 wave",
    """
    const complex<float> value = wave[place];
    const float size = sqrtf(value.real() * value.real() + value.imag() * value.imag());
    const float goal = (1.0f - share) * size + share * amplitude;
    wave[place] = size > 0 ? value * (goal / size) : complex<float>(goal, 0.0f)
    """,
)
_within = _each(
    "within",
    "complex64 value, bool support, complex128 direction, float32 cosine",
    "bool inside",
    """
    const float real = direction.real(), imaginary = direction.imag();
    const float least = cosine * sqrtf(real * real + imaginary * imaginary);
    const float size = sqrtf(value.real() * value.real() + value.imag() * value.imag());
    inside = support && value.real() * real + value.imag() * imaginary >= least * size
    """,
)
_clear = _each("clear", "bool support", "complex64 density", "if (!support) density = complex<float>(0.0f, 0.0f)")
_update = _each(
    "update",
    "complex64 projected, bool support, float32 keep, float32 feedback",
    "complex64 density",
    "density = support ? projected : keep * density + feedback * projected",
)
_flip = _each(
    "flip",
    "complex64 value, bool support, float64 threshold",
    "complex64 density",
    """
    const float least = threshold, square = value.real() * value.real() + value.imag() * value.imag();
    density = support && sqrtf(square) > least ? value : -value
    """,
)
_spread = _each(
    "spread",
    "complex64 density, bool support, float32 factor",
    "complex64 out",
    "out = support ? density : factor * density",
)
_difference = _each(
    "difference",
    "complex64 projected, complex64 other, bool support, float32 beta",
    "complex64 density",
    "density = (support ? (1.0f + beta) * projected : density) - beta * other",
)
_square = _each(
    "square", "complex64 wave", "float32 out", "out = wave.real() * wave.real() + wave.imag() * wave.imag()"
)
_scale = _each("scale", "complex64 wave, float32 weight", "complex64 out", "out = wave * weight")
_along = _each(
    "along",
    "raw float32 source, raw float32 weights, int64 stride, int64 length",
    "float32 out",
    """
    const long long at = (i / stride) % length, first = i - at * stride, reach = weights.size() / 2;
    float sum = 0.0f;
    for (long long d = -reach; d <= reach; ++d) {
        long long from = (at + d) % length;
        from += from < 0 ? length : 0;
        sum += weights[d + reach] * source[first + from * stride];
    }
    out = sum
    """,
)
_weigh = _each(
    "weigh",
    "float32 calculated, float32 goal, float32 least",
    "float32 out",
    """
    const float observed = goal * goal;
    out = goal >= 0 || calculated > observed ? 1.0f - (observed + least) / (calculated + least) : 0.0f
    """,
)
_expand = _each(
    "expand",
    "complex64 wave, complex64 change",
    "float32 first, float32 second",
    """
    first = 2.0f * (wave.real() * change.real() + wave.imag() * change.imag());
    second = change.real() * change.real() + change.imag() * change.imag()
    """,
)
_add = _each("add", "float64 step, complex64 change", "complex64 array", "array += float(step) * change")
_turn = _each(
    "turn",
    "complex64 gradient, float64 share",
    "complex64 direction",
    "direction = float(share) * direction - gradient",
)
_share = _each(
    "share",
    "float64 norm, float64 product, float64 last, float64 slope",
    "float64 share",
    """
    share = last > 0 ? fmax(0.0, (norm - product) / last) : 0.0;
    share = share * slope < norm ? share : 0.0
    """,
)
_newton = _each(
    "newton",
    "raw float64 slopes, bool begun",
    "raw float64 state",
    """
    double step = state[0], low = state[1], high = state[2];
    const double first = slopes[0], bend = fmax(fmax(slopes[1], 0.1 * slopes[2]), 1e-30);
    if (first < 0) low = step; else high = step;
    if (begun && fabs(first) < state[4]) { state[3] = step; state[4] = fabs(first); }
    step -= first / bend;
    if (!(low < step && step < high)) step = isfinite(high) ? (low + high) / 2 : 2 * low;
    state[0] = step; state[1] = low; state[2] = high
    """,
)
_misfit = _Sums(
    "misfit",
    4,
    "const float* calculated, const float* target",
    """
        const double goal = target[i], found = calculated[i];
        if (goal >= 0) {
            const double expected = fmax(found, (double)1e-6f), observed = goal * goal;
            sums[0] += expected - observed + (goal > 0 ? observed * log(observed / expected) : 0.0);
            sums[1] += fabs(sqrt(found) - goal);
            sums[2] += goal;
            sums[3] += 1;
        }
    """,
)
_slope = _Sums(
    "slope",
    3,
    "const float* constant, const float* linear, const float* quadratic, const float* target, const double* step,"
    " const double floor",
    """
        const float s = (float)step[0], goal = target[i];
        const float calculated = constant[i] + s * (linear[i] + s * quadratic[i]);
        if (goal >= 0 || calculated > goal * goal) {
            const double expected = (double)fmaxf(calculated, 0.0f) + floor;
            const double ratio = ((double)goal * goal + floor) / expected;
            const double rise = linear[i] + 2.0f * s * quadratic[i], usual = rise * rise / expected;
            sums[0] += rise * (1 - ratio);
            sums[1] += 2.0 * quadratic[i] * (1 - ratio) + ratio * usual;
            sums[2] += usual;
        }
    """,
)
_total = _Sums(
    "total",
    2,
    "const float2* density, const bool* support",
    "if (support[i]) { sums[0] += density[i].x; sums[1] += density[i].y; }",
)
_strength = _Sums(
    "strength",
    2,
    "const float2* density, const bool* support",
    """
        if (support[i]) {
            sums[0] += (double)density[i].x * density[i].x + (double)density[i].y * density[i].y;
            sums[1] += 1;
        }
    """,
)
_dot = _Sums(
    "dot",
    1,
    "const float2* one, const float2* other",
    "sums[0] += (double)one[i].x * other[i].x + (double)one[i].y * other[i].y;",
)


def project_modulus(wave: Array, target: Array) -> None:
    """See `braggd.phasing.plain.project_modulus`."""
    _project_modulus(target, wave)


def project_blurred(wave: Array, target: Array, calculated: Array) -> None:
    """See `braggd.phasing.plain.project_blurred`."""
    _project_blurred(target, calculated, wave)


def pull(wave: Array, places: Array, amplitudes: Array, weight: float) -> None:
    """See `braggd.phasing.plain.pull`."""
    _pull(places, amplitudes, weight, wave)


def total(density: Array, support: Array) -> Array:
    """See `braggd.phasing.plain.total`; 0-d, complex128."""
    return _total(density.size, density, support).view(cupy.complex128).reshape(())


def within(density: Array, support: Array, direction: Array, cosine: float, inside: Array) -> None:
    """See `braggd.phasing.plain.within`."""
    _within(density, support, direction, cosine, inside)


def clear(density: Array, support: Array) -> None:
    """See `braggd.phasing.plain.clear`."""
    _clear(support, density)


def update(density: Array, projected: Array, support: Array, keep: float, feedback: float) -> None:
    """See `braggd.phasing.plain.update`."""
    _update(projected, support, keep, feedback, density)


def strength(density: Array, support: Array) -> Array:
    """See `braggd.phasing.plain.strength`."""
    sums = _strength(density.size, density, support)
    return cupy.sqrt(sums[0] / cupy.maximum(sums[1], 1))


def flip(density: Array, projected: Array, support: Array, threshold: Array) -> None:
    """See `braggd.phasing.plain.flip`."""
    _flip(projected, support, threshold, density)


def spread(density: Array, support: Array, factor: float, out: Array) -> None:
    """See `braggd.phasing.plain.spread`."""
    _spread(density, support, factor, out)


def difference(density: Array, projected: Array, other: Array, support: Array, beta: float) -> None:
    """See `braggd.phasing.plain.difference`."""
    _difference(projected, other, support, beta, density)


def square(wave: Array, intensity: Array) -> None:
    """See `braggd.phasing.plain.square`."""
    _square(wave, intensity)


def misfit(calculated: Array, target: Array) -> Array:
    """See `braggd.phasing.plain.misfit`."""
    return _misfit(target.size, calculated, target)


def blur(source: Array, target: Array, kernel_z: Array, kernel_y: Array, kernel_x: Array) -> None:
    """See `braggd.phasing.plain.blur`; (z, y, x) arrays. One pass per axis that has more than one weight."""
    _, ny, nx = source.shape
    strides = (ny * nx, nx, 1)
    passes = [(k, s, n) for k, s, n in zip((kernel_z, kernel_y, kernel_x), strides, source.shape, strict=True)]
    last = passes.pop()
    now = source
    for kernel, stride, length in passes:
        if kernel.size > 1:
            blurred = cupy.empty_like(source)
            _along(now, kernel, stride, length, blurred)
            now = blurred
    _along(now, last[0], last[1], last[2], target)


def explained(parts: Array, observed: Array, weights: Array) -> Array:
    """See `braggd.phasing.plain.explained`."""
    return _explaining(len(parts))(observed.size, parts, observed, weights)


def weigh(calculated: Array, target: Array, floor: float, out: Array) -> None:
    """See `braggd.phasing.plain.weigh`."""
    _weigh(calculated, target, floor, out)


def scale(wave: Array, weight: Array, out: Array) -> None:
    """See `braggd.phasing.plain.scale`."""
    _scale(wave, weight, out)


def expand(wave: Array, change: Array, linear: Array, quadratic: Array) -> None:
    """See `braggd.phasing.plain.expand`."""
    _expand(wave, change, linear, quadratic)


def slope(constant: Array, linear: Array, quadratic: Array, target: Array, step: Array, floor: float) -> Array:
    """See `braggd.phasing.plain.slope`."""
    step = cupy.asarray(step, cupy.float64)
    return _slope(target.size, constant, linear, quadratic, target, step, cupy.float64(floor))


def newton(state: Array, slopes: Array, begun: bool) -> None:
    """See `braggd.phasing.plain.newton`."""
    _newton(slopes, begun, state, size=1)


def dot(one: Array, other: Array) -> Array:
    """See `braggd.phasing.plain.dot`."""
    return _dot(one.size, one, other).reshape(())


def share(norm: Array, product: Array, last: Array, slope_before: Array) -> Array:
    """See `braggd.phasing.plain.share`."""
    return _share(norm, product, last, slope_before)


def add(array: Array, step: Array, change: Array) -> None:
    """See `braggd.phasing.plain.add`."""
    _add(step, change, array)


def turn(direction: Array, gradient: Array, share: Array) -> None:
    """See `braggd.phasing.plain.turn`."""
    _turn(gradient, share, direction)


def transform(source: Array, target: Array, *, back: bool, scaled: bool = True) -> None:
    """Fourier transform (z, y, x) complex64, with a plan that is kept; target may be source.

    back: the inverse transform; scaled: with its factor of 1/N, which takes a pass of its own
    """
    from cupy.cuda import cufft  # needs the library itself, unlike the kernels

    direction = cufft.CUFFT_INVERSE if back else cufft.CUFFT_FORWARD
    _plan(source.shape, cupy.cuda.Device().id).fft(source, target, direction)
    if back and scaled:
        target *= cupy.float32(1 / target.size)


@lru_cache(maxsize=8)
def _plan(shape: tuple[int, ...], _device: int) -> Any:
    import cupyx.scipy.fft

    return cupyx.scipy.fft.get_fft_plan(cupy.empty(shape, cupy.complex64))


@lru_cache(maxsize=8)
def _explaining(number: int) -> _Sums:
    model = " + ".join(f"(float)weights[{k}] * parts[{k} * size + i]" for k in range(number))
    added = " ".join(f"sums[{k}] += ratio * parts[{k} * size + i];" for k in range(number))
    return _Sums(
        f"explained_{number}",
        number,
        "const float* parts, const float* observed, const double* weights",
        f"const float ratio = observed[i] / fmaxf({model}, 1e-6f); {added}",
    )
