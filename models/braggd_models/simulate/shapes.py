"""Faceted crystals: convex polyhedra as intersections of half-spaces, and their voxels.

Vectors are (z, y, x). The unit of length is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linprog
from scipy.spatial import ConvexHull, HalfspaceIntersection, QhullError
from scipy.spatial.transform import Rotation

from braggd_models.errors import SimulationError

Floats = NDArray[np.float64]
Miller = tuple[int, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Polyhedron:
    """All points x with normals @ x <= distances.

    normals: (facet, 3) float64, of unit length, outwards
    distances: (facet,) float64, from the origin; negative where the origin is outside
    """

    normals: Floats
    distances: Floats

    def inside(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Which points lie within; points: (..., 3)."""
        return np.asarray((np.asarray(points, np.float64) @ self.normals.T <= self.distances).all(axis=-1))

    def depth(self, points: ArrayLike) -> Floats:
        """Distance to the plane of the nearest facet, negative outside; points: (..., 3)."""
        return np.asarray((self.distances - np.asarray(points, np.float64) @ self.normals.T).min(axis=-1))

    def corners(self) -> Floats:
        """Its vertices, (n, 3).

        Raises SimulationError where it is empty or unbounded.
        """
        return np.asarray(self._meeting().intersections, np.float64)

    def extent(self) -> tuple[Floats, Floats]:
        """Lowest and highest coordinate per axis."""
        corners = self.corners()
        return corners.min(axis=0), corners.max(axis=0)

    def bounding_radius(self) -> float:
        """Distance of the farthest vertex from the origin."""
        return float(np.linalg.norm(self.corners(), axis=1).max())

    def volume(self) -> float:
        """Its volume."""
        return float(ConvexHull(self.corners()).volume)

    def centroid(self) -> Floats:
        """Its centre of mass."""
        corners = self.corners()
        hull = ConvexHull(corners)
        apex = corners.mean(axis=0)
        triangles = corners[hull.simplices]
        weights = np.abs(np.linalg.det(triangles - apex))
        return np.asarray(weights @ (triangles.sum(axis=1) + apex) / (4 * weights.sum()), np.float64)

    def transformed(self, matrix: ArrayLike) -> Polyhedron:
        """Every point x moved to matrix @ x; matrix: (3, 3), invertible."""
        normals = self.normals @ np.linalg.inv(np.asarray(matrix, np.float64))
        lengths = np.linalg.norm(normals, axis=1)
        return Polyhedron(normals / lengths[:, None], self.distances / lengths)

    def rotated(self, rotation: Rotation) -> Polyhedron:
        """Turned about the origin; scipy's rotation acts on (x, y, z)."""
        return self.transformed(rotation.as_matrix()[::-1, ::-1])

    def scaled(self, factors: ArrayLike) -> Polyhedron:
        """Stretched by one factor, or one for each axis."""
        return self.transformed(np.diag(np.broadcast_to(np.asarray(factors, np.float64), 3)))

    def shifted(self, by: ArrayLike) -> Polyhedron:
        """Moved by a vector."""
        return Polyhedron(self.normals, self.distances + self.normals @ np.asarray(by, np.float64))

    def centred(self) -> Polyhedron:
        """Moved so that its centre of mass is the origin."""
        return self.shifted(-self.centroid())

    def cut(self, normal: ArrayLike, distance: float) -> Polyhedron:
        """What is left after one more half-space, as a substrate makes it."""
        direction = np.asarray(normal, np.float64)
        direction = direction / np.linalg.norm(direction)
        return Polyhedron(np.vstack([self.normals, direction]), np.append(self.distances, distance))

    def reduced(self) -> Polyhedron:
        """The same without half-spaces that touch nothing.

        Raises SimulationError where it is empty or unbounded.
        """
        used = np.unique(np.concatenate([np.asarray(facet) for facet in self._meeting().dual_facets]))
        return Polyhedron(self.normals[used], self.distances[used])

    def _meeting(self) -> HalfspaceIntersection:
        spaces = np.column_stack([self.normals, -self.distances])
        try:
            meeting = HalfspaceIntersection(spaces, self._interior())
        except QhullError:
            meeting = None
        if meeting is None or not np.isfinite(meeting.intersections).all():
            raise SimulationError("these facets do not close around a crystal; add normals or change distances")
        return meeting

    def _interior(self) -> Floats:
        if (self.distances > 1e-6 * np.abs(self.distances).max()).all():
            return np.zeros(3)
        # the middle of the largest sphere that fits
        found = linprog(
            [0, 0, 0, -1],
            A_ub=np.column_stack([self.normals, np.ones(len(self.normals))]),
            b_ub=self.distances,
            bounds=[(None, None)] * 3 + [(0, None)],
        )
        if found.x is None or found.x[3] <= 0:
            raise SimulationError("these facets enclose nothing, or do not close; change their distances")
        return np.asarray(found.x[:3], np.float64)


