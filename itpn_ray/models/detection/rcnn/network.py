"""Mask R-CNN and Cascade Mask R-CNN over a trunk whose pyramid is pre-trained too (paper 5.3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from itpn_ray.models.detection.base import Detections, Detector, Targets
from itpn_ray.models.detection.rcnn.config import RcnnConfig
from itpn_ray.models.detection.rcnn.regions import extents, extents_and_objects
from itpn_ray.models.detection.rcnn.roi_head import RoiHead
from itpn_ray.models.detection.rcnn.rpn import ProposalNetwork, proposal_losses
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.build import build_trunk, dense_head_config
from itpn_ray.models.networks.dense_head import Mean


class Rcnn(Detector):
    """A region proposal network on five maps, then one or three heads on four of them.

    Args:
        config: the detector.
        dense: the trunk with its pyramid.
    """

    config: RcnnConfig

    def __init__(self, config: RcnnConfig, dense: DenseTrunk) -> None:
        super().__init__(config, dense)
        self.rpn = ProposalNetwork(config.pyramid.width, dense.strides, config.proposals)
        self.roi = RoiHead(config)

    def losses(
        self, images: Tensor, sizes: Tensor, targets: Targets, mean: Mean
    ) -> dict[str, Tensor]:
        """See `Detector.losses`: rpn_class, rpn_box, class, box and mask, all weighted.

        The last three have the number of their stage behind them in a cascade.

        Raises:
            DataError: there are mask heads but no masks.
        """
        # Asked before the trunk begins, for then there is nothing yet to wait for.
        valid, objects = extents_and_objects(sizes, targets)
        maps = self.maps(images, targets.seeds)
        candidates = self.rpn(maps, valid)
        proposals = [self.rpn.propose(*pair) for pair in zip(candidates, valid, strict=True)]
        first = proposal_losses(candidates, objects, mean)
        return {**first, **self.roi.losses(maps, proposals, objects, valid, mean)}

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """See `Detector.detect`."""
        valid, maps = extents(sizes), self.maps(images)
        candidates = self.rpn(maps, valid)
        proposals = [self.rpn.propose(*pair) for pair in zip(candidates, valid, strict=True)]
        return self.roi.detect(maps, proposals, valid)


def create_rcnn(name: str, *, pyramid_depth: int = 1, **changes: Any) -> Rcnn:
    """A Mask R-CNN (1 stage) or Cascade Mask R-CNN (3) by the name of its trunk.

    Args:
        name: see `itpn_ray.models.create_trunk`.
        pyramid_depth: blocks after each upsampling: the authors use 1; take the 2 of pixel
            pre-training to keep all that its pyramid has learned.
        changes: fields of `RcnnConfig`, such as num_classes, stages or masks; see
            `dense_head_config` for others.

    Raises:
        ConfigError: no such name or field, or a value that does not fit.
    """
    config = dense_head_config(RcnnConfig, name, pyramid_depth=pyramid_depth, **changes)
    return Rcnn(config, DenseTrunk(config.dense, build_trunk(config.trunk)))
