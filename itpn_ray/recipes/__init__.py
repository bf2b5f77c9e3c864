"""Named starting points: each a function that returns a configuration.

A recipe's docstring gives its command, hardware-hours, expected metric and the paper's table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from itpn_ray import checks

T = TypeVar("T")


def named(recipes: Mapping[str, Callable[[], T]], name: str) -> T:
    """The configuration of a recipe.

    Raises:
        ConfigError: the name is unknown; names the nearest one.
    """
    checks.one_of("recipe", name, recipes)
    return recipes[name]()