def family(indices: Miller) -> Floats:
    """Unit normals of all facets equivalent to {hkl} in a cubic crystal, (n, 3)."""
    signed = {
        tuple(s * i for s, i in zip(signs, order, strict=True))
        for order in permutations(indices)
        for signs in product((1, -1), repeat=3)
    }
    normals = np.array(sorted(signed), np.float64)
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    if not lengths.all():
        raise SimulationError(f"facet {indices} has no direction; give Miller indices other than 0 0 0")
    return np.asarray(normals / lengths, np.float64)


def wulff(energies: Mapping[Miller, float]) -> Polyhedron:
    """Equilibrium shape of a free crystal: every facet at a distance proportional to its surface energy.

    energies: by facet family, in any unit; {(1, 1, 1): 1.0, (1, 0, 0): 1.15}. The largest distance is 1.

    Wulff, Z. Kristallogr. 34, 449 (1901)
    """
    if not energies or min(energies.values()) <= 0:
        raise SimulationError("surface energies must be positive; give one at least")
    normals = [family(indices) for indices in energies]
    distances = np.repeat(list(energies.values()), [len(n) for n in normals])
    return Polyhedron(np.vstack(normals), distances / distances.max()).reduced()


def winterbottom(energies: Mapping[Miller, float], facet: ArrayLike = (1, 1, 1), interface: float = 0.0) -> Polyhedron:
    """Equilibrium shape on a substrate: the Wulff shape, cut parallel to a facet.

    facet: normal that points into the substrate, (z, y, x)
    interface: (energy of the interface - energy of the substrate) in units of the highest facet's energy; 0 cuts
        through the middle, negative wets more, positive less

    Winterbottom, Acta Metall. 15, 303 (1967), doi:10.1016/0001-6160(67)90206-4
    """
    return wulff(energies).cut(facet, interface).reduced()


def cube() -> Polyhedron:
    """{100}; edges of length 2."""
    return wulff({(1, 0, 0): 1.0})


def octahedron() -> Polyhedron:
    """{111}; facets at distance 1."""
    return wulff({(1, 1, 1): 1.0})


def tetrahexahedron(indices: Miller = (2, 1, 0)) -> Polyhedron:
    """{hk0}: 24 facets at distance 1."""
    return wulff({indices: 1.0})


