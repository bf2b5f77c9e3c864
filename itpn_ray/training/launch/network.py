"""The network interface that workers on several machines exchange gradients over.

Gloo takes the interface that the host's own name leads to, which on many machines is the loopback
(Debian writes 127.0.1.1 into /etc/hosts): workers elsewhere then cannot connect. Ray knows the
address by which the machines reach each other.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
"""What gloo and NCCL read; what the user has set stays."""


class RayAddressConfig(TorchConfig):
    """Ray Train's PyTorch, over the interface of each node's Ray address."""

    @property
    def backend_cls(self) -> Any:
        """Ray Train's backend, which first lets each worker choose its interface."""
        base: Any = super().backend_cls

        class Backend(base):
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                # Before the group is made, for it reads the variables then.
                worker_group.execute(use_ray_interface)
                super().on_start(worker_group, backend_config)

        return Backend


def use_ray_interface() -> None:
    """Let gloo and NCCL use the interface of this node's address in the Ray cluster."""
    node = ray.get_runtime_context().get_node_id()
    address = next(n["NodeManagerAddress"] for n in ray.nodes() if n["NodeID"] == node)
    name = interface_of(address)
    for variable in VARIABLES:
        # What the user has set stays.
        if name and not os.environ.get(variable):
            os.environ[variable] = name


def interface_of(address: str) -> str:
    """The name of this machine's interface that has an address; empty where none has."""
    for name, addresses in psutil.net_if_addrs().items():
        # IPv6 addresses carry their scope, such as fe80::1%eth0.
        if any(one.address.partition("%")[0] == address for one in addresses):
            return name
    return ""
