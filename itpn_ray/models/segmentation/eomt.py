"""A light head of queries, in the manner of EoMT (Kerssies et al., CVPR 2025).

Queries pass through a few plain blocks together with the tokens of stride 16, and a mask is the
product of one with features of stride 4. EoMT's blocks are the trunk's last ones, and its features
are upsampled from its tokens; here the trunk stays whole, for tokens may have left its last blocks
(migration), and the features are those of the pre-trained pyramid. Attention is not masked, as in
EoMT once it is trained.

Shapes: B images, Q queries, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from itpn_ray.models.detection.dino.denoising import Copies
from itpn_ray.models.detection.dino.parts import Mlp, draw_layers
from itpn_ray.models.networks.backbone import DenseTrunk
from itpn_ray.models.segmentation.config import EomtConfig
from itpn_ray.models.segmentation.queries.losses import QueryPredictions
from itpn_ray.models.segmentation.queries.segmenter import Found, QuerySegmenter
from itpn_ray.models.segmentation.upernet import MlpHead

STRIDE = 16
"""Of the tokens that queries look at."""


class Eomt(QuerySegmenter):
    """See the module."""

    config: EomtConfig

    def __init__(self, config: EomtConfig, dense: DenseTrunk) -> None:
        super().__init__(config, dense)
        width = config.width
        self.features = MlpHead(dense.channels, width)
        self.tokens = nn.Conv2d(dense.channels[STRIDE], width, 1)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                config.attention_heads,
                4 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.query_contents = nn.Embedding(config.queries, width)
        # One logit more, for queries that stand for no class.
        self.class_head = nn.Linear(width, config.num_classes + 1)
        self.mask_head = Mlp(width, width, width, 3)
        draw_layers(self.mask_head)

    def find(self, maps: Mapping[int, Tensor], copies: Copies | None = None) -> Found:
        """See `QuerySegmenter.find`; there are no copies."""
        del copies
        tokens = self.tokens(maps[STRIDE]).flatten(2).transpose(1, 2)  # (B, h * w, C)
        queries = self.config.queries
        contents = self.query_contents.weight.expand(len(tokens), -1, -1)
        x = torch.cat([contents.to(tokens.dtype), tokens], dim=1)
        # What the queries are before the first block is judged too.
        states = [self.norm(x[:, :queries])]
        for block in self.blocks:
            x = block(x)
            states.append(self.norm(x[:, :queries]))
        stacked = torch.stack(states)
        found = QueryPredictions(
            logits=self.class_head(stacked).float(),
            masks=self.mask_head(stacked).float(),
            boxes=None,
        )
        return Found(features=self.features(maps), queries=found)
