"""Objects of one image, and what heads see of the maps and masks inside boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_area, roi_align

from itpn_ray.models.detection.base import Targets

REGION_STRIDES = (4, 8, 16, 32)
FINEST_SIDE = 56  # pixels; stride 4 serves boxes up to twice this, stride 8 twice those, and so on

Extent = tuple[int, int]
"""Height and width of the valid part of an image."""


@dataclass(frozen=True, kw_only=True)
class Objects:
    """The objects of one image."""

    boxes: Tensor
    """(m, 4) float32."""
    labels: Tensor
    """(m,) int64."""
    masks: Tensor | None
    """(m, 112, 112) uint8, see `Targets`."""
    seed: Tensor
    """(1,) int64."""


def extents(sizes: Tensor) -> list[Extent]:
    """Sizes (B, 2) of the images of a batch as plain numbers."""
    return [(height, width) for height, width in sizes.tolist()]


def extents_and_objects(sizes: Tensor, targets: Targets) -> tuple[list[Extent], list[Objects]]:
    """`extents`, and the objects of each image; the host waits for the device once."""
    counts = (targets.labels >= 0).sum(dim=1, keepdim=True)
    told = torch.cat([sizes, counts], dim=1).tolist()
    objects = _objects_of(targets, [count for _, _, count in told])
    return [(height, width) for height, width, _ in told], objects


def _objects_of(targets: Targets, counts: Sequence[int]) -> list[Objects]:
    """The objects of each image, without the padding; boxes as the targets have them."""
    places = (targets.labels < 0).int().argsort(dim=1, stable=True)  # (B, M), objects first
    return [
        Objects(
            boxes=targets.boxes[i, real].float(),
            labels=targets.labels[i, real],
            masks=None if targets.masks is None else targets.masks[i, real],
            seed=targets.seeds[i : i + 1],
        )
        for i, real in enumerate(row[:count] for row, count in zip(places, counts, strict=True))
    ]


def pool_regions(maps: Mapping[int, Tensor], boxes: Sequence[Tensor], side: int) -> Tensor:
    """What lies in each box, each read from the map that suits its size (FPN, eq. 1).

    Bilinear samples lie about one map cell apart, the more the larger the box; corners of cells,
    not their centres, have whole coordinates (the authors' RoIAlign).

    Args:
        maps: stride -> (B, C, H / stride, W / stride); strides 4 to 32 are read.
        boxes: (n, 4) of each of the B images.
        side: of the output.

    Returns:
        (R, C, side, side) float32, R boxes in order.
    """
    numbered = torch.cat([F.pad(x, (1, 0), value=i) for i, x in enumerate(boxes)])  # (R, 5)
    # 1e-6, for a box of exactly a limit must not fall below it by rounding.
    level = (box_area(numbered[:, 1:]).sqrt() / FINEST_SIDE + 1e-6).log2().floor()
    level = level.clamp(0, len(REGION_STRIDES) - 1)
    if numbered.device.type == "cpu":
        return _pool_apart(maps, numbered, level, side)
    return _pool_all(maps, numbered, level, side)


def _pool_apart(maps: Mapping[int, Tensor], numbered: Tensor, level: Tensor, side: int) -> Tensor:
    """Of each map those boxes alone that are read from it.

    Where the host need not wait for a device to know them, this is a quarter of the work.
    """
    pooled, places = [], []
    for number, stride in enumerate(REGION_STRIDES):
        own = (level == number).nonzero()[:, 0]
        pooled.append(_align(maps[stride], numbered[own], stride, side))
        places.append(own)
    # Back in the order in which the boxes came.
    return torch.cat(pooled)[torch.cat(places).argsort()]


def _pool_all(maps: Mapping[int, Tensor], numbered: Tensor, level: Tensor, side: int) -> Tensor:
    """The same without a number of boxes that the host would have to wait for."""
    pooled = []
    for number, stride in enumerate(REGION_STRIDES):
        # Boxes of the other maps become points, of which next to nothing is read.
        own = level == number
        read = torch.where(own[:, None], numbered[:, 1:], 0.0)
        found = _align(maps[stride], torch.cat([numbered[:, :1], read], dim=1), stride, side)
        pooled.append(torch.where(own[:, None, None, None], found, 0.0))
    # Each box was read from one map, and has zeros from the others.
    return torch.stack(pooled).sum(0)


def _align(features: Tensor, regions: Tensor, stride: int, side: int) -> Tensor:
    # float32, for RoIAlign's sums are long and bfloat16's steps coarse.
    features = features.to(torch.float32, memory_format=torch.contiguous_format)
    return roi_align(features, regions, side, 1 / stride, sampling_ratio=0, aligned=True)


def mask_targets(masks: Tensor, objects: Tensor, boxes: Tensor, side: int) -> Tensor:
    """What of each object's mask lies in a box near it.

    Args:
        masks: (n, S, S) 0 or 1, each spread over its object's box; outside it there is nothing.
        objects: (n, 4) boxes of the objects.
        boxes: (n, 4) where to look.
        side: of the output.

    Returns:
        (n, side, side) float32, 0 or 1: whether half a cell or more is covered.
    """
    scale = masks.shape[-1] / (objects[:, 2:] - objects[:, :2])  # mask cells a pixel, (n, 2)
    # RoIAlign repeats the outermost cells, so the mask gets a rim of nothing, one cell wide.
    corners = (boxes - objects[:, :2].repeat(1, 2)) * scale.repeat(1, 2) + 1
    number = torch.arange(len(boxes), device=boxes.device)[:, None]
    rimmed = F.pad(masks.float(), (1, 1, 1, 1))[:, None]  # (n, 1, S + 2, S + 2)
    regions = torch.cat([number, corners], dim=1)
    covered = roi_align(rimmed, regions, side, 1.0, sampling_ratio=0, aligned=True)
    return (covered[:, 0] >= 0.5).float()
