"""A detector's matrix products without an image, so that they can be counted on shapes alone."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from itpn_ray.models.detection.base import Detector
from itpn_ray.models.detection.dino.network import Dino
from itpn_ray.models.detection.rcnn.heads import BOX_CELLS, MASK_CELLS
from itpn_ray.models.detection.rcnn.network import Rcnn
from itpn_ray.models.detection.rcnn.sampling import POSITIVE_SHARE
from itpn_ray.models.rotated.network import RotatedRcnn


def run_through(detector: Detector, images: Tensor) -> None:
    """Run all parts of a detector once, as many boxes as a training image has at most.

    Args:
        detector: in eval mode, without gradients; on the meta device, where its parts only tell
            their shapes.
        images: (B, 3, H, W).
    """
    batch, _, height, width = images.shape
    if isinstance(detector, Dino):
        sizes = torch.tensor([[height, width]], device=images.device).expand(batch, -1)
        maps = detector.maps(images)
        tokens, levels = detector.encode_maps(maps, sizes)
        detector.decode(tokens, levels, detector.select(tokens, levels))
        if detector.config.masks:
            detector.features(maps, tokens, levels)
    elif isinstance(detector, RotatedRcnn):
        _run_boxes(detector, [detector.roi.box], images)
    elif isinstance(detector, Rcnn):
        _run_boxes(detector, detector.roi.boxes, images)
        channels, regions = detector.config.pyramid.width, batch * detector.config.regions
        # At most as many regions stand for objects, and only these get masks.
        found = round(regions * POSITIVE_SHARE)
        labels = torch.zeros(found, dtype=torch.int64, device=images.device)
        for head in detector.roi.masks:
            head(images.new_empty(found, channels, MASK_CELLS, MASK_CELLS), labels)


def _run_boxes(detector: Rcnn | RotatedRcnn, heads: Iterable[nn.Module], images: Tensor) -> None:
    """Run trunk, proposals and box heads."""
    maps = detector.maps(images)
    detector.rpn.head(list(maps.values()))
    channels, regions = detector.config.pyramid.width, len(images) * detector.config.regions
    for head in heads:
        head(images.new_empty(regions, channels, BOX_CELLS, BOX_CELLS))
