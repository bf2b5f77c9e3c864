"""The region proposal network: anchors on five maps, and the boxes most likely to hold objects.

Sizes and thresholds are those of the authors' configurations: anchors of side 8 strides in three
shapes, binary cross-entropy and L1 on 256 anchors an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.rpn import RPNHead
from torchvision.ops import clip_boxes_to_image, nms

from itpn_ray.models.detection.boxes import decode, encode, match, sample
from itpn_ray.models.detection.rcnn.heads import channels_last
from itpn_ray.models.detection.rcnn.regions import Extent, Objects
from itpn_ray.models.networks.dense_head import Mean
from itpn_ray.rng import Stream

ANCHOR_STRIDES = 8  # side of a square anchor over its map's stride
RATIOS = (0.5, 1.0, 2.0)  # height over width
WEIGHTS = (1.0, 1.0)
POSITIVE, NEGATIVE, RESCUE = 0.7, 0.3, 0.3  # IoU, see `match`
SAMPLED, POSITIVE_SHARE = 256, 0.5
BEFORE_NMS_TRAINING, BEFORE_NMS = 2000, 1000  # the surest of each map at most
SPARE_TRAINING, SPARE = 2, 1  # likewise, for each box to hand on: as much, with the usual 1,000
NMS = 0.7


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The anchors of one image, map after map, and what the network says of them."""

    anchors: Tensor
    """(A, 4) float32."""
    logits: Tensor
    """(A,) float32, whether there is an object."""
    deltas: Tensor
    """(A, 4) float32, how to get to it."""
    counts: tuple[int, ...]
    """Anchors of each map."""


class ProposalNetwork(nn.Module):
    """Anchors, and one small head for all maps.

    Args:
        width: channels of the maps.
        strides: of the maps, finest first.
        proposals: boxes of an image to hand on.
    """

    def __init__(self, width: int, strides: Sequence[int], proposals: int) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.proposals = proposals
        self.head = RPNHead(width, len(RATIOS))
        sides = tuple((ANCHOR_STRIDES * stride,) for stride in strides)
        self.generator = AnchorGenerator(sides, (RATIOS,) * len(sides))

    def forward(self, maps: Mapping[int, Tensor], sizes: Sequence[Extent]) -> list[Candidates]:
        """The candidates of each image.

        What batching has padded an image with has no anchors: an image has the same ones, in the
        same order, alone and in any batch.

        Args:
            maps: stride -> (B, C, H / stride, W / stride).
            sizes: height and width of each image's valid part.
        """
        logits, deltas = self.head([channels_last(maps[stride]) for stride in self.strides])
        self.generator.set_cell_anchors(torch.float32, logits[0].device)
        return [
            self._candidates([x[i] for x in logits], [x[i] for x in deltas], size)
            for i, size in enumerate(sizes)
        ]

    def _candidates(self, logits: list[Tensor], deltas: list[Tensor], size: Extent) -> Candidates:
        """Of one image, from maps (3, h, w) and (12, h, w)."""
        # Only what the view fills of the maps: anchors must not depend on the rest of the batch.
        grids = [_grid(size, stride) for stride in self.strides]
        # torchvision takes strides as tensors.
        steps = [[torch.tensor(stride)] * 2 for stride in self.strides]
        anchors = self.generator.grid_anchors([list(grid) for grid in grids], steps)
        cut = [x[:, :rows, :columns] for x, (rows, columns) in zip(logits, grids, strict=True)]
        shifts = [x[:, :rows, :columns] for x, (rows, columns) in zip(deltas, grids, strict=True)]
        return Candidates(
            anchors=torch.cat(anchors),
            # (3, h, w) -> (h * w * 3,), in the order of the anchors
            logits=torch.cat([x.permute(1, 2, 0).flatten() for x in cut]).float(),
            # (3 * 4, h, w) -> (h * w * 3, 4)
            deltas=torch.cat([x.permute(1, 2, 0).reshape(-1, 4) for x in shifts]).float(),
            counts=tuple(len(part) for part in anchors),
        )

    @torch.no_grad()
    def propose(self, candidates: Candidates, size: Extent) -> Tensor:
        """The boxes most likely to hold something, within the image, (n, 4); see `proposals`."""
        if self.training:
            limit = min(BEFORE_NMS_TRAINING, SPARE_TRAINING * self.proposals)
        else:
            limit = min(BEFORE_NMS, SPARE * self.proposals)
        logits = candidates.logits.split(candidates.counts)
        first, index, levels = 0, [], []
        for level, part in enumerate(logits):
            top = part.topk(min(limit, len(part))).indices
            index.append(first + top)
            levels.append(torch.full_like(top, level))
            first += len(part)
        chosen = torch.cat(index)
        boxes = decode(candidates.anchors[chosen], candidates.deltas[chosen], WEIGHTS)
        boxes = clip_boxes_to_image(boxes, size)
        # Boxes that lie outside of the image are cut down to nothing. They become copies of the
        # surest other box, which suppresses them: picking them out would have the host wait twice.
        some = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        scores, scale = candidates.logits[chosen], torch.cat(levels)
        scores = torch.where(some, scores, -math.inf)
        surest = torch.where(some, torch.arange(len(some), device=some.device), scores.argmax())
        boxes, scale = boxes[surest], scale[surest]
        # Apart by level: a box suppresses those of its own scale only. torchvision's batched_nms
        # goes through the levels one by one where there are many boxes, and waits for each.
        apart = boxes + (scale * (boxes.max() + 1))[:, None]
        return boxes[nms(apart, scores, NMS)[: self.proposals]]


