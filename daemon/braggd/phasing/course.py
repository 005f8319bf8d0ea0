"""How far a retrieval is, and whether to give it up."""

from __future__ import annotations

from collections.abc import Callable

from braggd.errors import PhasingError
from braggd.phasing.ensemble import Ensemble, Run
from braggd.phasing.pattern import Pattern
from braggd.phasing.recipe import Block, iterations

Progress = Callable[[float, str], None]
"""Told the share done, 0..1, and what is being done."""


class Course:
    """How far the work is, in voxels gone through; gives up when told to."""

    def __init__(self, progress: Progress | None, stop: Callable[[], bool] | None, total: float) -> None:
        self._progress, self._stop, self._total, self._done = progress, stop, total, 0.0
        self._share = 0.0

    def stretch(self, cost: float, recipe: tuple[Block, ...], doing: str) -> Callable[[int], None]:
        """What a run of that recipe and cost calls at each iteration."""
        before, steps = self._done, iterations(recipe)
        self._done += cost

        def check(done: int) -> None:
            if self._stop is not None and self._stop():
                raise PhasingError("the phasing was stopped before its end; reprocess the scan to begin anew")
            if self._progress is not None:
                # more may turn out to be left than was expected, but nothing is undone
                self._share = max(self._share, min(1.0, (before + cost * done / steps) / self._total))
                self._progress(self._share, doing)

        return check

    def skip_to_last(self, cost: float) -> None:
        """Only that much is left to do."""
        self._done = self._total - cost

    def start(self, ensemble: Ensemble) -> Run:
        """Do the next one."""
        doing, recipe = f"start {len(ensemble.runs) + 1} of {ensemble.total}", ensemble.recipe(len(ensemble.runs))
        return ensemble.start(self.stretch(cost(recipe, ensemble.pattern), recipe, doing))

    def until_settled(self, ensemble: Ensemble) -> None:
        """Do starts until two agree, or all are done; that they are to be done was not expected before."""
        self._total += sum(cost(ensemble.recipe(number), ensemble.pattern) for number in range(ensemble.total))
        while len(ensemble.runs) < ensemble.total and not ensemble.settled():
            self.start(ensemble)


def cost(recipe: tuple[Block, ...], pattern: Pattern) -> float:
    """How much a run of that recipe is, in voxels gone through."""
    return float(iterations(recipe) * pattern.target.size)
