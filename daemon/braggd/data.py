"""What flows through braggd: series events, scans, reconstructions and the results that clients get.

Axis order is (rocking step, detector row, detector column), written (z, y, x) for objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray


class Stage(StrEnum):
    """How far a scan has come; later stages replace earlier ones."""

    LIVE = "live"
    DL = "dl"
    REFINED = "refined"
    FINAL = "final"


class Outcome(StrEnum):
    """What became of a received frame."""

    USED = "used"
    LOST = "lost"
    CORRUPT = "corrupt"
    DUPLICATE = "duplicate"
    STRAY = "stray"
    DROPPED = "dropped"


class Geometry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of the measurement's geometry; each field may be unknown, and then is None or empty.

    diffractometer: name of the motor stack, as `braggd.crystal.geometry` knows it ("aps-34idc", "esrf-id01")
    energy_kev: photon energy, keV
    distance_m: from the crystal to the detector, m
    pixel_size_m: (row, column) pitch, m
    angles_deg: motor positions by motor name, degrees
    rocking_motor: name of the motor that was rocked
    rocking_deg: its position at each step, degrees
    """

    diffractometer: str = ""
    energy_kev: float | None = None
    distance_m: float | None = None
    pixel_size_m: tuple[float, float] | None = None
    angles_deg: dict[str, float] = {}
    rocking_motor: str = ""
    rocking_deg: tuple[float, ...] = ()

    def completed_by(self, other: Geometry) -> Geometry:
        """This geometry, with what it leaves unknown taken from another."""
        known = {
            name: value for name in self.__struct_fields__ if (value := getattr(self, name)) not in (None, "", (), {})
        }
        return msgspec.structs.replace(other, **known | {"angles_deg": {**other.angles_deg, **self.angles_deg}})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class SeriesStart:
    """A detector was armed, or a rocking scan begins.

    series: the detector's own number of the series
    frames_expected: how many frames will come, None where the header does not say
    shape: (rows, columns) of a frame, None where unknown
    pixel_mask: (row, column) uint32, 0 where a pixel is good, None where unknown
    saturation: counts from which a pixel is saturated, None where unknown
    warnings: what of the header could not be used, and which threshold is taken where there are several
    """

    series: str
    frames_expected: int | None = None
    shape: tuple[int, int] | None = None
    pixel_mask: NDArray[np.uint32] | None = None
    saturation: float | None = None
    detector: str = ""
    geometry: Geometry = field(default_factory=Geometry)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Frame:
    """One detector frame as it came, still compressed.

    index: 0-based rocking step
    shape: (rows, columns)
    dtype: of a pixel, with its byte order
    encoding: as `braggd.compression` names it
    payload: the compressed bytes
    """

    series: str
    index: int
    shape: tuple[int, int]
    dtype: np.dtype[np.generic]
    encoding: str
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesEnd:
    """The detector says that a series is over."""

    series: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrupt:
    """A message that could not be understood.

    series, index: as far as they could be read
    reason: a sentence
    """

    reason: str
    series: str | None = None
    index: int | None = None


Event = SeriesStart | Frame | SeriesEnd | Corrupt


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What became of every frame of a scan.

    received = used + corrupt + duplicate + stray + dropped; expected = used + lost
    expected: None until a header or the end of the series tells
    """

    expected: int | None = None
    used: int = 0
    lost: int = 0
    corrupt: int = 0
    duplicate: int = 0
    stray: int = 0
    dropped: int = 0

    @property
    def received(self) -> int:
        """All frames that arrived while the scan was open."""
        return self.used + self.corrupt + self.duplicate + self.stray + self.dropped


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scan:
    """One rocking scan, assembled.

    counts: (step, row, column) float32, photons; undefined where not valid
    valid: (step, row, column) bool, True where the detector measured
    origin: (step, row, column) of counts[0, 0, 0] within the raw scan
    """

    scan_id: str
    counts: NDArray[np.float32]
    valid: NDArray[np.bool_]
    geometry: Geometry = field(default_factory=Geometry)
    origin: tuple[int, int, int] = (0, 0, 0)
    ledger: Ledger = field(default_factory=Ledger)
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Crystal:
    """The object in the laboratory frame, on a cubic grid.

    modulus: (z, y, x) float32, largest value 1
    phase: rad, 0 outside the support
    displacement: Å, along the scattering vector
    strain: dimensionless, along the scattering vector
    support: bool
    voxel_size_nm: edge of a voxel
    q_centre: (x, y, z) scattering vector in the laboratory frame, 1/Å
    """

    modulus: NDArray[np.float32]
    phase: NDArray[np.float32]
    displacement: NDArray[np.float32]
    strain: NDArray[np.float32]
    support: NDArray[np.bool_]
    voxel_size_nm: float
    q_centre: tuple[float, float, float]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Reconstruction:
    """A scan's object at one stage, with all that an archive needs.

    counts: (z, y, x) float32, photons as phased (cropped scan, masked voxels undefined)
    valid: bool, True where measured
    inpainted: float32, counts with the masked voxels filled
    region: ((start, stop) per axis) of that crop within the raw scan
    density: complex64 object, crystal near the array centre; its FFT is the measured wave
    support: bool
    crystal: the object in the laboratory frame, None where the geometry is not known
    metrics: what the ranking measured, by name
    timing: seconds by step
    provenance: configuration, versions, model hashes
    degraded: what did not work as configured and was done in another way, by name
    """

    scan_id: str
    stage: Stage
    counts: NDArray[np.float32]
    valid: NDArray[np.bool_]
    inpainted: NDArray[np.float32]
    region: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    density: NDArray[np.complex64]
    support: NDArray[np.bool_]
    geometry: Geometry
    crystal: Crystal | None
    metrics: Mapping[str, float]
    warnings: tuple[str, ...]
    timing: Mapping[str, float]
    provenance: Mapping[str, object]
    degraded: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class NamedArray:
    """An array as it goes over the wire.

    axes: one name per dimension
    unit: "" where the values have none
    """

    name: str
    data: NDArray[np.generic]
    axes: tuple[str, ...]
    unit: str = ""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Result:
    """What clients get of one stage of a scan."""

    scan_id: str
    stage: Stage
    arrays: tuple[NamedArray, ...]
    metrics: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    geometry: Geometry = field(default_factory=Geometry)
    timing: Mapping[str, float] = field(default_factory=dict)

    def array(self, name: str) -> NDArray[np.generic]:
        """The array of that name.

        Raises KeyError where there is none.
        """
        for candidate in self.arrays:
            if candidate.name == name:
                return candidate.data
        raise KeyError(name)


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What the daemon is doing now; published under the topic `status` and served at `/api/status`.

    state: "INIT", "ON" (idle), "RUNNING", "ALARM" (degraded), "FAULT", "OFF" (stopped by command)
    latency_s: from the last frame of the newest reconstructed scan to its newest stage
    degraded: reasons, by name
    """

    state: str = "INIT"
    scan_id: str = ""
    stage: str = ""
    frames_received: int = 0
    frames_expected: int = 0
    frames_lost: int = 0
    progress: float = 0.0
    queue_depth: int = 0
    latency_s: float = float("nan")
    provider: str = ""
    activity: str = ""
    degraded: dict[str, str] = {}
