"""MaskDINO for semantic segmentation (Li et al., CVPR 2023; paper, Table 6).

DINO's encoder and decoder; a mask is the product of a query with features of stride 4, which the
encoder's finest map is joined with. Queries and anchors are learned, and noisy copies are all to
be repaired, as in the authors' configuration for ADE20K; copies and queries do not see each other.

Shapes: B images, S tokens over strides 8 to 32, Q queries, D noisy copies, C channels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from itpn_ray.models.detection.dino.decoder import Decoder
from itpn_ray.models.detection.dino.denoising import FREE, Copies, make_copies, visibility
from itpn_ray.models.detection.dino.encoding import encode, make_projections
from itpn_ray.models.detection.dino.levels import Levels, lay_out
from itpn_ray.models.detection.dino.masks import feature_layers, join_features
from itpn_ray.models.detection.dino.parts import Mlp, draw_layers, make_encoder
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.segmentation.config import MaskDinoConfig
from itpn_ray.models.segmentation.queries.losses import QueryPredictions
from itpn_ray.models.segmentation.queries.segmenter import Found, QuerySegmenter
from itpn_ray.models.segmentation.queries.targets import ImageClasses

FINEST = 4
"""Stride of the map that the encoder does not see."""


class PixelDecoder(nn.Module):
    """The encoder over strides 8 to 32, and features of stride 4.

    Args:
        config: the segmenter.
        channels: of the map of each stride.
    """

    def __init__(self, config: MaskDinoConfig, channels: Mapping[int, int]) -> None:
        super().__init__()
        width = config.channels
        coarser = [count for stride, count in channels.items() if stride != FINEST]
        self.projections = make_projections(coarser, width)
        self.level_codes = nn.Embedding(config.levels, width)
        self.encoder = make_encoder(config)
        self.lateral, self.smooth, self.features = feature_layers(channels[FINEST], width)
        draw_layers(self)

    def forward(self, maps: Mapping[int, Tensor]) -> tuple[Tensor, Tensor, Levels]:
        """Features (B, C, H / 4, W / 4); the encoder's tokens (B, S, C), and where they lie."""
        coarser = OrderedDict((stride, x) for stride, x in maps.items() if stride != FINEST)
        finest = maps[FINEST]
        height, width = (FINEST * side for side in finest.shape[-2:])
        # Not len(finest), here and below: an exported program would take it for a constant.
        sizes = torch.tensor([[height, width]], device=finest.device).expand(finest.shape[0], -1)
        levels = lay_out(coarser, sizes)
        tokens = encode(coarser, levels, self.projections, self.level_codes, self.encoder)
        layers = (self.lateral, self.smooth, self.features)
        return join_features(layers, finest, tokens, levels.shapes[0]), tokens, levels


class MaskDecoder(Decoder):
    """DINO's decoder whose queries have a mask too; what they begin with is judged as well."""

    mask_head: Mlp

    def __init__(self, config: MaskDinoConfig) -> None:
        super().__init__(config)
        width = config.channels
        # One logit more, for queries that stand for no class.
        self.class_head = nn.Linear(width, config.num_classes + 1)
        self.mask_head = Mlp(width, width, width, 3)
        draw_layers(self.mask_head)

    def predict(
        self, contents: Tensor, anchors: Tensor, tokens: Tensor, levels: Levels, visible: Tensor
    ) -> QueryPredictions:
        """Predictions before the first layer and after each; see `Decoder.refine`."""
        states, boxes = self.refine(contents, anchors, tokens, levels, visible)
        # What the queries are before the first layer is judged too.
        states = torch.cat([self.norm(contents)[None], states])
        return QueryPredictions(
            logits=self.class_head(states).float(),
            masks=self.mask_head(states).float(),
            boxes=torch.cat([anchors[None].float(), boxes]),
        )


class MaskDino(QuerySegmenter):
    """See the module."""

    config: MaskDinoConfig

    def __init__(self, config: MaskDinoConfig, dense: DenseTrunk) -> None:
        super().__init__(config, dense)
        width = config.channels
        self.pixels = PixelDecoder(config, dense.channels)
        self.decoder = MaskDecoder(config)
        self.query_contents = nn.Embedding(config.queries, width)
        self.query_anchors = nn.Embedding(config.queries, 4)
        self.class_contents = nn.Embedding(config.num_classes, width)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """See `Network.set_grad_checkpointing`; the encoder's layers are checkpointed too."""
        super().set_grad_checkpointing(enable)
        if enable:
            self.pixels.encoder.activation_checkpointing_enable({"use_reentrant": False})
        else:
            self.pixels.encoder.activation_checkpointing_disable()

    def copies(self, targets: ImageClasses, seeds: Tensor) -> Copies:
        """See `QuerySegmenter.copies`."""
        return make_copies(targets.boxes, targets.labels, seeds, self.config, far=False)

    def find(self, maps: Mapping[int, Tensor], copies: Copies | None = None) -> Found:
        """See `QuerySegmenter.find`."""
        features, tokens, levels = self.pixels(maps)
        batch = tokens.shape[0]
        contents = self.query_contents.weight.expand(batch, -1, -1)
        # Learned as logits, so that they stay inside the image.
        anchors = self.query_anchors.weight.sigmoid().expand(batch, -1, -1)
        groups = torch.full(contents.shape[:2], FREE, device=tokens.device)
        if copies is not None:
            contents = torch.cat([self.class_contents(copies.labels), contents], dim=1)
            anchors = torch.cat([copies.boxes, anchors], dim=1)
            groups = torch.cat([copies.groups, groups], dim=1)
        found = self.decoder.predict(contents, anchors, tokens, levels, visibility(groups))
        if copies is None:
            return Found(features=features, queries=found)
        return Found(
            features=features,
            queries=found.since(copies.places),
            repaired=found.before(copies.places),
        )
