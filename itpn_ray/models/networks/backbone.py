"""A trunk with its pyramid as a backbone: images to feature maps at strides 4 to 64."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.errors import DataError
from itpn_ray.models.acceleration.config import Accelerated
from itpn_ray.models.config import STRIDES, DenseConfig
from itpn_ray.models.layers.blocks import to_map
from itpn_ray.models.layers.convolution import Patches
from itpn_ray.models.networks.base import Network
from itpn_ray.models.trunk.base import Trunk
from itpn_ray.models.trunk.pyramid import Pyramid


class DenseTrunk(Accelerated, Network):
    """Feature maps for detection and segmentation.

    Args:
        config: the network.
        trunk: the trunk that `config.trunk` describes.

    Attributes:
        strides: of the maps, in order.
        channels: of the map of each stride.
    """

    config: DenseConfig

    def __init__(self, config: DenseConfig, trunk: Trunk) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk
        self.pyramid = Pyramid(
            config.pyramid,
            trunk.widths,
            finest=config.finest,
            convolution=config.trunk.convolution,
        )
        strides = (4, 8, 16, 32, 64)[: config.levels]
        self.strides = tuple(stride for stride in strides if stride >= config.finest)
        # Strides 32 and 64 are pooled from 16 and have its width.
        extra = (*trunk.widths, trunk.widths[2], trunk.widths[2]) if config.join_trunk else (0,) * 5
        self.channels = {
            stride: config.pyramid.width + more
            for stride, more in zip(strides, extra, strict=False)
            if stride in self.strides
        }
        self.num_drops = trunk.num_drops

    def forward(
        self, images: Tensor, *, drop_noise: Tensor | None = None
    ) -> OrderedDict[int, Tensor]:
        """Map (B, 3, H, W) to stride -> (B, C, H / stride, W / stride), finest first.

        Strides 32 and 64 pool stride 16 and round odd sides down.

        Raises:
            DataError: a side that is no multiple of 16, or shorter than the largest stride.
        """
        grid = self.trunk.grid(images)
        if min(images.shape[-2:]) < self.strides[-1]:
            raise DataError(
                "images",
                f"{images.shape[-2]}x{images.shape[-1]} pixels",
                f"too small for a map of stride {self.strides[-1]}",
                "Use larger images or fewer levels",
            )
        stages = self.trunk.stages(images, drop_noise=drop_noise)
        pyramid = self.pyramid(*stages, Patches(grid))
        maps: OrderedDict[int, Tensor] = OrderedDict()
        for stride, stage in zip(STRIDES, stages, strict=True):
            if stride < self.config.finest:
                continue
            joined = [pyramid[stride], stage] if self.config.join_trunk else [pyramid[stride]]
            maps[stride] = to_map(torch.cat(joined, dim=-1), grid)
        pool = F.avg_pool2d if self.config.pool == "avg" else F.max_pool2d
        for stride in self.strides[self.strides.index(16) + 1 :]:
            maps[stride] = pool(maps[stride // 2], kernel_size=2, stride=2)
        return maps
