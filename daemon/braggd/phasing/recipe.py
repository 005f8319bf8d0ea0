"""Recipes: algorithms in their order, written as `400*HIO + 300*RAAR + 100*ER`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from braggd.errors import PhasingError
from braggd.phasing.projections import ALGORITHMS

DETWIN = "DETWIN"
"""ER within one half of the support, which only one of two superposed twins survives."""

ONE_RUN = "400*HIO + 1000*RAAR + 300*ER"
"""One run from random phases, as in M. Masto's PhD thesis, Univ. Grenoble Alpes, chapter 4."""

NAMES: tuple[str, ...] = (*ALGORITHMS, DETWIN)
"""What a recipe may name."""

_TERM = re.compile(r"(?:(?P<count>\d+)\s*\*\s*)?(?P<name>[A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Block:
    """Iterations of one algorithm.

    algorithm: one of NAMES
    """

    count: int
    algorithm: str


def parse(recipe: str) -> tuple[Block, ...]:
    """Read a recipe; `ER` alone is one iteration, case does not matter.

    Raises PhasingError, which names the part that is wrong.
    """
    if not recipe.strip():
        raise PhasingError("the recipe is empty; write one like 400*HIO + 300*RAAR + 100*ER")
    return tuple(_block(part.strip(), recipe) for part in recipe.split("+"))


def iterations(blocks: tuple[Block, ...]) -> int:
    """How many iterations a recipe has."""
    return sum(block.count for block in blocks)


def _block(part: str, recipe: str) -> Block:
    found = _TERM.fullmatch(part)
    if found is None:
        raise PhasingError(f"the recipe '{recipe}' has '{part}', which is not of the form 400*HIO; correct it")
    name = found["name"].upper()
    if name not in NAMES:
        raise PhasingError(f"the recipe '{recipe}' names '{found['name']}'; the algorithms are {', '.join(NAMES)}")
    count = int(found["count"] or 1)
    if count < 1:
        raise PhasingError(f"the recipe '{recipe}' has '{part}'; an algorithm runs at least once, leave it out instead")
    return Block(count, name)
