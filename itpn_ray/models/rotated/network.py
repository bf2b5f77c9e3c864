"""Rotated Faster R-CNN over a trunk whose pyramid is pre-trained too (paper, 5.3 and Table 7)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from itpn_ray.models.detection.base import Detections, Detector, Targets
from itpn_ray.models.detection.rcnn.regions import extents, extents_and_objects
from itpn_ray.models.detection.rcnn.rpn import ProposalNetwork, proposal_losses
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.build import build_trunk, dense_head_config
from itpn_ray.models.networks.dense_head import Mean
from itpn_ray.models.rotated.boxes import hulls_of
from itpn_ray.models.rotated.config import RotatedRcnnConfig
from itpn_ray.models.rotated.roi_head import RotatedRoiHead

USUAL_TILES = (1024, 200)
"""Of DOTA, where a file does not say."""


class RotatedRcnn(Detector):
    """The region proposal network of `Rcnn` on the objects' hulls, then a head that turns boxes.

    Args:
        config: the detector.
        dense: the trunk with its pyramid.

    Attributes:
        tiles: side of the tiles that images are cut into, pixels, 0 for whole images; and how much
            neighbours share.
    """

    rotated: ClassVar[bool] = True
    config: RotatedRcnnConfig
    tiles: tuple[int, int] = USUAL_TILES

    def __init__(self, config: RotatedRcnnConfig, dense: DenseTrunk) -> None:
        super().__init__(config, dense)
        self.rpn = ProposalNetwork(config.pyramid.width, dense.strides, config.proposals)
        self.roi = RotatedRoiHead(config)

    def remember(self, metadata: Mapping[str, str]) -> None:
        """See `Detector.remember`; and how large images are cut into tiles."""
        super().remember(metadata)
        tile, gap = json.loads(metadata.get("tiles", json.dumps(USUAL_TILES)))
        self.tiles = int(tile), int(gap)

    def losses(
        self, images: Tensor, sizes: Tensor, targets: Targets, mean: Mean
    ) -> dict[str, Tensor]:
        """See `Detector.losses`: rpn_class, rpn_box, class and box; boxes are turned ones."""
        # Asked before the trunk begins, for then there is nothing yet to wait for.
        valid, objects = extents_and_objects(sizes, targets)
        maps = self.maps(images, targets.seeds)
        hulls = [replace(real, boxes=hulls_of(real.boxes)) for real in objects]
        candidates = self.rpn(maps, valid)
        proposals = [self.rpn.propose(*pair) for pair in zip(candidates, valid, strict=True)]
        first = proposal_losses(candidates, hulls, mean)
        turned = [real.boxes for real in objects]
        return {**first, **self.roi.losses(maps, proposals, hulls, turned, mean)}

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """See `Detector.detect`; boxes are turned ones."""
        valid, maps = extents(sizes), self.maps(images)
        candidates = self.rpn(maps, valid)
        proposals = [self.rpn.propose(*pair) for pair in zip(candidates, valid, strict=True)]
        return self.roi.detect(maps, proposals)


def create_rotated_rcnn(name: str, *, pyramid_depth: int = 1, **changes: Any) -> RotatedRcnn:
    """A rotated Faster R-CNN by the name of its trunk.

    Args:
        name: see `itpn_ray.models.create_trunk`.
        pyramid_depth: see `itpn_ray.models.create_rcnn`.
        changes: fields of `RotatedRcnnConfig`, such as num_classes; see `dense_head_config` for
            others.

    Raises:
        ConfigError: no such name or field, or a value that does not fit.
    """
    config = dense_head_config(RotatedRcnnConfig, name, pyramid_depth=pyramid_depth, **changes)
    return RotatedRcnn(config, DenseTrunk(config.dense, build_trunk(config.trunk)))
