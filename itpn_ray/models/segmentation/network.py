"""A segmenter: dense trunk, head, and the class of each pixel (paper 5.3).

Shapes: B images (B, 3, H, W), K classes, logits (B, K, H / 4, W / 4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.build import build_trunk, dense_head_config
from itpn_ray.models.networks.dense_head import DenseHead
from itpn_ray.models.segmentation.config import SegmenterConfig
from itpn_ray.models.segmentation.sliding import Viewing, pixel_classes, slide
from itpn_ray.models.segmentation.upernet import ConvUnit, MlpHead, UperHead
from itpn_ray.rng import Stream, uniform_torch

AUX_STRIDE = 16
"""Of the map that the auxiliary head sees."""
AUX_WEIGHT = 0.4
IGNORED = -1
_HEADS = {"upernet": UperHead, "mlp": MlpHead}


class Segmenter(DenseHead):
    """A class for each pixel.

    Args:
        config: the segmenter.
        dense: the trunk with its pyramid that `config.dense` describes.

    Attributes:
        viewing: how whole images are looked at.
    """

    config: SegmenterConfig
    viewing: Viewing = Viewing()

    def __init__(self, config: SegmenterConfig, dense: DenseTrunk) -> None:
        super().__init__(config, dense)
        width = config.width or dense.channels[16]
        self.head = _HEADS[config.head](dense.channels, width)
        self.aux = ConvUnit(dense.channels[AUX_STRIDE], config.aux_width, 3)
        self.logits = nn.Conv2d(width, config.num_classes, 1)
        self.aux_logits = nn.Conv2d(config.aux_width, config.num_classes, 1)
        for layer in (self.logits, self.aux_logits):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def remember(self, metadata: Mapping[str, str]) -> None:
        """See `Network.remember`; of images it is how they are looked at that is told."""
        super().remember(metadata)
        self.viewing = Viewing(**json.loads(metadata.get("viewing", "{}")))

    @property
    def view(self) -> tuple[int, int]:
        """See `DenseHead.view`."""
        return self.viewing.short_side, self.viewing.long_side

    def forward(self, images: Tensor) -> Tensor:
        """Logits of normalised images, whose sides are multiples of 32."""
        return self.logits(self.head(self.maps(images)))

    def losses(self, images: Tensor, masks: Tensor, seeds: Tensor) -> dict[str, Tensor]:
        """The parts of the loss, each a scalar to be added to the other.

        Cross-entropy, summed over the labelled pixels and divided by all pixels, as mmsegmentation
        does: a mean over images whatever is ignored in them, and 0 where everything is.

        Args:
            images: (B, 3, H, W) float, normalised; H and W multiples of 32.
            masks: (B, H, W) integers, class or -1.
            seeds: (B,) int64: every draw for an image is a function of its seed alone.
        """
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
        return (draws >= share)[:, :, None, None] / (1 - share)

    @torch.no_grad()
    def segment(
        self, images: Tensor, sizes: Tensor, originals: Sequence[tuple[int, int]] | Tensor
    ) -> list[Tensor]:
        """The class of each pixel of each image. Call in eval mode.

        Args:
            images: (B, 3, H, W) float, normalised views, zero beyond them.
            sizes: (B, 2) height and width of each view.
            originals: height and width that the masks shall have, of each image.

        Returns:
            Masks (height, width) int64, on the device of the images.
        """
        found = []
        for image, (height, width), size in zip(
            images, _rows(sizes), _rows(originals), strict=True
        ):
            logits = slide(
                self, image[None, :, :height, :width], self.config.num_classes, self.viewing
            )
            found.append(pixel_classes(logits, *size))
        return found


def create_segmenter(name: str, *, pyramid_depth: int = 2, **changes: Any) -> Segmenter:
    """A segmenter by the name of its trunk.

    Args:
        name: see `itpn_ray.models.create_trunk`.
        pyramid_depth: blocks after each upsampling (the authors' 2).
        changes: fields of `SegmenterConfig`, such as num_classes or head; see `dense_head_config`
            for others.

    Raises:
        ConfigError: no such name or field, or a value that does not fit.
    """
    config = dense_head_config(SegmenterConfig, name, pyramid_depth=pyramid_depth, **changes)
    return Segmenter(config, DenseTrunk(config.dense, build_trunk(config.trunk)))


def _rows(sizes: Sequence[tuple[int, int]] | Tensor) -> Sequence[tuple[int, int]]:
    return sizes.tolist() if isinstance(sizes, Tensor) else sizes
