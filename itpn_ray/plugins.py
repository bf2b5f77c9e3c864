"""Names that stand for Python objects: those of this package, and those that others register.

An installed package adds to a table by an entry point in its pyproject.toml:

    [project.entry-points."itpn_ray.tasks"]
    counting = "my_package.config:Counting"
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from itpn_ray import checks
from itpn_ray.errors import ConfigError


def names(group: str, built_in: Mapping[str, str]) -> list[str]:
    """All names of a group: ours first."""
    return [*built_in, *(point.name for point in _outside(group, built_in))]


def load(group: str, built_in: Mapping[str, str], name: str, field: str) -> Any:
    """The object that a name stands for.

    Args:
        group: the entry points' group, e.g. ``itpn_ray.tasks``.
        built_in: name -> ``package.module:object`` of this package's own.
        name: what is asked for.
        field: what an error calls it, e.g. ``task.kind``.

    Raises:
        ConfigError: nobody registered the name, or the package that did cannot be imported.
    """
    if name in built_in:
        return EntryPoint(name, built_in[name], group).load()
    outside = {point.name: point for point in _outside(group, built_in)}
    checks.one_of(field, name, [*built_in, *outside])
    try:
        return outside[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            field,
            name,
            f"is registered as {outside[name].value}, which cannot be imported ({error})",
            "Correct the entry point or install what it needs",
        ) from error


def _outside(group: str, built_in: Mapping[str, str]) -> list[EntryPoint]:
    """Entry points of other packages.

    Raises:
        ConfigError: two stand for one name.
    """
    found: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        other = built_in.get(point.name) or (found[point.name].value if point.name in found else "")
        if other and other != point.value:
            raise ConfigError(
                group,
                point.name,
                f"is registered twice, as {other} and as {point.value}",
                "Rename the entry point of one of the two packages, or uninstall it",
            )
        found[point.name] = point
    return list(found.values())
