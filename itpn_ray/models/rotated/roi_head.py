"""From horizontal proposals to classes and turned boxes.

Sizes, thresholds and losses are those of mmrotate's rotated Faster R-CNN for DOTA (1x, le90):
horizontal RoIAlign, two hidden layers, one box for all classes, smooth L1 on the offsets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import TwoMLPHead

from itpn_ray.models.detection.base import Detections
from itpn_ray.models.detection.rcnn.heads import BOX_CELLS
from itpn_ray.models.detection.rcnn.regions import Objects, pool_regions
from itpn_ray.models.detection.rcnn.sampling import sample_regions
from itpn_ray.models.networks.dense_head import Mean
from itpn_ray.models.rotated.boxes import decode, encode
from itpn_ray.models.rotated.config import RotatedRcnnConfig
from itpn_ray.models.rotated.overlap import rotated_nms

IOU = 0.5  # of a proposal with an object's hull, from which it stands for the object
SCORE, NMS = 0.05, 0.1  # lowest score that counts, and IoU of boxes that are one
MOST = 2000  # detections of an image: tiles of car parks and harbours hold many
# Of a network that has learned nothing all classes of all proposals are sure enough.
BEFORE_NMS = 2 * MOST

Maps = Mapping[int, Tensor]


class TurnedBoxHead(nn.Module):
    """Two hidden layers, then class logits and one turned box.

    Hidden layers begin uniform by fan in and out, class logits with standard deviation 0.01 and
    boxes with 0.001, biases at 0.

    Args:
        width: channels of the features.
        hidden: width of the hidden layers.
        num_classes: C.
    """

    def __init__(self, width: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.body = TwoMLPHead(width * BOX_CELLS**2, hidden)
        self.logits = nn.Linear(hidden, num_classes + 1)
        self.deltas = nn.Linear(hidden, 5)
        for layer in (self.body.fc6, self.body.fc7):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        for layer, deviation in ((self.logits, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Map (R, width, 7, 7) to logits (R, C + 1), nothing last, and deltas (R, 5), float32."""
        hidden = self.body(regions)
        return self.logits(hidden).float(), self.deltas(hidden).float()


class RotatedRoiHead(nn.Module):
    """The head with its losses.

    Args:
        config: of the detector.
    """

    def __init__(self, config: RotatedRcnnConfig) -> None:
        super().__init__()
        self.num_classes, self.regions = config.num_classes, config.regions
        self.box = TurnedBoxHead(config.pyramid.width, config.fc_width, config.num_classes)

    def losses(
        self,
        maps: Maps,
        proposals: Sequence[Tensor],
        hulls: Sequence[Objects],
        turned: Sequence[Tensor],
        mean: Mean,
    ) -> dict[str, Tensor]:
        """Cross-entropy, and smooth L1 of boxes of objects, over the number of sampled boxes.

        Args:
            maps: stride -> (B, C, H / stride, W / stride).
            proposals: (n, 4) boxes of each image.
            hulls: of each image the objects, with horizontal boxes.
            turned: (m, 5) their turned boxes.
            mean: averages a normaliser over workers.
        """
        sampled = sample_regions(
            proposals, hulls, iou=IOU, count=self.regions, nothing=self.num_classes
        )
        labels = torch.cat([part.labels for part in sampled])
        logits, deltas = self.box(pool_regions(maps, [part.boxes for part in sampled], BOX_CELLS))
        aims = torch.cat(
            [
                encode(part.boxes[: len(part.matched)], boxes[part.matched])
                for part, boxes in zip(sampled, turned, strict=True)
            ]
        )
        each = deltas.split([len(part.labels) for part in sampled])
        # Those of objects are the first of each image.
        reached = torch.cat(
            [own[: len(part.matched)] for own, part in zip(each, sampled, strict=True)]
        )
        norm = mean(logits.new_full((), len(labels))).clamp(min=1)
        return {
            "class": F.cross_entropy(logits, labels, reduction="sum") / norm,
            "box": F.smooth_l1_loss(reached, aims, reduction="sum") / norm,
        }

    @torch.no_grad()
    def detect(self, maps: Maps, proposals: Sequence[Tensor]) -> list[Detections]:
        """The objects in each image."""
        logits, deltas = self.box(pool_regions(maps, proposals, BOX_CELLS))
        scores = logits.softmax(dim=-1)[:, :-1]  # (R, C)
        counts = [len(part) for part in proposals]
        each = zip(proposals, deltas.split(counts), scores.split(counts), strict=True)
        return [_best(decode(boxes, own), sure) for boxes, own, sure in each]


def _best(boxes: Tensor, scores: Tensor) -> Detections:
    """Of boxes (n, 5) and scores (n, C), what is sure enough and not repeated."""
    sure, place = scores.flatten().sort(descending=True, stable=True)
    sure, place = sure[:BEFORE_NMS], place[:BEFORE_NMS]
    region, label = place // scores.shape[1], place % scores.shape[1]
    enough = sure > SCORE
    reached, sure, label = boxes[region[enough]], sure[enough], label[enough]
    kept = rotated_nms(reached, sure, label, NMS)[:MOST]
    return Detections(boxes=reached[kept], scores=sure[kept], labels=label[kept], masks=None)
