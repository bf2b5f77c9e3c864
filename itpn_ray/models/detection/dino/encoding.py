"""Maps as the tokens of one sequence, and the deformable encoder over them.

Shapes: B images, S tokens over all maps.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from itpn_ray.models.detection.dino.config import NORM_GROUPS
from itpn_ray.models.detection.dino.levels import Levels
from itpn_ray.models.detection.dino.parts import place_codes

if TYPE_CHECKING:
    from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrEncoder


def make_projections(channels: Iterable[int], width: int) -> nn.ModuleList:
    """For each map a convolution to `width` channels with group normalisation."""
    return nn.ModuleList(
        nn.Sequential(nn.Conv2d(each, width, kernel_size=1), nn.GroupNorm(NORM_GROUPS, width))
        for each in channels
    )


def encode(
    maps: Mapping[int, Tensor],
    levels: Levels,
    projections: nn.ModuleList,
    level_codes: nn.Embedding,
    encoder: DeformableDetrEncoder,
) -> Tensor:
    """The encoder's tokens (B, S, width).

    Args:
        maps: stride -> (B, C, h, w), the finest first.
        levels: their geometry.
        projections: see `make_projections`.
        level_codes: what is added to the places of each level.
        encoder: see `make_encoder`.
    """
    tokens = [
        project(features).flatten(2).transpose(1, 2)  # (B, C, h, w) -> (B, h * w, width)
        for project, features in zip(projections, maps.values(), strict=True)
    ]
    width = level_codes.embedding_dim
    codes = [
        place + code
        for place, code in zip(place_codes(levels, width), level_codes.weight, strict=True)
    ]
    encoded = encoder(
        inputs_embeds=torch.cat(tokens, dim=1),
        attention_mask=levels.mask,
        spatial_position_embeddings=torch.cat(codes, dim=1),
        spatial_shapes=levels.sides,
        spatial_shapes_list=levels.shapes,
        level_start_index=levels.starts,
        valid_ratios=levels.ratios,
    )
    return encoded.last_hidden_state
