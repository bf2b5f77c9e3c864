"""Whether a cluster has, or can get, what is asked of it: Ray itself waits in silence."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from itpn_ray.errors import ConfigError
from itpn_ray.formatting import number_of
from itpn_ray.ray_runtime.compat import max_resources
from itpn_ray.ray_runtime.nodes import ACCELERATOR_RESOURCE
from itpn_ray.ray_runtime.start import is_private

Resources = Mapping[str, float]
UNITS = 10_000
"""Smallest shares of a resource that Ray tells apart, in 1 of it."""


def places(need: Resources) -> int:
    """For how many workers the nodes at hand have room, were they idle.

    Args:
        need: resources of a worker by Ray's names, ``CPU`` and ``GPU``.
    """
    import ray

    return sum(room(node["Resources"], need) for node in ray.nodes() if node["Alive"])


def room(node: Resources, need: Resources) -> int:
    """For how many workers a node has room, were it idle."""
    wanted = {name: amount for name, amount in need.items() if amount > 0}
    # Who needs nothing has room for as many as anybody asks for.
    return min((_times(node.get(n, 0.0), a) for n, a in wanted.items()), default=sys.maxsize)


def _times(whole: float, part: float) -> int:
    """How often a part goes into a whole: 0.3 has room for three times 0.1."""
    # In Ray's own unit, a ten-thousandth: quotients of binary fractions lie a little beside.
    return round(whole * UNITS) // max(1, round(part * UNITS))


def missing_places(need: Resources, workers: int) -> str:
    """What to tell of a cluster that has too few places now, but can get them; empty: it has them.

    Args:
        need: resources of a worker.
        workers: how many there must be at least.

    Raises:
        ConfigError: no node has the resources, and none that can be added will.
    """
    found = places(need)
    if found >= workers:
        return ""
    told = " and ".join(_told(name, amount) for name, amount in need.items() if amount > 0)
    asked = "each are asked for" if workers > 1 else "is asked for"
    cause = (
        f"{number_of(workers, 'worker')} with {told} {asked}, and the nodes have room for {found}"
    )
    if is_private() or not _can_get(need, workers):
        raise ConfigError(
            "resources", told, cause, "Ask for fewer or smaller workers, or for no GPUs"
        )
    return f"{cause}: waiting for nodes"


def _told(name: str, amount: float) -> str:
    kind = name.removeprefix(ACCELERATOR_RESOURCE)
    return f"an accelerator {kind}" if kind != name else f"{amount:g} {name}"


def _can_get(need: Resources, workers: int) -> bool:
    """Whether the cluster may grow so far; one without an autoscaler may, by hand."""
    most = max_resources()
    return most is None or all(most.get(name, 0) >= n * workers for name, n in need.items())
