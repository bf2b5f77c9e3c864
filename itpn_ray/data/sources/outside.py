"""Readers of raw images that other packages register, by the name that ``--format`` gives them.

    [project.entry-points."itpn_ray.sources"]
    counting = "my_package.source:DotImages"

What is registered makes a `itpn_ray.data.sources.base.Source` from the settings of `prepare`, as a
class does whose constructor takes a `PrepareConfig`. It is only used where ``--format`` names it,
and refuses itself the settings that it has no use for. Imports no reader: the settings ask it too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from itpn_ray import checks, plugins

if TYPE_CHECKING:
    from itpn_ray.data.prepare.config import PrepareConfig
    from itpn_ray.data.sources.base import Source

GROUP = "itpn_ray.sources"


def check_format(name: str, built_in: Collection[str]) -> None:
    """Refuse a format that is none of ours and that no other package reads.

    Raises:
        ConfigError: names the nearest one.
    """
    if name not in built_in:
        checks.one_of("prepare.format", name, [*built_in, *plugins.names(GROUP, {})])


def outside_source(name: str) -> Callable[[PrepareConfig], Source]:
    """What reads a format of another package.

    Raises:
        ConfigError: nobody registered it, or the package cannot be imported.
    """
    found: Callable[[PrepareConfig], Source] = plugins.load(GROUP, {}, name, "prepare.format")
    return found