def proposal_losses(
    candidates: Sequence[Candidates], objects: Sequence[Objects], mean: Mean
) -> dict[str, Tensor]:
    """Binary cross-entropy of sampled anchors, and L1 of those that stand for objects.

    Both are sums over the batch, divided by the number of sampled anchors.
    """
    objectness, box, counts = [], [], []
    for found, real in zip(candidates, objects, strict=True):
        matched = match(
            found.anchors, real.boxes, positive=POSITIVE, negative=NEGATIVE, rescue=RESCUE
        )
        picked, taken = sample(
            matched, real.seed, Stream.ANCHORS, count=SAMPLED, share=POSITIVE_SHARE
        )
        stands_for = matched[picked]
        positive = taken & (stands_for >= 0)
        # All places are computed, and count nothing where they are of no use: see `sample`.
        entropy = F.binary_cross_entropy_with_logits(
            found.logits[picked], positive.float(), reduction="none"
        )
        objectness.append((entropy * taken).sum())
        # An anchor that stands for nothing aims at itself.
        anchors = found.anchors[picked]
        own = torch.where(positive, stands_for, len(real.boxes))
        # With one row more, for what stands for nothing.
        truth = F.pad(real.boxes, (0, 0, 0, 1))[own]
        aim = encode(anchors, torch.where(positive[:, None], truth, anchors), WEIGHTS)
        distance = F.l1_loss(found.deltas[picked], aim, reduction="none")
        box.append((distance * positive[:, None]).sum())
        counts.append(taken.sum())
    norm = mean(sum_of(counts).float()).clamp(min=1)
    return {"rpn_class": sum_of(objectness) / norm, "rpn_box": sum_of(box) / norm}


def sum_of(parts: Sequence[Tensor]) -> Tensor:
    """The sum of scalars."""
    return torch.stack(list(parts)).sum()


def _grid(size: Extent, stride: int) -> tuple[int, int]:
    """Rows and columns of an image's map, if it is padded to multiples of 32 and 64 at least."""
    # The sides to which views are padded, see `padded_sides`.
    height, width = (max(64, -(-side // 32) * 32) // stride for side in size)
    return height, width
