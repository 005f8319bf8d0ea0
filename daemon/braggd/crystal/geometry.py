"""From detector pixels and rocking steps to reciprocal space, in the laboratory frame.

The laboratory frame is right-handed: z downstream along the beam, y up, x = y × z (to the left when one looks
downstream; "outboard" at most beamlines). Vectors are (x, y, z). Rotations follow the right-hand rule.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from braggd.data import Geometry
from braggd.errors import GeometryError

_HC_KEV_ANGSTROM = 12.398419843320026


@dataclass(frozen=True, slots=True, kw_only=True)
class Circle:
    """A motor that rotates.

    names: what the motor is called; the first is the usual one
    axis: direction in the laboratory frame with all motors at zero, as "x+" or "y-"
    """

    names: tuple[str, ...]
    axis: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffractometer:
    """A stack of motors, the outermost first.

    sample: circles that move the crystal
    detector: circles that move the detector arm, which lies along the beam at zero
    row, column: direction in which the detector's row and column numbers grow, with the arm at zero
    """

    sample: tuple[Circle, ...]
    detector: tuple[Circle, ...]
    row: str
    column: str


DIFFRACTOMETERS = {
    # APS 34-ID-C, as the beamline's own cohere describes it.
    "aps-34idc": Diffractometer(
        sample=(
            Circle(names=("theta", "th"), axis="y+"),
            Circle(names=("chi",), axis="z-"),
            Circle(names=("phi",), axis="y+"),
        ),
        detector=(Circle(names=("delta",), axis="y+"), Circle(names=("gamma",), axis="x-")),
        row="y-",
        column="x+",
    ),
    # ESRF ID01, as bcdi and cdiutils describe it.
    "esrf-id01": Diffractometer(
        sample=(
            Circle(names=("mu",), axis="y-"),
            Circle(names=("eta",), axis="x-"),
            Circle(names=("phi",), axis="y-"),
        ),
        detector=(Circle(names=("nu",), axis="y-"), Circle(names=("delta", "del"), axis="x-")),
        row="y-",
        column="x+",
    ),
    # Eulerian four circles in a vertical plane, as hkl's E4CV: Busing & Levy, Acta Cryst. 22, 457 (1967).
    "fourc": Diffractometer(
        sample=(
            Circle(names=("omega", "om"), axis="x-"),
            Circle(names=("chi",), axis="z+"),
            Circle(names=("phi",), axis="x-"),
        ),
        detector=(Circle(names=("tth", "two_theta"), axis="x-"),),
        row="y-",
        column="x+",
    ),
}


def missing(geometry: Geometry) -> tuple[str, ...]:
    """The fields that must be known before the object can be brought into the laboratory frame.

    Motors inside the rocked one do not matter and are not asked for. What is known but impossible, as a diffractometer
    or motor that does not exist, is not missing; it raises GeometryError later.
    """
    fields = ("diffractometer", "energy_kev", "distance_m", "pixel_size_m", "rocking_motor")
    names = [name for name in fields if getattr(geometry, name) in (None, "")]
    if len(geometry.rocking_deg) < 2:
        names.append("rocking_deg")
    stack = DIFFRACTOMETERS.get(geometry.diffractometer)
    if stack is not None:
        rocked = [n for n, circle in enumerate(stack.sample) if geometry.rocking_motor in circle.names]
        needed = stack.detector + stack.sample[: rocked[0] if rocked else 0]
        names += [f"angles_deg.{c.names[0]}" for c in needed if not set(c.names) & set(geometry.angles_deg)]
    return tuple(names)


def scattering_vector(geometry: Geometry) -> NDArray[np.float64]:
    """Scattering vector at the detector's centre, (x, y, z) float64, 1/Å.

    q = k_out - k_in; the detector's centre is where the arm points.
    Raises GeometryError where the geometry is incomplete or impossible.
    """
    wave_number = _known(geometry).wave_number
    beam = np.array([0.0, 0.0, 1.0])
    q: NDArray[np.float64] = wave_number * (_arm(geometry).apply(beam) - beam)
    return q


def reciprocal_basis(geometry: Geometry) -> NDArray[np.float64]:
    """Scattering vector per voxel step, float64 (3, 3), 1/Å: rows are (rocking step, row, column), columns (x, y, z).

    The crystal stands as in the middle of the scan. Turning it by dw about n leaves the detector's q where it is,
    but seen from the crystal q turns back: dq = -dw n × q. Along the detector dq = k pitch / distance, the Ewald
    sphere taken as flat over the crop.

    Raises GeometryError where the geometry is incomplete or impossible.
    """
    known = _known(geometry)
    stack = _diffractometer(geometry)
    outside = _rotation(_outside(stack, geometry.rocking_motor), geometry)
    rocking_axis = outside.apply(_direction(_rocked(stack, geometry.rocking_motor).axis))
    rocking = -np.deg2rad(_step_deg(geometry)) * np.cross(rocking_axis, scattering_vector(geometry))
    pixel = known.wave_number * np.asarray(known.pixel_size_m) / known.distance_m
    arm = _arm(geometry)
    basis = np.stack(
        [rocking, pixel[0] * arm.apply(_direction(stack.row)), pixel[1] * arm.apply(_direction(stack.column))]
    )
    if abs(np.linalg.det(basis)) < 1e-6 * np.prod(np.linalg.norm(basis, axis=1)):
        raise GeometryError(
            f"geometry: rocking {geometry.rocking_motor} at these angles does not scan a volume; check angles_deg"
        )
    return basis


def direct_basis(geometry: Geometry, shape: tuple[int, int, int]) -> NDArray[np.float64]:
    """Edges of a voxel of the object, float64 (3, 3), nm: rows are the array's axes, columns (x, y, z).

    shape: of the phased volume. From a_i · N_j q_j = 2 pi delta_ij, which is what numpy's FFT means by an index.

    Raises GeometryError where the geometry is incomplete or impossible.
    """
    extent = np.asarray(shape)[:, None] * reciprocal_basis(geometry) * 10.0
    return np.asarray(2 * np.pi * np.linalg.inv(extent).T, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """wave_number: 2 pi / wavelength, 1/Å."""

    wave_number: float
    distance_m: float
    pixel_size_m: tuple[float, float]


def _known(geometry: Geometry) -> _Known:
    """The numbers of a geometry that is complete and possible."""
    energy, distance, pixel = geometry.energy_kev, geometry.distance_m, geometry.pixel_size_m
    if geometry.diffractometer:
        _diffractometer(geometry)
    absent = missing(geometry)
    if absent or energy is None or distance is None or pixel is None:
        raise GeometryError(f"geometry: {', '.join(absent)} not known; give them in the scan file or under [geometry]")
    lengths = {"energy_kev": energy, "distance_m": distance, "pixel_size_m": float(np.min(pixel))}
    for name, value in lengths.items():
        if not (np.isfinite(value) and value > 0):
            raise GeometryError(f"geometry.{name} is {getattr(geometry, name)}; give a positive number")
    for name, value in geometry.angles_deg.items():
        if not np.isfinite(value):
            raise GeometryError(f"geometry.angles_deg.{name} is {value}; give an angle in degrees")
    if np.allclose(_arm(geometry).apply([0.0, 0.0, 1.0]), [0.0, 0.0, 1.0], atol=1e-6):
        raise GeometryError("geometry.angles_deg puts the detector into the direct beam; give the detector's angles")
    return _Known(wave_number=2 * np.pi * energy / _HC_KEV_ANGSTROM, distance_m=distance, pixel_size_m=pixel)


def _diffractometer(geometry: Geometry) -> Diffractometer:
    try:
        return DIFFRACTOMETERS[geometry.diffractometer]
    except KeyError:
        known = ", ".join(DIFFRACTOMETERS)
        raise GeometryError(
            f"geometry.diffractometer {geometry.diffractometer!r} is not known; choose one of {known}"
        ) from None


def _rocked(stack: Diffractometer, motor: str) -> Circle:
    for circle in stack.sample:
        if motor in circle.names:
            return circle
    known = ", ".join(circle.names[0] for circle in stack.sample)
    raise GeometryError(f"geometry.rocking_motor {motor!r} does not turn the crystal; choose one of {known}")


def _outside(stack: Diffractometer, motor: str) -> tuple[Circle, ...]:
    """The sample circles that carry the rocked one."""
    return stack.sample[: stack.sample.index(_rocked(stack, motor))]


def _rotation(circles: tuple[Circle, ...], geometry: Geometry) -> Rotation:
    rotation = Rotation.identity()
    for circle in circles:
        angle = next(geometry.angles_deg[name] for name in circle.names if name in geometry.angles_deg)
        rotation = rotation * Rotation.from_rotvec(np.deg2rad(angle) * _direction(circle.axis))
    return rotation


def _arm(geometry: Geometry) -> Rotation:
    return _rotation(_diffractometer(geometry).detector, geometry)


def _step_deg(geometry: Geometry) -> float:
    """Rocking step from a straight line through all positions; encoders jitter, so single steps are not compared."""
    positions = np.asarray(geometry.rocking_deg, np.float64)
    if not np.isfinite(positions).all():
        raise GeometryError("geometry.rocking_deg holds a value that is not a number; give the motor's positions")
    steps = np.arange(positions.size)
    slope, offset = np.polyfit(steps, positions, 1)
    if abs(slope) < 1e-9:
        raise GeometryError(
            f"geometry.rocking_deg stays at {positions[0]:g} degrees; give the rocked motor's positions"
        )
    if np.abs(positions - offset - slope * steps).max() > max(1.0, 0.02 * positions.size) * abs(slope):
        raise GeometryError("geometry.rocking_deg is not evenly spaced; rock in equal steps")
    return float(slope)


def _direction(axis: str) -> NDArray[np.float64]:
    sign = {"+": 1.0, "-": -1.0}[axis[1]]
    return np.asarray(sign * np.eye(3)["xyz".index(axis[0])], np.float64)
