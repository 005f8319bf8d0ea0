"""Every error that braggd raises on purpose.

BraggdError
├── ConfigError            a configuration file or option is wrong
├── SourceError            an endpoint or file cannot be read
│   ├── ScanFileError      a scan file is missing, or holds something else
│   └── StreamError        a message that breaks its protocol
│       └── CorruptFrame   a frame whose pixels cannot be decoded
├── DetectorError          an unknown detector, or frames of another shape
├── RegionError            no Bragg peak can be found, or a region is outside the frame
├── GeometryError          the geometry is incomplete or impossible
├── FramingError           a pattern shows no crystal whose size could be told
├── ModelError             a network file is missing, corrupt or does not fit
├── PhasingError           a reconstruction cannot start, or went astray
├── OutletError            an endpoint, folder or device cannot be served
└── ClientError            a running braggd cannot be reached, or has no such result

The message is one sentence that names the file, field or endpoint and the next step.
"""


class BraggdError(Exception):
    """Base of all errors that braggd raises on purpose."""


class ConfigError(BraggdError):
    """A configuration file or option is wrong."""


class SourceError(BraggdError):
    """An endpoint or file cannot be read."""


class ScanFileError(SourceError):
    """A scan file is missing, or holds something else."""


class StreamError(SourceError):
    """A message breaks its protocol."""


class CorruptFrame(StreamError):  # noqa: N818 - a frame is what it is about
    """The pixels of a frame cannot be decoded."""


class DetectorError(BraggdError):
    """An unknown detector, or frames of another shape than the detector's."""


class RegionError(BraggdError):
    """No Bragg peak can be found, or a region lies outside the frame."""


class GeometryError(BraggdError):
    """The geometry is incomplete or impossible."""


class FramingError(BraggdError):
    """A pattern shows no crystal whose size could be told."""


class ModelError(BraggdError):
    """A network file is missing, corrupt or does not fit."""


class PhasingError(BraggdError):
    """A reconstruction cannot start, or went astray."""


class OutletError(BraggdError):
    """An endpoint, folder or device cannot be served."""


class ClientError(BraggdError):
    """A running braggd cannot be reached, or has no such result."""
