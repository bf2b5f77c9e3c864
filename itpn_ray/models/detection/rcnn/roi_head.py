"""One head or a cascade of three: from proposals to classes, boxes and masks.

A cascade's heads each refine the boxes of the one before and ask for more overlap (Cai and
Vasconcelos, "Cascade R-CNN"). Losses, thresholds and weights are those of the authors'
configurations: GIoU of decoded boxes, class-specific boxes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms, clip_boxes_to_image

from itpn_ray.errors import DataError
from itpn_ray.models.detection.base import MAX_DETECTIONS, Detections
from itpn_ray.models.detection.boxes import Weights, decode, giou_loss
from itpn_ray.models.detection.rcnn.config import RcnnConfig
from itpn_ray.models.detection.rcnn.heads import BOX_CELLS, MASK_CELLS, BoxHead, MaskHead
from itpn_ray.models.detection.rcnn.regions import Extent, Objects, mask_targets, pool_regions
from itpn_ray.models.detection.rcnn.sampling import Sampled, sample_regions
from itpn_ray.models.networks.dense_head import Mean

IOU = (0.5, 0.6, 0.7)  # from which a box stands for an object, by stage
LOSS_WEIGHTS = (1.0, 0.5, 0.25)  # of the stages
# Later stages have less to correct, so that the same correction weighs more.
BOX_WEIGHTS: tuple[Weights, ...] = ((10.0, 5.0), (20.0, 10.0), (30.0, 15.0))
GIOU_WEIGHT = 10.0
SCORE, NMS = 0.05, 0.5  # lowest score that counts, and IoU of boxes that are one

Maps = Mapping[int, Tensor]


class RoiHead(nn.Module):
    """The heads in a row.

    Args:
        config: of the detector; `stages` heads are made, with masks if it says so.
    """

    def __init__(self, config: RcnnConfig) -> None:
        super().__init__()
        width, self.num_classes = config.pyramid.width, config.num_classes
        self.regions = config.regions
        stages = range(config.stages)
        self.boxes = nn.ModuleList(
            BoxHead(width, config.fc_width, config.num_classes) for _ in stages
        )
        self.masks = nn.ModuleList(
            MaskHead(width, config.num_classes) for _ in stages if config.masks
        )

    def losses(
        self,
        maps: Maps,
        proposals: Sequence[Tensor],
        objects: Sequence[Objects],
        sizes: Sequence[Extent],
        mean: Mean,
    ) -> dict[str, Tensor]:
        """Cross-entropy, GIoU and mask loss of each stage, times the stage's weight.

        Args:
            maps: stride -> (B, C, H / stride, W / stride).
            proposals: (n, 4) boxes of each image.
            objects: of each image.
            sizes: height and width of each image.
            mean: averages a normaliser over workers.

        Raises:
            DataError: there are mask heads but no masks.
        """
        losses: dict[str, Tensor] = {}
        for stage in range(len(self.boxes)):
            sampled = self._sample(proposals, objects, stage)
            parts, logits, deltas = self._box_losses(maps, sampled, stage, mean)
            if self.masks:
                parts["mask"] = self._mask_loss(maps, sampled, objects, stage, mean)
            number = str(stage + 1) if len(self.boxes) > 1 else ""
            for name, loss in parts.items():
                losses[name + number] = loss * LOSS_WEIGHTS[stage]
            if stage + 1 < len(self.boxes):
                proposals = self._refine_sampled(sampled, logits, deltas, sizes, stage)
        return losses

    def _sample(
        self, proposals: Sequence[Tensor], objects: Sequence[Objects], stage: int
    ) -> list[Sampled]:
        return sample_regions(
            proposals,
            objects,
            iou=IOU[stage],
            count=self.regions,
            nothing=self.num_classes,
            turn=stage,
        )

    def _box_losses(
        self,
        maps: Maps,
        sampled: Sequence[Sampled],
        stage: int,
        mean: Mean,
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Sums over all sampled boxes divided by their number; and the head's two outputs."""
        boxes = torch.cat([part.boxes for part in sampled])  # (R, 4)
        labels = torch.cat([part.labels for part in sampled])
        pooled = pool_regions(maps, [part.boxes for part in sampled], BOX_CELLS)
        logits, deltas = self.boxes[stage](pooled)
        aims = torch.cat([part.aims for part in sampled])
        positive = labels < self.num_classes
        number = torch.arange(len(labels), device=labels.device)
        chosen = deltas[number, labels.clamp(max=self.num_classes - 1)]  # (R, 4)
        reached = decode(boxes, chosen, BOX_WEIGHTS[stage])
        # Over all regions, as Fast R-CNN has it: an image with few objects weighs them no more.
        norm = mean(logits.new_full((), len(boxes))).clamp(min=1)
        # All are computed, and those that stand for nothing count nothing: see `sampling`.
        giou = (giou_loss(reached, aims) * positive).sum()
        parts = {
            "class": F.cross_entropy(logits, labels, reduction="sum") / norm,
            "box": GIOU_WEIGHT * giou / norm,
        }
        return parts, logits.detach(), deltas.detach()

    def _mask_loss(
        self,
        maps: Maps,
        sampled: Sequence[Sampled],
        objects: Sequence[Objects],
        stage: int,
        mean: Mean,
    ) -> Tensor:
        """Binary cross-entropy of the true class's masks, averaged over boxes of objects.

        Boxes of objects whose mask is not known count neither in the sum nor in the number.
        """
        boxes, labels, aims = [], [], []
        for part, real in zip(sampled, objects, strict=True):
            if real.masks is None:
                raise DataError(
                    "masks", None, "the batch has none", "Use data with masks, or masks=False"
                )
            own = part.matched[part.masked]
            boxes.append(part.boxes[part.masked])
            labels.append(part.labels[part.masked])
            aims.append(mask_targets(real.masks[own], real.boxes[own], boxes[-1], 2 * MASK_CELLS))
        true = torch.cat(labels)
        logits = self.masks[stage](pool_regions(maps, boxes, MASK_CELLS), true)  # (P, 28, 28)
        loss = F.binary_cross_entropy_with_logits(logits, torch.cat(aims), reduction="none")
        norm = mean(logits.new_full((), len(true))).clamp(min=1)
        return loss.mean(dim=(1, 2)).sum() / norm

    @torch.no_grad()
    def _refine_sampled(
        self,
        sampled: Sequence[Sampled],
        logits: Tensor,
        deltas: Tensor,
        sizes: Sequence[Extent],
        stage: int,
    ) -> list[Tensor]:
        """Where the sampled boxes move, for the next stage; the objects' own are left out."""
        labels = torch.cat([part.labels for part in sampled])
        # Boxes of nothing move as the likeliest class would have them, as in a test.
        guess = logits[:, :-1].argmax(dim=1)
        labels = torch.where(labels < self.num_classes, labels, guess)
        boxes = _move([part.boxes for part in sampled], deltas, labels, sizes, stage)
        return [moved[part.found] for moved, part in zip(boxes, sampled, strict=True)]

    @torch.no_grad()
    def detect(
        self, maps: Maps, proposals: Sequence[Tensor], sizes: Sequence[Extent]
    ) -> list[Detections]:
        """The objects in each image; a cascade averages its heads' logits and masks."""
        boxes, last = list(proposals), len(self.boxes) - 1
        heard = []
        for stage, head in enumerate(self.boxes):
            logits, deltas = head(pool_regions(maps, boxes, BOX_CELLS))
            heard.append(logits)
            if stage < last:
                boxes = _move(boxes, deltas, logits[:, :-1].argmax(dim=1), sizes, stage)
        # Without the last logit, that of nothing.
        scores = torch.stack(heard).mean(dim=0).softmax(dim=-1)[:, :-1]  # (R, C)
        counts = [len(part) for part in boxes]
        found = [
            _best(*parts, last)
            for parts in zip(boxes, deltas.split(counts), scores.split(counts), sizes, strict=True)
        ]
        if not self.masks:
            return found
        return self._with_masks(maps, found)

    def _with_masks(self, maps: Maps, found: list[Detections]) -> list[Detections]:
        pooled = pool_regions(maps, [part.boxes for part in found], MASK_CELLS)
        labels = torch.cat([part.labels for part in found])
        masks = torch.stack([head(pooled, labels).sigmoid() for head in self.masks]).mean(dim=0)
        each = masks.split([len(part.labels) for part in found])
        return [
            Detections(boxes=part.boxes, scores=part.scores, labels=part.labels, masks=own)
            for part, own in zip(found, each, strict=True)
        ]


def _move(
    boxes: Sequence[Tensor],
    deltas: Tensor,
    labels: Tensor,
    sizes: Sequence[Extent],
    stage: int,
) -> list[Tensor]:
    """Each box (n, 4) of each image where the deltas (R, C, 4) of its label (R,) lead."""
    number = torch.arange(len(labels), device=labels.device)
    moved = decode(torch.cat(list(boxes)), deltas[number, labels], BOX_WEIGHTS[stage])
    parts = moved.split([len(part) for part in boxes])
    return [clip_boxes_to_image(part, size) for part, size in zip(parts, sizes, strict=True)]


def _best(boxes: Tensor, deltas: Tensor, scores: Tensor, size: Extent, stage: int) -> Detections:
    """Of boxes (n, 4), deltas (n, C, 4) and scores (n, C), what is sure enough and not repeated."""
    region, label = (scores > SCORE).nonzero(as_tuple=True)
    reached = decode(boxes[region], deltas[region, label], BOX_WEIGHTS[stage])
    reached = clip_boxes_to_image(reached, size)
    sure = scores[region, label]
    kept = batched_nms(reached, sure, label, NMS)[:MAX_DETECTIONS]
    return Detections(boxes=reached[kept], scores=sure[kept], labels=label[kept], masks=None)
