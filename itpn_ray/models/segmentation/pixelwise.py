"""UPerNet and a light head: the logits of each pixel, and an auxiliary head to learn by.

Shapes: B images (B, 3, H, W), K classes, logits (B, K, H / 4, W / 4).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.dense_head import Mean
from itpn_ray.models.segmentation.base import IGNORED, Segmenter
from itpn_ray.models.segmentation.config import SegmenterConfig
from itpn_ray.models.segmentation.upernet import ConvUnit, MlpHead, UperHead
from itpn_ray.rng import Stream, uniform_torch

AUX_STRIDE = 16
"""Of the map that the auxiliary head sees."""
AUX_WEIGHT = 0.4
_HEADS = {"upernet": UperHead, "mlp": MlpHead}


class PixelwiseSegmenter(Segmenter):
    """A class for each pixel by itself; see `Segmenter`."""

    config: SegmenterConfig

    def __init__(self, config: SegmenterConfig, dense: DenseTrunk) -> None:
        super().__init__(config, dense)
        width = config.width or dense.channels[16]
        self.head = _HEADS[config.head](dense.channels, width)
        self.aux = ConvUnit(dense.channels[AUX_STRIDE], config.aux_width, 3)
        self.logits = nn.Conv2d(width, config.num_classes, 1)
        self.aux_logits = nn.Conv2d(config.aux_width, config.num_classes, 1)
        for layer in (self.logits, self.aux_logits):
            # As mmsegmentation starts its classifiers.
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """See `Segmenter.forward`: logits."""
        return self.logits(self.head(self.maps(images)))

    def likelihood(self, scores: Tensor) -> Tensor:
        """See `Segmenter.likelihood`: of logits."""
        return scores.softmax(0)

    def losses(self, images: Tensor, masks: Tensor, seeds: Tensor, mean: Mean) -> dict[str, Tensor]:
        """See `Segmenter.losses`: pixels and auxiliary.

        Cross-entropy, summed over the labelled pixels and divided by all pixels, as mmsegmentation
        does: a mean over images whatever is ignored in them, so that nothing is to be averaged
        over workers.
        """
        del mean
        maps = self.maps(images, seeds)
        return {
            "pixels": self._loss(self.head(maps), self.logits, masks, seeds, 0),
            "auxiliary": AUX_WEIGHT
            * self._loss(self.aux(maps[AUX_STRIDE]), self.aux_logits, masks, seeds, 1),
        }

    def _loss(
        self, features: Tensor, classify: nn.Module, masks: Tensor, seeds: Tensor, number: int
    ) -> Tensor:
        """Of a head, the first or the second."""
        kept = self._kept(seeds, features.shape[1], number)
        logits = classify(features * kept.to(features.dtype)).float()
        logits = F.interpolate(logits, masks.shape[1:], mode="bilinear", align_corners=False)
        total = F.cross_entropy(logits, masks.long(), ignore_index=IGNORED, reduction="sum")
        return total / masks.numel()

    def _kept(self, seeds: Tensor, channels: int, number: int) -> Tensor:
        """What channels are multiplied by, (B, channels, 1, 1): 0 where they are dropped."""
        share = self.config.dropout
        draws = uniform_torch(0, number, seeds, Stream.DROPOUT, channels)
        # (B, C, 1, 1), scaled up so that features keep their expected size.
        return (draws >= share)[:, :, None, None] / (1 - share)