def random_convex(rng: np.random.Generator, facets: int = 20, spread: float = 0.35) -> Polyhedron:
    """A convex crystal with random facets at distances from 1 - spread to 1 + spread; no symmetry.

    Raises SimulationError where so few facets do not close.
    """
    for _ in range(200):
        normals = rng.normal(size=(facets, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        candidate = Polyhedron(normals, 1 + spread * rng.uniform(-1, 1, facets))
        try:
            radius = candidate.bounding_radius()
        except SimulationError:
            continue
        # without needles, whose body would be a few voxels wide
        if radius < 2.5:
            return candidate.reduced()
    raise SimulationError(f"{facets} random facets do not close around a crystal; ask for 10 or more")


def irregular(crystal: Polyhedron, rng: np.random.Generator, amount: float) -> Polyhedron:
    """The same facets at distances changed by up to that fraction, as crystals really grow."""
    return Polyhedron(crystal.normals, crystal.distances * (1 + amount * rng.uniform(-1, 1, len(crystal.distances))))


def random_shape(kind: str, rng: np.random.Generator) -> Polyhedron:
    """A crystal of that kind (`SHAPES`), its free parameters drawn; not turned.

    Raises SimulationError where the kind is unknown.
    """
    if kind not in SHAPES:
        raise SimulationError(f"shape {kind!r} is unknown; choose one of {', '.join(SHAPES)}")
    return SHAPES[kind](rng)


def _random_energies(rng: np.random.Generator) -> dict[Miller, float]:
    energies = {(1, 1, 1): 1.0, (1, 0, 0): rng.uniform(0.85, 1.5)}
    if rng.random() < 0.5:
        energies[1, 1, 0] = rng.uniform(0.95, 1.3)
    if rng.random() < 0.5:
        h, k, m = np.sort(rng.integers(0, 4, 3))[::-1]
        if len({h, k, m}) > 1:
            energies[int(h) + 1, int(k), int(m)] = rng.uniform(0.95, 1.25)
    return energies


def _random_winterbottom(rng: np.random.Generator) -> Polyhedron:
    facet = [(1, 1, 1), (1, 0, 0), (1, 1, 0)][rng.choice(3, p=[0.6, 0.3, 0.1])]
    return winterbottom(_random_energies(rng), facet, rng.uniform(-0.4, 0.6))


SHAPES: dict[str, Callable[[np.random.Generator], Polyhedron]] = {
    "wulff": lambda rng: wulff(_random_energies(rng)),
    "winterbottom": _random_winterbottom,
    "cube": lambda rng: cube(),
    "octahedron": lambda rng: octahedron(),
    "tetrahexahedron": lambda rng: tetrahexahedron([(2, 1, 0), (3, 1, 0), (3, 2, 0), (4, 1, 0)][rng.integers(4)]),
    "random": lambda rng: random_convex(rng, int(rng.integers(10, 40))),
}


def voxelise(crystal: Polyhedron, axes: Sequence[ArrayLike], supersample: int = 0) -> NDArray[np.float32]:
    """How much of each voxel the crystal fills.

    axes: evenly spaced coordinates of the voxels' middles along z, y, x
    supersample: at the surface count that many points per axis and voxel; 0 takes the distances of the two nearest
        facets, which is exact where these are parallel to the voxels
    Returns (z, y, x) float32 from 0 to 1.
    """
    lines = [np.asarray(axis, np.float32) for axis in axes]
    steps = np.array([float(a[-1] - a[0]) / (len(a) - 1) if len(a) > 1 else 1.0 for a in lines])
    # a facet's share of a voxel runs over a width with the variance of the voxel's projection on its normal
    widths = np.linalg.norm(crystal.normals * steps, axis=1)
    outside = np.full(tuple(len(a) for a in lines), -np.inf, np.float32)
    beyond = np.empty_like(outside)
    for normal, distance in zip(crystal.normals / widths[:, None], crystal.distances / widths, strict=True):
        z, y, x = (np.float32(n) * a for n, a in zip(normal, lines, strict=True))
        np.add((z - np.float32(distance))[:, None, None] + y[:, None], x, out=beyond)
        np.maximum(outside, beyond, out=outside)
    share: NDArray[np.float32] = np.clip(0.5 - outside, 0, 1)
    # a voxel's corner may be inside while its middle is farther out than the width above
    reach = 1.0 if supersample > 1 else 0.5
    surface = np.nonzero((outside > -reach) & (outside < reach))
    middles = np.stack([line[index] for line, index in zip(lines, surface, strict=True)], axis=-1).astype(np.float64)
    if supersample > 1:
        share[surface] = _counted(crystal, middles, steps, supersample)
    elif len(crystal.normals) > 1:
        share[surface] = _shared(crystal, middles, widths)
    return share


def _shared(crystal: Polyhedron, middles: Floats, widths: Floats) -> Floats:
    """What two facets leave of a voxel that both may cut."""
    outside = (middles @ crystal.normals.T - crystal.distances) / widths
    nearest = np.argpartition(outside, -2, axis=1)[:, -2:]
    shares = np.clip(0.5 - np.take_along_axis(outside, nearest, axis=1), 0, 1)
    least, both = shares.min(axis=1), shares.prod(axis=1)
    cosine = np.einsum("ij,ij->i", crystal.normals[nearest[:, 0]], crystal.normals[nearest[:, 1]])
    # facets of one direction cut the same part, of opposite ones different parts, and at right angles by chance
    extreme = np.where(cosine > 0, least, np.maximum(shares.sum(axis=1) - 1, 0))
    return np.asarray(both + np.abs(cosine) * (extreme - both), np.float64)


def _counted(crystal: Polyhedron, middles: Floats, steps: Floats, fine: int) -> Floats:
    offsets = ((np.arange(fine) + 0.5) / fine - 0.5)[:, None] * steps
    count = np.zeros(len(middles))
    for z, y, x in product(range(fine), repeat=3):
        count += crystal.inside(middles + np.array([offsets[z, 0], offsets[y, 1], offsets[x, 2]]))
    return count / fine**3
