"""The nodes of the cluster at hand, and what their labels say of them."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass

MARKET = "market"
"""Label: ``spot`` for a machine that may be taken away, ``on-demand`` for one that stays."""
INSTANCE_TYPE = "instance-type"
"""Label: the machine's type, as the cloud and the price list call it."""
_RAY_ACCELERATOR = "ray.io/accelerator-type"
ACCELERATOR_RESOURCE = "accelerator_type:"
"""What Ray's resource of a kind of accelerator begins with; each node that has some has 1 of it."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A living machine of the cluster.

    Attributes:
        id: which no other has.
        address: how the others reach it.
        labels: as it was started with, and those that Ray adds.
        resources: what it has, by Ray's names.
    """

    id: str
    address: str
    labels: Mapping[str, str]
    resources: Mapping[str, float]

    @property
    def market(self) -> str:
        """``spot`` or ``on-demand``; empty: not told."""
        return self.labels.get(MARKET, "")

    @property
    def instance_type(self) -> str:
        """As the cloud calls it; empty: not told."""
        return self.labels.get(INSTANCE_TYPE, "")

    @property
    def accelerator(self) -> str:
        """The kind of its accelerators by Ray's name, such as ``H100``; empty: none, or unknown."""
        named = (one for one in self.resources if one.startswith(ACCELERATOR_RESOURCE))
        found = next(named, "").removeprefix(ACCELERATOR_RESOURCE)
        return found or self.labels.get(_RAY_ACCELERATOR, "")


def living_nodes() -> list[Node]:
    """The nodes of the Ray that this process is connected to; without one, this machine alone."""
    import ray

    if not ray.is_initialized():
        return [Node(id=socket.gethostname(), address="", labels={}, resources={})]
    return [
        Node(
            id=node["NodeID"],
            address=node["NodeManagerAddress"],
            labels=node["Labels"],
            resources=node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
