"""What every segmenter takes and gives (paper 5.3).

Shapes: B images (B, 3, H, W), K classes.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from itpn_ray.models.networks.dense_head import DenseHead, Mean
from itpn_ray.models.segmentation.sliding import Viewing, look, pixel_classes

IGNORED = -1
"""Of pixels without a class."""


class Segmenter(DenseHead):
    """A dense trunk with a head that finds the class of each pixel.

    Args:
        config: the segmenter.
        dense: the trunk with its pyramid that `config.dense` describes.

    Attributes:
        viewing: how whole images are looked at.
    """

    viewing: Viewing = Viewing()

    def remember(self, metadata: Mapping[str, str]) -> None:
        """See `Network.remember`; of images it is how they are looked at that is told."""
        super().remember(metadata)
        self.viewing = Viewing(**json.loads(metadata.get("viewing", "{}")))

    @property
    def view(self) -> tuple[int, int]:
        """See `DenseHead.view`."""
        return self.viewing.short_side, self.viewing.long_side

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """How much each pixel looks like each class, (B, K, H / 4, W / 4): the largest wins.

        Args:
            images: (B, 3, H, W) float, normalised; H and W multiples of 32.
        """

    def likelihood(self, scores: Tensor) -> Tensor:
        """Scores (K, H, W) as numbers that can be averaged over sizes of an image."""
        return scores

    @abstractmethod
    def losses(self, images: Tensor, masks: Tensor, seeds: Tensor, mean: Mean) -> dict[str, Tensor]:
        """The parts of the loss, each a scalar to be added to the others: means over the images.

        All are 0 where no pixel is labelled.

        Args:
            images: (B, 3, H, W) float, normalised; H and W multiples of 32.
            masks: (B, H, W) integers, class or -1.
            seeds: (B,) int64: every draw for an image is a function of its seed alone.
            mean: averages a normaliser over workers.
        """

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
            # One by one, for views in a batch differ in size.
            view = image[None, :, :height, :width]
            scores = look(self, view, self.config.num_classes, self.viewing, self.likelihood)
            found.append(pixel_classes(scores, *size))
        return found


def _rows(sizes: Sequence[tuple[int, int]] | Tensor) -> Sequence[tuple[int, int]]:
    return sizes.tolist() if isinstance(sizes, Tensor) else sizes
