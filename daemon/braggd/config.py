"""The configuration: a TOML file read into frozen structs, every field with a default that works.

The embedded default listens for a SIMPLON stream on the loopback interface and serves everything there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from braggd.data import Geometry
from braggd.errors import ConfigError

Positive = Annotated[int, msgspec.Meta(ge=1)]
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Seconds = Annotated[float, msgspec.Meta(gt=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the configuration file."""


class SourceConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where frames come from.

    endpoint: ZMQ endpoint of the detector's stream, or of the proxy that re-publishes it
    pattern: how to connect: "pull" takes frames from the detector, "sub" listens beside others
    queue_frames: how many messages may wait in ZMQ before the sender is held back (pull) or frames are lost (sub)
    idle_timeout_s: a series whose end message does not come is closed after this long without a frame
    """

    endpoint: str = "tcp://127.0.0.1:9999"
    pattern: Literal["pull", "sub"] = "pull"
    queue_frames: Positive = 256
    idle_timeout_s: Seconds = 10.0


class DetectorConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The detector's own faults.

    name: as `braggd.scan.detector` knows it; empty: told by the stream, or by the frame's shape
    mask: file with an extra mask (.npy, .npz or HDF5 `FILE::DATASET`), non-zero where a pixel is bad
    flatfield: file of the same kinds with what each pixel shows of an even field: counts are divided by it, relative
        to its median, and pixels that show less than a tenth of that are masked; empty: the detector has done it
    saturation: counts from which a pixel is saturated; 0: told by the stream or the detector
    """

    name: str = ""
    mask: str = ""
    flatfield: str = ""
    saturation: Annotated[float, msgspec.Meta(ge=0)] = 0.0


class ScanConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How frames become a scan.

    peak: (row, column) of the Bragg peak on the detector; empty: found
    window: (rows, columns) kept around the peak
    name: pattern for the names of scans; {series}, {date} and {time} are filled in
    """

    peak: tuple[int, int] | None = None
    window: tuple[Positive, Positive] = (256, 256)
    name: str = "{date}-{time}-{series}"


class InferenceConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How networks run.

    providers: OpenVINO and the execution providers of ONNX Runtime, in order of preference; auto: CUDA where there is a
        GPU and an ONNX Runtime that can use it, else OpenVINO where it is installed, else ONNX Runtime's own for the
        CPU. One that is named and cannot be had is a degradation.
    engine_cache: folder for TensorRT engines; empty: the user's cache folder
    inpaint_model: ONNX file that fills gaps; auto: the one that comes with braggd; empty: interpolation
    phase_model: ONNX file that predicts the object; auto: the one that comes with braggd; empty: no `dl` stage
    """

    providers: tuple[Literal["auto", "tensorrt", "cuda", "openvino", "cpu"], ...] = ("auto",)
    engine_cache: str = ""
    inpaint_model: str = "auto"
    phase_model: str = "auto"


class PhasingConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The recipe of the iterative phasing.

    shape: largest (step, row, column) volume that is phased, cropped about the peak
    recipe: algorithms of each random start in order, as `1000*HIO + 400*RAAR + 300*ER`
    quick: algorithms of starts at low resolution that come before: on the middle of the pattern, sampled as coarsely as
        the crystal allows; the best of up to sixteen begins the first start; empty: none
    seeded: algorithms of a start that is so begun
    refine: algorithms that follow for the best start, on the whole pattern
    prolong: algorithms that go on with the refined object while it does not explain the pattern yet; empty: none
    coherence: the pattern is blurred by partial coherence; the blur is fitted
    free_fraction: share of the measured voxels that no fit sees: the runs are ranked by them; 0: none
    inpainted_weight: 0..1, how much inpainted voxels in faint parts of the pattern count against the object's own; 0:
        only in the first iterations
    phase_limit: rad, largest phase beside the object's mean; 0 makes it positive, none leaves it free
    one_piece: only the largest piece of the support is kept at the end
    starts: random starts at most; `refined` needs no more than two that agree, `final` does all
    final: merge the starts that agree into a last stage
    seed: of the random starts; the same seed gives the same result, but for rounding
    support_threshold: of the smoothed modulus, at first, after 70 % of the iterations and at last
    uniformity: how far the starts draw the modulus of the object's solid part to its root mean square at first,
        falling to 0; 0: for objects that are not about as dense everywhere
    support_relative: what the threshold is a share of: rms within the support, or max
    support_border: only voxels that near to the border may change in the refinement; 0: all
    support_every: iterations between two support updates
    threads: 0: all cores
    device: where the iterations run: on an NVIDIA GPU ("cuda"), on the CPU, or auto: on a GPU where there is one
    """

    shape: tuple[Positive, Positive, Positive] = (128, 128, 128)
    recipe: str = "1000*HIO + 400*RAAR + 300*ER"
    quick: str = "600*HIO + 200*RAAR + 100*ER"
    seeded: str = "200*HIO + 300*RAAR + 200*ER"
    refine: str = "200*RAAR + 200*ER"
    prolong: str = "800*RAAR + 200*ER"
    coherence: bool = True
    free_fraction: Annotated[float, msgspec.Meta(ge=0, le=0.2)] = 0.05
    inpainted_weight: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    phase_limit: Annotated[float, msgspec.Meta(ge=0)] | None = None
    one_piece: bool = True
    starts: Positive = 5
    final: bool = True
    seed: int = 1
    support_threshold: tuple[Share, Share, Share] = (0.2, 0.18, 0.18)
    uniformity: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.6
    support_relative: Literal["rms", "max"] = "rms"
    support_border: Annotated[int, msgspec.Meta(ge=0)] = 0
    support_every: Positive = 20
    threads: Annotated[int, msgspec.Meta(ge=0)] = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"


class ResultsConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ZMQ results.

    publish: PUB endpoint; every stage of every scan as it comes
    requests: ROUTER endpoint; the last result of every stage for those who come late, and commands
    """

    publish: str = "tcp://127.0.0.1:5556"
    requests: str = "tcp://127.0.0.1:5557"


class ArchiveConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Files left behind.

    folder: where `{scan_id}.cxi` is written; empty: nowhere
    picture: also write `{scan_id}.png`
    raw: also keep the frames as they came, in `{scan_id}.raw.h5`
    """

    folder: str = "archive"
    picture: bool = True
    raw: bool = False


class HttpConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Metrics and health over HTTP; port 0 turns it off."""

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8080


class TangoConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The Tango device.

    device: its name, or "off"
    port: where it listens when no Tango database is configured (TANGO_HOST unset)
    """

    device: str = "braggd/daemon/1"
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 45450


class ServiceConfig(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process itself.

    spool: folder where the stream is kept until its scan is reconstructed; empty: `spool` beside the archive
    spool_limit_gb: oldest finished scans go first beyond this
    keep_finished: finished scans kept in the spool for `Reprocess`
    """

    spool: str = ""
    spool_limit_gb: Annotated[float, msgspec.Meta(gt=0)] = 20.0
    keep_finished: Annotated[int, msgspec.Meta(ge=0)] = 3


class Config(Section, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole configuration."""

    source: SourceConfig = SourceConfig()
    detector: DetectorConfig = DetectorConfig()
    scan: ScanConfig = ScanConfig()
    geometry: Geometry = Geometry()
    inference: InferenceConfig = InferenceConfig()
    phasing: PhasingConfig = PhasingConfig()
    results: ResultsConfig = ResultsConfig()
    archive: ArchiveConfig = ArchiveConfig()
    http: HttpConfig = HttpConfig()
    tango: TangoConfig = TangoConfig()
    service: ServiceConfig = ServiceConfig()


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises ConfigError, with the file and the field in its message.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name a TOML file, or leave it out") from error
    try:
        return msgspec.toml.decode(text, type=Config)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
