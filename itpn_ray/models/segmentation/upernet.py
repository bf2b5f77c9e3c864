"""UPerNet's head (Xiao et al., "Unified perceptual parsing", 2018), and a light one.

Shapes: maps by stride, finest first, (B, C, H / stride, W / stride). Resizing is bilinear from
pixel centre to pixel centre, as in the authors' configurations (align_corners=False).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.models.layers.sync_norm import SyncBatchNorm

POOLED = (1, 2, 3, 6)
"""Sides of the maps that the pyramid pooling sees the last map as."""


class ConvUnit(nn.Sequential):
    """Convolution, normalisation over all workers' images, ReLU."""

    def __init__(self, width: int, out: int, kernel: int) -> None:
        convolution = nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False)
        super().__init__(convolution, SyncBatchNorm(out), nn.ReLU(inplace=True))


class PyramidPooling(nn.Module):
    """The last map with what its surroundings at four scales look like."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(ConvUnit(width, out, 1) for _ in POOLED)
        self.fuse = ConvUnit(width + len(POOLED) * out, out, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, width, h, w) to (B, out, h, w)."""
        seen = [
            resize(unit(F.adaptive_avg_pool2d(x, side)), x)
            for side, unit in zip(POOLED, self.scales, strict=True)
        ]
        return self.fuse(torch.cat([x, *seen], dim=1))


class UperHead(nn.Module):
    """Pyramid pooling of the last map, a way down to the finest, and all four fused.

    Args:
        channels: of the map of each stride, finest first.
        width: of everything inside.
    """

    def __init__(self, channels: Mapping[int, int], width: int) -> None:
        super().__init__()
        *finer, last = channels.values()
        self.pooling = PyramidPooling(last, width)
        self.laterals = nn.ModuleList(ConvUnit(each, width, 1) for each in finer)
        self.smooth = nn.ModuleList(ConvUnit(width, width, 3) for _ in finer)
        self.fuse = ConvUnit(width * len(channels), width, 3)

    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Map the maps to features (B, width, H / 4, W / 4)."""
        *finer, last = maps.values()
        levels = [lateral(x) for lateral, x in zip(self.laterals, finer, strict=True)]
        levels.append(self.pooling(last))
        for i in reversed(range(len(finer))):
            levels[i] = levels[i] + resize(levels[i + 1], levels[i])
        levels[:-1] = [smooth(x) for smooth, x in zip(self.smooth, levels[:-1], strict=True)]
        return self.fuse(torch.cat([resize(x, levels[0]) for x in levels], dim=1))


class MlpHead(nn.Module):
    """A linear layer a map, and one for all of them: the light head that UPerNet is measured by.

    SegFormer's (Xie et al., 2021, 3.2).

    Args:
        channels: of the map of each stride, finest first.
        width: of everything inside.
    """

    def __init__(self, channels: Mapping[int, int], width: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(each, width, 1) for each in channels.values())
        self.fuse = ConvUnit(width * len(channels), width, 1)

    def forward(self, maps: Mapping[int, Tensor]) -> Tensor:
        """Map the maps to features (B, width, H / 4, W / 4)."""
        levels = [lateral(x) for lateral, x in zip(self.laterals, maps.values(), strict=True)]
        return self.fuse(torch.cat([resize(x, levels[0]) for x in levels], dim=1))


def resize(x: Tensor, like: Tensor) -> Tensor:
    """A map at the size of another one."""
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)
