"""Named starting points: each a function that returns a configuration.

A recipe's docstring gives its command, hardware-hours, expected metric and the paper's table. Other
packages add theirs as entry points of the group ``itpn_ray.recipes``, named VERB.RECIPE.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, TypeVar

from itpn_ray import checks, plugins

T = TypeVar("T")
GROUP = "itpn_ray.recipes"
_MODULES = {"detect": ("detect", "rotated"), "finetune": ("finetune", "multilabel")}
"""Verb -> modules of its recipes, where they are not one of its own name."""


def recipes_of(verb: str) -> dict[str, Callable[[], Any]]:
    """The recipes of a verb, such as ``finetune``: ours, then those that other packages register.

    Raises:
        ConfigError: an outside recipe has the name of another one, or cannot be imported.
    """
    recipes: dict[str, Callable[[], Any]] = {}
    for module in _MODULES.get(verb, (verb,)):
        recipes |= import_module(f"{__name__}.{module}").RECIPES
    for registered in plugins.names(GROUP, {}):
        of, _, name = registered.partition(".")
        if of == verb:
            checks.unused(f"{GROUP}: {registered}", name, recipes)
            recipes[name] = plugins.load(GROUP, {}, registered, "recipe")
    return recipes


def named(recipes: Mapping[str, Callable[[], T]], name: str) -> T:
    """The configuration of a recipe.

    Raises:
        ConfigError: the name is unknown; names the nearest one.
    """
    checks.one_of("recipe", name, recipes)
    return recipes[name]()
