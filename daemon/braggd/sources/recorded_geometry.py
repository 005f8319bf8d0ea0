"""The geometry out of names, values and units, as files of many beamlines hold them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from braggd.crystal.geometry import DIFFRACTOMETERS
from braggd.data import Geometry

Quantity = tuple[NDArray[Any], str]

_KEV = {"kev": 1.0, "ev": 1e-3, "j": 1 / 1.602176634e-16, "mev": 1e3}
_ANGSTROM = {"a": 1.0, "å": 1.0, "angstrom": 1.0, "angstroms": 1.0, "nm": 10.0, "m": 1e10, "pm": 0.01}
_METRE = {"m": 1.0, "mm": 1e-3, "cm": 1e-2, "um": 1e-6, "µm": 1e-6, "μm": 1e-6, "micron": 1e-6, "nm": 1e-9}
_KEV_ANGSTROM = 12.398419843320026
_ENERGIES = ("incident_energy", "photon_energy", "mononrj", "nrj", "energy")
_WAVELENGTHS = ("incident_wavelength", "wavelength", "incident_wavelength_weighted")
_CIRCLES = {
    name for stack in DIFFRACTOMETERS.values() for circle in (*stack.sample, *stack.detector) for name in circle.names
}
MOTORS = frozenset(_CIRCLES | {"kappa", "kap", "keta", "kphi", "gam"})
QUANTITIES = frozenset(
    {*_ENERGIES, *_WAVELENGTHS, "distance", "detector_distance", "x_pixel_size", "y_pixel_size"} | MOTORS
)
# Below this many degrees of travel a motor stood still and only its encoder moved.
_STILL_DEG = 1e-5


def geometry_of(quantities: Mapping[str, Quantity], steps: int, hint: str = "", rocked: str = "") -> Geometry:
    """The geometry that a file tells.

    quantities: values and their unit, "" where it is not given, by their names in lower case; one value, or one per
        step, each
    hint: texts in which the beamline may be named
    rocked: name of the motor that the file says was rocked, "" where it does not say
    Values that cannot be, such as a distance of zero, count as unknown.
    """
    motors = {name: _degrees(value) for name, value in quantities.items() if name in MOTORS or name == rocked}
    moving = {
        name: values for name, values in motors.items() if values.size == steps > 1 and np.ptp(values) > _STILL_DEG
    }
    if rocked not in moving:
        rocked = max(moving, key=lambda name: float(np.ptp(moving[name])), default="")
    angles = {name: float(np.mean(values)) for name, values in motors.items() if name != rocked and values.size}
    pitch = tuple(_length(quantities, f"{axis}_pixel_size", small=True) for axis in "yx")
    return Geometry(
        diffractometer=_diffractometer(set(angles) | {rocked} - {""}, hint),
        energy_kev=_energy(quantities),
        distance_m=_length(quantities, "distance") or _length(quantities, "detector_distance"),
        pixel_size_m=(pitch[0], pitch[1]) if pitch[0] and pitch[1] else None,
        angles_deg=angles,
        rocking_motor=rocked,
        rocking_deg=tuple(map(float, moving[rocked])) if rocked else (),
    )


def _diffractometer(motors: set[str], hint: str) -> str:
    """The stack of motors, "" where it is not certain: a wrong one would give a wrong strain, and nobody would see it.

    The beamline's name decides where the file has it. Without any, the motors' names do, if they are those of one
    stack, all of them and no others.
    """
    if re.search(r"34.?id(.?c)?\b", hint, re.IGNORECASE):
        return "aps-34idc"
    if re.search(r"\bid.?01\b", hint, re.IGNORECASE):
        return "esrf-id01"
    if re.search(r"\b([pi]d?.?\d\d|\d\d.?id|\d\d.?bm)\b", hint, re.IGNORECASE):
        return ""
    fitting = []
    for name, stack in DIFFRACTOMETERS.items():
        circles = [set(circle.names) for circle in (*stack.sample, *stack.detector)]
        if all(circle & motors for circle in circles) and motors <= set().union(*circles):
            fitting.append(name)
    return fitting[0] if len(fitting) == 1 else ""


def _energy(quantities: Mapping[str, Quantity]) -> float | None:
    for name in _ENERGIES:
        value, unit = _single(quantities, name)
        if value is not None:
            # Without a unit: no diffraction is done with photons of less than 1 keV or more than 1000.
            return value * _KEV.get(unit, 1e-3 if value > 1000 else 1.0)
    for name in _WAVELENGTHS:
        value, unit = _single(quantities, name)
        if value is not None:
            return _KEV_ANGSTROM / (value * _ANGSTROM.get(unit, 1e10 if value < 1e-6 else 1.0))
    return None


def _length(quantities: Mapping[str, Quantity], name: str, *, small: bool = False) -> float | None:
    value, unit = _single(quantities, name)
    if value is None:
        return None
    # Without a unit: pixels are never as large as a millimetre, so that such a number is in micrometres.
    return value * _METRE.get(unit, 1e-6 if small and value > 1e-3 else 1.0)


def _single(quantities: Mapping[str, Quantity], name: str) -> tuple[float | None, str]:
    values, unit = quantities.get(name, (np.empty(0), ""))
    if not values.size:
        return None, ""
    value = abs(float(np.mean(values)))
    return (value if math.isfinite(value) and value > 0 else None), unit.strip().lower()


def _degrees(quantity: Quantity) -> NDArray[np.float64]:
    values, unit = quantity
    values = np.ravel(values).astype(np.float64)
    if not np.isfinite(values).all():
        return np.empty(0)
    return np.degrees(values) if unit.strip().lower() in ("rad", "radian", "radians") else values
