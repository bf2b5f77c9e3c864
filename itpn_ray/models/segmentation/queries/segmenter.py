"""A segmenter whose queries find a class and its mask each: pixels go to the surest of them.

Shapes: B images (B, 3, H, W), K classes, Q queries, C channels, D noisy copies.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from itpn_ray.models.detection.dino.denoising import Copies
from itpn_ray.models.networks.dense_head import Mean
from itpn_ray.models.segmentation.base import Segmenter
from itpn_ray.models.segmentation.config import EomtConfig, MaskDinoConfig
from itpn_ray.models.segmentation.queries.losses import (
    Pairs,
    QueryPredictions,
    class_loss,
    match,
    matched_pairs,
    pair_losses,
)
from itpn_ray.models.segmentation.queries.targets import (
    ImageClasses,
    Points,
    draw_points,
    image_classes,
)


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a head makes of the maps."""

    features: Tensor
    """(B, C, H / 4, W / 4): products with queries are the logits of masks."""
    queries: QueryPredictions
    """Of all layers, the last one last."""
    repaired: QueryPredictions | None = None
    """Of noisy copies, where there are any."""


class QuerySegmenter(Segmenter):
    """See `Segmenter`."""

    config: MaskDinoConfig | EomtConfig

    @abstractmethod
    def find(self, maps: Mapping[int, Tensor], copies: Copies | None = None) -> Found:
        """What queries find.

        Args:
            maps: feature maps by stride.
            copies: noisy copies of the images' classes, in training.
        """

    def copies(self, targets: ImageClasses, seeds: Tensor) -> Copies | None:
        """Noisy copies to learn by; None where the head knows none."""
        del targets, seeds
        return None

    def forward(self, images: Tensor) -> Tensor:
        """See `Segmenter.forward`: for each class the sum over queries of class times mask.

        Both are probabilities (MaskFormer, 3.4).
        """
        found = self.find(self.maps(images))
        # Without the last logit, that of no class.
        classes = found.queries.logits[-1].softmax(-1)[..., :-1]  # (B, Q, K)
        masks = torch.einsum("bqc,bchw->bqhw", found.queries.masks[-1], found.features.float())
        return torch.einsum("bqk,bqhw->bkhw", classes, masks.sigmoid())

    def losses(self, images: Tensor, masks: Tensor, seeds: Tensor, mean: Mean) -> dict[str, Tensor]:
        """See `Segmenter.losses`: class, mask, dice, l1 and giou of queries, and of copies.

        All are weighted, summed over layers, and divided by the classes that an image of all
        workers shows on average; class losses by what the queries of one count.
        """
        targets = image_classes(masks, self.config.num_classes)
        copies = self.copies(targets, seeds)
        found = self.find(self.maps(images, seeds), copies)
        points = draw_points(found.features, masks, seeds, self.config.points)
        assigned = match(found.queries, targets, points)
        # An image without a labelled pixel says nothing about its queries.
        labelled = targets.there.any(1, keepdim=True).float()  # (B, 1)
        weights = labelled.expand(-1, assigned.shape[2])
        pairs = matched_pairs(assigned, targets)
        parts = self._parts(found.queries, assigned, weights, pairs, targets, points, mean)
        if copies is None or found.repaired is None:
            return parts
        assigned = copies.assigned.expand(len(found.repaired.logits), -1, -1)
        pairs = _copied_pairs(assigned, copies)
        repaired = self._parts(
            found.repaired, assigned, copies.weights, pairs, targets, points, mean
        )
        return parts | {f"denoising_{name}": value for name, value in repaired.items()}

    def _parts(
        self,
        predictions: QueryPredictions,
        assigned: Tensor,
        weights: Tensor,
        pairs: Pairs,
        targets: ImageClasses,
        points: Points,
        mean: Mean,
    ) -> dict[str, Tensor]:
        """The losses of some queries."""
        total, counted = class_loss(predictions.logits, assigned, weights, targets.labels)
        images = counted.new_tensor(float(len(targets.labels)))
        # Of all workers: one whose images show little must not weigh that more. One mean for all.
        sums = torch.stack([counted, targets.there.sum().float(), images])
        counted_mean, classes_mean, images_mean = mean(sums).unbind()
        share = images_mean / images
        # Both are 0 where all images of all workers are ignored; so are the sums.
        losses = {"class": total / counted_mean.clamp(min=1e-6) * share}
        for name, value in pair_losses(predictions, pairs, targets, points).items():
            losses[name] = value / classes_mean.clamp(min=1) * share
        return losses


def _copied_pairs(assigned: Tensor, copies: Copies) -> Pairs:
    """Each copy with the class that it is a copy of."""
    query = torch.arange(copies.places, device=assigned.device).expand_as(assigned)
    weight = (copies.weights * (copies.assigned >= 0)).expand(assigned.shape)
    return Pairs(query=query, place=assigned.clamp(min=0), weight=weight)
