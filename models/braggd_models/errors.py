"""Errors of the models' side; they join the one tree of `braggd.errors`."""

from braggd.errors import BraggdError


class SimulationError(BraggdError):
    """A crystal, a pattern or a mask that cannot exist was asked for."""


class TrainingError(BraggdError):
    """A network cannot be trained, exported or scored as it was asked for."""
