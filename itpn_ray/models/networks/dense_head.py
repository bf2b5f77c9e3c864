"""A dense trunk with a head behind it: what detectors and segmenters have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from itpn_ray.models.acceleration.config import Accelerated, Acceleration
from itpn_ray.models.config import DenseHeadConfig
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.base import Network
from itpn_ray.models.trunk.base import Trunk
from itpn_ray.rng import Stream, uniform_torch

Mean = Callable[[Tensor], Tensor]
"""Averages a loss normaliser over workers; the identity where there is one worker."""


class DenseHead(Accelerated, Network, ABC):
    """A dense trunk with a head.

    Args:
        config: the network.
        dense: the trunk with its pyramid that `config.dense` describes.

    Attributes:
        trunk: the dense trunk; `body` is the trunk inside it.
    """

    prefix: ClassVar[str] = "trunk."
    config: DenseHeadConfig
    trunk: DenseTrunk  # type: ignore[assignment]  # other networks hold a bare trunk there

    def __init__(self, config: DenseHeadConfig, dense: DenseTrunk) -> None:
        super().__init__()
        self.config = config
        self.trunk = dense
        self.num_drops = dense.num_drops

    @property
    @abstractmethod
    def view(self) -> tuple[int, int]:
        """Shorter and longest side of an image as the network is shown it, pixels."""

    @property
    def preprocess(self) -> Callable[..., Any]:
        """See `Network.preprocess`; what it returns are views and their sizes."""
        from itpn_ray.models.networks.preprocess import WholeView

        return WholeView(short_side=self.view[0], long_side=self.view[1])

    @property
    def body(self) -> Trunk:
        """The trunk inside the dense trunk."""
        return self.trunk.trunk

    def set_acceleration(self, acceleration: Acceleration) -> None:
        """See `Accelerated.set_acceleration`."""
        self.trunk.set_acceleration(acceleration)
        self.config = replace(self.config, trunk=self.body.config)

    def maps(self, images: Tensor, seeds: Tensor | None = None) -> OrderedDict[int, Tensor]:
        """Feature maps by stride, see `DenseTrunk.forward`.

        Args:
            images: (B, 3, H, W) float, normalised.
            seeds: (B,) int64, decide stochastic depth in training; None where none is drawn.
        """
        noise = None
        if seeds is not None:
            # The run's seed and the epoch are in the images' seeds already.
            noise = uniform_torch(0, 0, seeds, Stream.DROP_PATH, self.num_drops)
        return self.trunk(images, drop_noise=noise)
