"""Phase fields within a crystal.

A field is a function of coordinates (z, y, x) in units of the crystal's half extents, so that it lies within -1..1
along each axis. The phase is that of the object: -q·u for a displacement u, as in `braggd.crystal.strain`.

Kinds and ranges after Masto, PhD thesis, Univ. Grenoble Alpes, sections 3.3.1, 4.3 and 4.10.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from braggd_models.errors import SimulationError
from braggd_models.simulate.shapes import Polyhedron

Values = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

_PERIOD = 4.0  # of a random field, in half extents: twice the crystal


class Field(Protocol):
    """A scalar field; coordinates broadcast, and so do values."""

    def __call__(self, z: Values, y: Values, x: Values) -> Values:
        """The field at those places."""


@dataclass(frozen=True, slots=True)
class Flat:
    """No strain."""

    def __call__(self, z: Values, y: Values, x: Values) -> Values:
        """Zero."""
        return np.zeros(np.broadcast_shapes(z.shape, y.shape, x.shape), z.dtype)


@dataclass(frozen=True, slots=True, eq=False)
class Gaussians:
    """A sum of Gaussians.

    heights: (n,); centres: (n, 3); shapes: (n, 3, 3), the height falls by exp(-|shape @ (r - centre)|² / 2)
    """

    heights: Floats
    centres: Floats
    shapes: Floats

    def __call__(self, z: Values, y: Values, x: Values) -> Values:
        """The sum at those places."""
        total = Flat()(z, y, x)
        for height, centre, shape in zip(self.heights, self.centres, self.shapes, strict=True):
            square = np.zeros_like(total)
            for row in shape:
                square += _along(row, centre, z, y, x) ** 2
            total += _typed(height, z) * np.exp(_typed(-0.5, z) * square)
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Cosines:
    """A sum of plane waves; amplitudes, offsets: (n,); waves: (n, 3) rad per half extent."""

    amplitudes: Floats
    waves: Floats
    offsets: Floats

    def __call__(self, z: Values, y: Values, x: Values) -> Values:
        """The sum at those places."""
        total = Flat()(z, y, x)
        for amplitude, wave, offset in zip(self.amplitudes, self.waves, self.offsets, strict=True):
            total += _typed(amplitude, z) * np.cos(_along(wave, np.zeros(3), z, y, x) + _typed(offset, z))
        return total


@dataclass(frozen=True, slots=True, eq=False)
class RandomField:
    """A Gaussian random field with Gaussian correlation, periodic beyond the crystal.

    modes: (k, k, k) complex128, middle at k // 2; the field is the real part of the sum over
        modes * exp(2 pi i k·r / 4)
    """

    modes: NDArray[np.complex128]

    def __call__(self, z: Values, y: Values, x: Values) -> Values:
        """The field on an open grid, (n, 1, 1), (1, m, 1), (1, 1, l), or at scattered places."""
        if z.ndim == 3 and z.shape[1:] == (1, 1) and y.shape[::2] == (1, 1) and x.shape[:2] == (1, 1):
            near = np.matmul(self.modes.astype(np.complex64), self._waves(x.ravel()).T)
            near = np.matmul(self._waves(y.ravel()), near)
            size = near.shape
            near = (self._waves(z.ravel()) @ near.reshape(size[0], -1)).reshape(-1, *size[1:])
            return np.asarray(near.real, z.dtype)
        return self._scattered(*np.broadcast_arrays(z, y, x))

    def _scattered(self, z: Values, y: Values, x: Values) -> Values:
        found = np.empty(z.size, np.float64)
        for start in range(0, z.size, 4096):
            part = slice(start, start + 4096)
            near = np.tensordot(self._waves(x.ravel()[part]), self.modes.astype(np.complex64), (1, 2))
            near = np.einsum("pj,pij->pi", self._waves(y.ravel()[part]), near)
            found[part] = np.einsum("pi,pi->p", self._waves(z.ravel()[part]), near).real
        return np.asarray(found.reshape(z.shape), z.dtype)

    def _waves(self, line: Values) -> NDArray[np.complex64]:
        count = self.modes.shape[0]
        return np.exp(2j * np.pi / _PERIOD * np.outer(line, np.arange(count) - count // 2)).astype(np.complex64)


@dataclass(frozen=True, slots=True, eq=False)
class Substrate:
    """Strain that a substrate imposes: largest at the face that touches it, decaying into the crystal.

    face: (3,) unit vector towards the substrate; distance: of the face from the origin
    depth: of the decay; bend: how the displacement changes from the middle of the face outwards
    """

    face: Floats
    distance: float
    depth: float
    bend: float

    def __call__(self, z: Values, y: Values, x: Values) -> Values:
        """The field at those places."""
        along = _along(self.face, np.zeros(3), z, y, x)
        aside = z**2 + y**2 + x**2 - along**2
        decay = np.exp((along - _typed(self.distance, z)) / _typed(self.depth, z))
        return np.asarray(decay * (1 + _typed(self.bend, z) * aside))


@dataclass(frozen=True, slots=True, eq=False)
class Surface:
    """Facets drawn in along their normals, decaying within a depth; what one component of that displacement shows.

    crystal: in units of half extents; component: (3,); depth: in the same units
    """

    crystal: Polyhedron
    component: Floats
    depth: float

    def __call__(self, z: Values, y: Values, x: Values) -> Values:
        """The field at those places."""
        total = Flat()(z, y, x)
        for normal, distance in zip(self.crystal.normals, self.crystal.distances, strict=True):
            beyond = _along(normal, np.zeros(3), z, y, x) - _typed(distance, z)
            total += _typed(normal @ self.component, z) * np.exp(np.minimum(beyond / _typed(self.depth, z), 0))
        return total


@dataclass(frozen=True, slots=True, eq=False)
class Dislocation:
    """A straight dislocation; the phase winds about it, and is not to be rescaled.

    frame: (3, 3), rows are two directions across the line (the first along the Burgers vector's edge part) and the
        line itself
    point: (3,) on the line; windings: q·b / 2 pi, an integer
    edge: 0 for a screw, 1 for an edge, with the displacement along b
    climb: q·b' / 2 pi for b' normal to the glide plane, 0 for a screw; any number, as this part does not wind

    Hirth & Lothe, Theory of Dislocations, 2nd ed. (1982), eqs. 3-3, 3-45, 3-46, with a Poisson number of 1/3
    """

    frame: Floats
    point: Floats
    windings: int
    edge: float = 0.0
    climb: float = 0.0

    def __call__(self, z: Values, y: Values, x: Values) -> Values:
        """The phase in rad, with a cut where it jumps by full turns."""
        a, b = (_along(row, self.point, z, y, x) for row in self.frame[:2])
        angle = np.arctan2(b, a)
        phase = self.windings * angle
        if self.edge:
            phase += self.windings * self.edge * np.sin(2 * angle) * 0.375
        if self.climb:
            square = np.maximum(a**2 + b**2, _typed(1e-6, z))
            phase -= _typed(self.climb, z) * (_typed(0.125, z) * np.log(square) + _typed(0.375, z) * np.cos(2 * angle))
        return np.asarray(phase)


@dataclass(frozen=True, slots=True, eq=False)
class Sum:
    """Two fields together, the second with a weight."""

    first: Field
    second: Field
    weight: float

    def __call__(self, z: Values, y: Values, x: Values) -> Values:
        """The sum at those places."""
        return np.asarray(self.first(z, y, x) + _typed(self.weight, z) * self.second(z, y, x))


def random_strain(kind: str, rng: np.random.Generator, crystal: Polyhedron, phase_range: float) -> Field:
    """A field of that kind (`STRAINS`), its free parameters drawn.

    crystal: in units of its half extents; what hangs on its facets looks there
    phase_range: rad; dislocations wind as often as goes into it, and once at least
    Raises SimulationError where the kind is unknown.
    """
    if kind not in STRAINS:
        raise SimulationError(f"strain {kind!r} is unknown; choose one of {', '.join(STRAINS)}")
    return STRAINS[kind](rng, crystal, phase_range)


def correlated_field(rng: np.random.Generator, correlation: float) -> RandomField:
    """A Gaussian random field of variance 1 whose values at a distance r correlate by exp(-r² / 2 correlation²).

    correlation: in half extents, up to about 1, where the period begins to show
    """
    top = int(np.ceil(0.84 * _PERIOD / correlation))
    k = 2 * np.pi / _PERIOD * np.arange(-top, top + 1)
    fall = np.exp(-0.25 * (k * correlation) ** 2)
    weights = fall[:, None, None] * fall[:, None] * fall
    modes = weights * (rng.normal(size=weights.shape) + 1j * rng.normal(size=weights.shape))
    return RandomField(modes / np.sqrt(np.sum(weights**2)))


def scaled(
    phase: Values, inside: NDArray[np.bool_], phase_range: float, axes: tuple[Values, Values, Values] | None = None
) -> Values:
    """The field brought to a range within the crystal, rad peak to peak, and to a mean of 0 there.

    axes: coordinates (z, y, x) that broadcast to the field; with them its plane of best fit within the crystal is taken
        off first, so that the pattern's middle stays where it is. A field that is flat inside becomes 0.
    Raises SimulationError where nothing is inside.
    """
    if not inside.any():
        raise SimulationError("no voxel is inside the crystal; make it larger")
    if axes is not None:
        phase = phase - _plane(phase, inside, axes)
    within = phase[inside]
    low, high = float(within.min()), float(within.max())
    factor = phase_range / (high - low) if high - low > 1e-6 * max(abs(low), abs(high), 1e-30) else 0.0
    return np.asarray((phase - within.mean(dtype=np.float64)) * factor, phase.dtype)


def _plane(phase: Values, inside: NDArray[np.bool_], axes: tuple[Values, Values, Values]) -> Values:
    places = np.stack([np.broadcast_to(a, phase.shape)[inside] for a in axes]).astype(np.float64)
    mean = places.mean(axis=1, keepdims=True)
    values = phase[inside].astype(np.float64)
    slopes = np.linalg.lstsq((places - mean) @ (places - mean).T, (places - mean) @ values, rcond=None)[0]
    return _along(slopes, np.zeros(3), *axes)


def _along(direction: Floats, origin: Floats, z: Values, y: Values, x: Values) -> Values:
    """direction @ (r - origin), in the coordinates' own precision."""
    a, b, c = (_typed(d, z) for d in direction)
    offset = _typed(direction @ origin, z)
    return np.asarray((a * z - offset) + b * y + c * x)


def _typed(value: Any, like: Values) -> Any:
    return like.dtype.type(value)


def _unit(rng: np.random.Generator) -> Floats:
    vector = rng.normal(size=3)
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def _frame(rng: np.random.Generator) -> Floats:
    turned, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.asarray(turned, np.float64)


def _gaussians(rng: np.random.Generator, crystal: Polyhedron, phase_range: float) -> Field:
    signs = np.where(rng.random(2) < 0.5, -1.0, 1.0)
    return Gaussians(
        heights=signs * rng.uniform(0.4, 1.0, 2),
        centres=rng.uniform(-0.8, 0.8, (2, 3)),
        shapes=np.stack([_frame(rng) / rng.uniform(0.3, 1.0, 3)[:, None] for _ in range(2)]),
    )


def _cosines(rng: np.random.Generator, crystal: Polyhedron, phase_range: float) -> Field:
    lengths = rng.uniform(0.5 * np.pi, 2 * np.pi, 2)
    return Cosines(
        amplitudes=rng.uniform(0.4, 1.0, 2),
        waves=np.stack([length * _unit(rng) for length in lengths]),
        offsets=rng.uniform(0, 2 * np.pi, 2),
    )


def _random_field(rng: np.random.Generator, crystal: Polyhedron, phase_range: float) -> Field:
    return correlated_field(rng, float(np.exp(rng.uniform(np.log(0.25), np.log(1.0)))))


def _substrate(rng: np.random.Generator, crystal: Polyhedron, phase_range: float) -> Field:
    facet = int(np.argmin(crystal.distances)) if rng.random() < 0.7 else int(rng.integers(len(crystal.distances)))
    return Substrate(
        crystal.normals[facet], float(crystal.distances[facet]), rng.uniform(0.25, 1.0), rng.uniform(-0.7, 0.7)
    )


def _surface(rng: np.random.Generator, crystal: Polyhedron, phase_range: float) -> Field:
    return Surface(crystal, -_unit(rng), rng.uniform(0.05, 0.3))


def _screw(rng: np.random.Generator, crystal: Polyhedron, phase_range: float) -> Field:
    return Dislocation(_frame(rng), rng.uniform(-0.4, 0.4, 3), _windings(rng, phase_range))


def _edge(rng: np.random.Generator, crystal: Polyhedron, phase_range: float) -> Field:
    climb = rng.uniform(-1.0, 1.0) if rng.random() < 0.5 else 0.0
    return Dislocation(_frame(rng), rng.uniform(-0.4, 0.4, 3), _windings(rng, phase_range), 1.0, climb)


def _windings(rng: np.random.Generator, phase_range: float) -> int:
    turns = max(1, int(phase_range / (2 * np.pi)))
    return turns if rng.random() < 0.5 else -turns


def _mixed(rng: np.random.Generator, crystal: Polyhedron, phase_range: float) -> Field:
    kinds = [_gaussians, _cosines, _random_field, _substrate, _surface]
    first, second = rng.choice(len(kinds), 2, replace=False)
    return Sum(
        kinds[first](rng, crystal, phase_range), kinds[second](rng, crystal, phase_range), float(rng.uniform(0.2, 1))
    )


STRAINS: dict[str, Callable[[np.random.Generator, Polyhedron, float], Field]] = {
    "none": lambda rng, crystal, phase_range: Flat(),
    "gaussians": _gaussians,
    "cosines": _cosines,
    "random": _random_field,
    "substrate": _substrate,
    "surface": _surface,
    "mixed": _mixed,
    "screw": _screw,
    "edge": _edge,
}
DISLOCATIONS = ("screw", "edge")
