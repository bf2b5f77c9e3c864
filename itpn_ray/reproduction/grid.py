"""What a table of the paper is made of, as plain data: cells, the runs of each, and claims."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Step:
    """One run of a cell: a recipe, and what differs from it."""

    verb: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Path of a setting -> value, such as ``task.init_pyramid`` -> False."""
    data: str = ""
    """Option that names its data; empty: as its verb has it."""
    stand_in: str = ""
    """Recipe in the place of this one at the smaller scales, where it needs what they lack."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a table: each step starts from the weights of the one before."""

    row: str
    column: str
    steps: tuple[Step, ...]
    metric: str
    """What the last step measures, by its name in `itpn_ray.metrics`."""
    paper: float | None = None
    """The paper's value, fractions in [0, 1]; None where it has none in numbers."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the paper says of two cells of a column."""

    better: str
    """Row that is better."""
    worse: str
    """Row that it is compared with."""
    column: str


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table or figure."""

    title: str
    source: str
    """Where it stands in the paper."""
    held: str
    """What all cells have in common, in words."""
    cells: tuple[Cell, ...]
    claims: tuple[Claim, ...] = ()
    timed: bool = False
    """Whether the networks of the last steps are timed too."""
    curves: bool = False
    """Whether the metric is shown over the run."""
    attention: bool = False
    """Whether attention maps of the networks are drawn."""


def claims(column: str, *pairs: tuple[str, str]) -> tuple[Claim, ...]:
    """Claims of a column: (better row, worse row)."""
    return tuple(Claim(better=better, worse=worse, column=column) for better, worse in pairs)
