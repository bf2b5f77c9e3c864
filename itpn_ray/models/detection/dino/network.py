"""DINO over the pre-trained pyramid (paper 5.3; Zhang et al., ICLR 2023).

Shapes: B images, S tokens over all maps, Q queries, D noisy copies, C classes. Boxes inside are
(x, y, width, height) in shares of an image's valid part; outside they are pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from itpn_ray.errors import DataError
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
from itpn_ray.models.detection.dino.masks import (
    draw_points,
    feature_layers,
    join_features,
    mask_losses,
    pairs_of_copies,
    pairs_of_objects,
    read_masks,
)
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
        seen = dense.strides[-config.levels :]
        self.projections = make_projections([dense.channels[stride] for stride in seen], width)
        self.level_codes = nn.Embedding(config.levels, width)
        self.encoder = make_encoder(config)
        self.select = Select(config)
        self.decoder = Decoder(config, masks=config.masks)
        self.query_contents = nn.Embedding(config.queries, width)
        self.class_contents = nn.Embedding(config.num_classes, width)
        draw_layers(self.projections)
        draw_layers(self.encoder)
        finest = dense.channels[dense.strides[0]]
        self.mask_layers = nn.ModuleList(feature_layers(finest, width) if config.masks else ())
        draw_layers(self.mask_layers)

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
        return self.encode_maps(self.maps(images, seeds), sizes)

    def encode_maps(self, maps: Mapping[int, Tensor], sizes: Tensor) -> tuple[Tensor, Levels]:
        """Likewise, from all maps of the trunk; the encoder sees its number of the coarsest."""
        seen = dict(list(maps.items())[-self.config.levels :])
        levels = lay_out(seen, sizes)
        tokens = encode(seen, levels, self.projections, self.level_codes, self.encoder)
        return tokens, levels

    def features(self, maps: Mapping[int, Tensor], tokens: Tensor, levels: Levels) -> Tensor:
        """What masks are made of, (B, width, H / 4, W / 4)."""
        finest = next(iter(maps.values()))
        return join_features(self.mask_layers, finest, tokens, levels.shapes[0])

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

        With masks also "mask" and "dice", of the layers and of the copies.

        All are weighted, and divided by the number of objects a worker has on average, 1 at least.

        See `Detector.losses`. Masks are learned by the objects that have one.

        Raises:
            DataError: masks are to be learned, and there are none.
        """
        labels, boxes = targets.labels, to_shares(targets.boxes, sizes)
        # Of all workers: a worker with few objects must not weigh them more.
        objects = mean((labels >= 0).sum().float()).clamp(min=1.0)
        maps = self.maps(images, targets.seeds)
        tokens, levels = self.encode_maps(maps, sizes)
        selected = self.select(tokens, levels)
        copies = make_copies(boxes, labels, targets.seeds, self.config)
        decoded = self.decode(tokens, levels, selected, copies)
        found, repaired = decoded.since(copies.places), decoded.before(copies.places)
        usable, weights = selected.usable, selected.usable.float()
        first = selected.predictions
        # Objects are given to queries by class and box, with masks or without.
        assigned = match(found, boxes, labels, usable)
        parts = {
            "": (found, assigned, weights),
            "denoising_": (
                repaired,
                copies.assigned.expand(len(repaired.logits), -1, -1),
                copies.weights,
            ),
            "encoder_": (first, match(first, boxes, labels, usable), weights),
        }
        losses = {
            f"{part}{name}": value
            for part, judged in parts.items()
            for name, value in set_losses(*judged, boxes, labels).items()
        }
        if self.config.masks:
            features = self.features(maps, tokens, levels)
            losses |= _mask_losses(features, found, assigned, repaired, copies, targets, sizes)
        return {name: value / objects for name, value in losses.items()}

    @torch.no_grad()
    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        """The surest of all pairs of a query and a class, by the last layer; see `Detector`."""
        maps = self.maps(images)
        tokens, levels = self.encode_maps(maps, sizes)
        selected = self.select(tokens, levels)
        predictions = self.decode(tokens, levels, selected)
        boxes, scores, labels, queries = _surest(predictions, selected, sizes)
        found = []
        features = self.features(maps, tokens, levels) if self.config.masks else None
        for image, real in enumerate(scores >= 0):
            own = boxes[image, real]
            masks = None
            if features is not None and predictions.masks is not None:
                wanted = predictions.masks[-1, image, queries[image, real]]
                masks = read_masks(features[image], wanted, own)
            found.append(
                Detections(
                    boxes=own, scores=scores[image, real], labels=labels[image, real], masks=masks
                )
            )
        return found

    def surest(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `detect`, with as many places for every image, n = `MAX_DETECTIONS` or all pairs.

        Returns:
            Boxes (B, n, 4); scores (B, n), -1 where an image has no more; labels (B, n).
        """
        tokens, levels = self.encode(images, sizes)
        selected = self.select(tokens, levels)
        return _surest(self.decode(tokens, levels, selected), selected, sizes)[:3]


def _surest(
    predictions: Predictions, selected: Selection, sizes: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `Dino.surest`; and the query of each, (B, n)."""
    scores = predictions.logits[-1].sigmoid()  # (B, Q, C)
    # Below every probability, so that no place without a token is among the best.
    scores = scores.masked_fill(~selected.usable[..., None], -1.0)
    boxes = to_pixels(predictions.boxes[-1], sizes)
    # A query may be found as several classes: pairs of both compete.
    pairs, classes = scores.flatten(1), scores.shape[-1]
    best, place = pairs.topk(min(MAX_DETECTIONS, pairs.shape[1]))
    query = place // classes
    return boxes.gather(1, query[..., None].expand(-1, -1, 4)), best, place % classes, query


def _mask_losses(
    features: Tensor,
    found: Predictions,
    assigned: Tensor,
    repaired: Predictions,
    copies: Copies,
    targets: Targets,
    sizes: Tensor,
) -> dict[str, Tensor]:
    """The losses of masks, of queries and of noisy copies."""
    if targets.masks is None:
        raise DataError("masks", None, "the batch has none", "Use data with masks, or masks=False")
    assert found.masks is not None
    assert repaired.masks is not None
    points = draw_points(features, targets, sizes)
    matched = pairs_of_objects(assigned, targets.labels.shape[1])
    copied = pairs_of_copies(copies.assigned, copies.weights, len(repaired.masks))
    noisy = mask_losses(repaired.masks, copied, points)
    return {
        **mask_losses(found.masks, matched, points),
        **{f"denoising_{name}": value for name, value in noisy.items()},
    }


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
