"""DINO over the pre-trained pyramid (paper 5.3; Zhang et al., ICLR 2023).

Shapes: B images, S tokens over all maps, Q queries, D noisy copies, C classes. Boxes inside are
(x, y, width, height) in shares of an image's valid part; outside they are pixels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from itpn_ray.models.detection.base import (
    MAX_DETECTIONS,
    Detections,
    Detector,
    Targets,
)
from itpn_ray.models.detection.dino.boxes import to_pixels, to_shares
from itpn_ray.models.detection.dino.config import DinoConfig
from itpn_ray.models.detection.dino.decoder import Decoder, Select, Selection
from itpn_ray.models.detection.dino.denoising import EMPTY, FREE, Copies, make_copies, visibility
from itpn_ray.models.detection.dino.encoding import encode, make_projections
from itpn_ray.models.detection.dino.levels import Levels, lay_out
from itpn_ray.models.detection.dino.losses import Predictions, match, set_losses
from itpn_ray.models.detection.dino.parts import draw_layers, make_encoder
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.networks.build import build_trunk, dense_head_config
from itpn_ray.models.networks.dense_head import Mean


class Dino(Detector):
    """A dense trunk, a deformable encoder over its maps, and a decoder of queries."""

    config: DinoConfig

    def __init__(self, config: DinoConfig, dense: DenseTrunk) -> None:
        super().__init__(config, dense)
        width = config.channels
        channels = [dense.channels[stride] for stride in dense.strides]
        self.projections = make_projections(channels, width)
        self.level_codes = nn.Embedding(config.levels, width)
        self.encoder = make_encoder(config)
        self.select = Select(config)
        self.decoder = Decoder(config)
        self.query_contents = nn.Embedding(config.queries, width)
        self.class_contents = nn.Embedding(config.num_classes, width)
        draw_layers(self.projections)
        draw_layers(self.encoder)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `Network.set_grad_checkpointing`; the encoder's layers are checkpointed too."""
        super().set_grad_checkpointing(enable)
        if enable:
            self.encoder.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.encoder.activation_checkpointing_disable()

    def encode(
        self, images: Tensor, sizes: Tensor, seeds: Tensor | None = None
    ) -> tuple[Tensor, Levels]:
        """The encoder's tokens (B, S, width), and where they lie; see `losses` and `maps`."""
        maps = self.maps(images, seeds)
        levels = lay_out(maps, sizes)
        tokens = encode(maps, levels, self.projections, self.level_codes, self.encoder)
        return tokens, levels

    def decode(
        self, tokens: Tensor, levels: Levels, selected: Selection, copies: Copies | None = None
    ) -> Predictions:
        """What the decoder makes of copies, if there are any, and of the selected tokens."""
        groups = torch.where(selected.usable, FREE, EMPTY)
        batch, queries = groups.shape
        # An image of few tokens has fewer queries than were learned.
        contents = self.query_contents.weight[:queries].expand(batch, -1, -1)
        anchors = selected.anchors
        if copies is not None:
            contents = torch.cat([self.class_contents(copies.labels), contents], dim=1)
            anchors = torch.cat([copies.boxes, anchors], dim=1)
            groups = torch.cat([copies.groups, groups], dim=1)
        return self.decoder(contents, anchors, tokens, levels, visibility(groups))

    def losses(
        self, images: Tensor, sizes: Tensor, targets: Targets, mean: Mean
    ) -> dict[str, Tensor]:
        """Class, L1 and GIoU losses of the decoder's layers, of the copies and of the encoder.

        All are weighted, and divided by the number of objects a worker has on average, 1 at least.

        See `Detector.losses`. Masks are not used.
        """
        labels, boxes = targets.labels, to_shares(targets.boxes, sizes)
        # Of all workers: a worker with few objects must not weigh them more.
        objects = mean((labels >= 0).sum().float()).clamp(min=1.0)
        tokens, levels = self.encode(images, sizes, targets.seeds)
        selected = self.select(tokens, levels)
        copies = make_copies(boxes, labels, targets.seeds, self.config)
        decoded = self.decode(tokens, levels, selected, copies)
        found, repaired = decoded.since(copies.places), decoded.before(copies.places)
        usable, weights = selected.usable, selected.usable.float()
        first = selected.predictions
        parts = {
            "": (found, match(found, boxes, labels, usable), weights),
            "denoising_": (
                repaired,
                copies.assigned.expand(len(repaired.logits), -1, -1),
                copies.weights,
            ),
            "encoder_": (first, match(first, boxes, labels, usable), weights),
        }
        return {
            f"{part}{name}": value / objects
            for part, judged in parts.items()
            for name, value in set_losses(*judged, boxes, labels).items()
        }

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """The surest of all pairs of a query and a class, by the last layer; see `Detector`."""
        return [
            Detections(
                boxes=boxes[scores >= 0],
                scores=scores[scores >= 0],
                labels=labels[scores >= 0],
                masks=None,
            )
            for boxes, scores, labels in zip(*self.surest(images, sizes), strict=True)
        ]

    def surest(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `detect`, with as many places for every image, n = `MAX_DETECTIONS` or all pairs.

        Returns:
            Boxes (B, n, 4); scores (B, n), -1 where an image has no more; labels (B, n).
        """
        tokens, levels = self.encode(images, sizes)
        selected = self.select(tokens, levels)
        predictions = self.decode(tokens, levels, selected)
        scores = predictions.logits[-1].sigmoid()  # (B, Q, C)
        # Below every probability, so that no place without a token is among the best.
        scores = scores.masked_fill(~selected.usable[..., None], -1.0)
        boxes = to_pixels(predictions.boxes[-1], sizes)
        # A query may be found as several classes: pairs of both compete.
        pairs, classes = scores.flatten(1), scores.shape[-1]
        best, place = pairs.topk(min(MAX_DETECTIONS, pairs.shape[1]))
        query = (place // classes)[..., None].expand(-1, -1, 4)
        return boxes.gather(1, query), best, place % classes


def create_dino(name: str, *, pyramid_depth: int = 1, **changes: Any) -> Dino:
    """A DINO by the name of its trunk.

    Args:
        name: see `itpn_ray.models.create_trunk`.
        pyramid_depth: blocks after each upsampling: the authors use 1; take the 2 of pixel
            pre-training to keep all that its pyramid has learned.
        changes: fields of `DinoConfig`, such as num_classes or levels; see `dense_head_config` for
            others.

    Raises:
        ConfigError: no such name or field, or a value that does not fit.
    """
    config = dense_head_config(DinoConfig, name, pyramid_depth=pyramid_depth, **changes)
    return Dino(config, DenseTrunk(config.dense, build_trunk(config.trunk)))
