"""What all kinds of network have in common: a trunk, and a config that rebuilds them."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from itpn_ray.models.config import NetworkConfig
from itpn_ray.models.trunk.base import Trunk


class Network(nn.Module):
    """A trunk with something behind it.

    Attributes:
        config: describes the network completely.
        trunk: the trunk.
        num_drops: columns of the `drop_noise` that the network takes.
        prefix: stands before the names of the trunk's and pyramid's tensors.
    """

    config: NetworkConfig
    trunk: Trunk
    num_drops: int
    prefix: ClassVar[str] = ""

    @property
    def body(self) -> Trunk:
        """The trunk, wherever the network keeps it."""
        return self.trunk

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only each block's input for the backward pass, and compute the rest again."""
        self.trunk.set_grad_checkpointing(enable)
