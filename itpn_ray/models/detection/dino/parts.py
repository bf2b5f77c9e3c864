"""The layers of Deformable DETR that DINO is made of, from transformers; and how all are drawn.

transformers is imported when a part is made, and nothing of it reaches for the network: no layer
has weights to fetch, and no backbone of theirs is made.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.models.detection.dino.config import DeformableConfig
from itpn_ray.models.detection.dino.levels import Levels

if TYPE_CHECKING:
    from transformers.models.deformable_detr.configuration_deformable_detr import (
        DeformableDetrConfig,
    )
    from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrEncoder

POINTS = 4  # points that each head of a deformable attention reads on each level
TEMPERATURE = 20  # of the sine codes of places on a map (the authors' code)
PRIOR = 0.01  # score that the class heads give everything at first (focal loss, 4.1)


class Mlp(nn.Sequential):
    """Linear layers with ReLU between them: `depth` of them, (..., wide) to (..., out)."""

    def __init__(self, wide: int, width: int, out: int, depth: int) -> None:
        sides = [wide, *[width] * (depth - 1), out]
        layers: list[nn.Module] = []
        for before, after in pairwise(sides):
            layers += [nn.Linear(before, after), nn.ReLU()]
        super().__init__(*layers[:-1])


def part_config(config: DeformableConfig) -> DeformableDetrConfig:
    """`config` in the words of transformers, for the parts that are used of it."""
    from transformers.models.deformable_detr.configuration_deformable_detr import (
        DeformableDetrConfig,
    )

    options: dict[str, Any] = {
        "use_timm_backbone": False,  # no backbone is made; the default would ask for one of timm's
        "d_model": config.channels,
        "encoder_layers": config.encoder_layers,
        "encoder_ffn_dim": config.mlp_width,
        "encoder_attention_heads": config.attention_heads,
        "encoder_n_points": POINTS,
        "decoder_layers": config.decoder_layers,
        "decoder_ffn_dim": config.mlp_width,
        "decoder_attention_heads": config.attention_heads,
        "decoder_n_points": POINTS,
        "num_feature_levels": config.levels,
        "activation_function": "relu",
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "attn_implementation": "sdpa",  # their own would add a mask of booleans to the scores
    }
    return DeformableDetrConfig(**options)


def make_encoder(config: DeformableConfig) -> DeformableDetrEncoder:
    """The encoder: layers of deformable attention over all levels."""
    from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrEncoder

    return DeformableDetrEncoder(part_config(config))


def make_decoder_layers(config: DeformableConfig) -> nn.ModuleList:
    """The decoder's layers: attention among queries, deformable attention to the maps, MLP."""
    from transformers.models.deformable_detr.modeling_deformable_detr import (
        DeformableDetrDecoderLayer,
    )

    described = part_config(config)
    return nn.ModuleList(
        DeformableDetrDecoderLayer(described) for _ in range(config.decoder_layers)
    )


def place_codes(levels: Levels, width: int) -> list[Tensor]:
    """Sine codes of each token's place in the valid part of its level, (B, h * w, width) each."""
    from transformers.models.deformable_detr.modeling_deformable_detr import (
        DeformableDetrSinePositionEmbedding,
    )

    sine = DeformableDetrSinePositionEmbedding(width // 2, TEMPERATURE, normalize=True)
    codes = []
    for valid in levels.valid:
        batch, *shape = valid.shape
        size = torch.Size([batch, width, *shape])
        code = sine(shape=size, device=valid.device, dtype=torch.float32, mask=valid)
        codes.append(code.flatten(2).transpose(1, 2))  # (B, width, h, w) -> (B, h * w, width)
    return codes


def draw_layers(module: nn.Module) -> None:
    """Draw encoder or decoder layers, and what else has matrices, from torch's generator.

    | tensor                          | value                                               |
    |---------------------------------|-----------------------------------------------------|
    | matrices                        | Xavier uniform                                      |
    | biases                          | 0                                                   |
    | deformable attention: offsets   | weight 0; head i looks in direction i, point j at j |
    | deformable attention: weights   | weight and bias 0: all points count alike           |
    """
    from transformers.models.deformable_detr.modeling_deformable_detr import (
        DeformableDetrMultiscaleDeformableAttention,
    )

    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    for layer in module.modules():
        if isinstance(layer, DeformableDetrMultiscaleDeformableAttention):
            nn.init.zeros_(layer.sampling_offsets.weight)
            nn.init.zeros_(layer.attention_weights.weight)
            with torch.no_grad():
                layer.sampling_offsets.bias.copy_(_directions(layer.n_heads, layer.n_levels))


def draw_heads(classes: nn.Linear, boxes: Mlp) -> None:
    """Class scores of PRIOR at first, and boxes that stay where they are."""
    # The sigmoid of this is PRIOR.
    nn.init.constant_(classes.bias, -math.log((1 - PRIOR) / PRIOR))
    last = boxes[-1]
    assert isinstance(last, nn.Linear)
    # The first boxes are the anchors themselves.
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)


def _directions(heads: int, levels: int) -> Tensor:
    """Offsets of all heads, levels and points, (heads * levels * points * 2,)."""
    angles = torch.arange(heads) * (2 * math.pi / heads)
    unit = torch.stack([angles.cos(), angles.sin()], dim=-1)
    unit = F.normalize(unit, p=math.inf)  # (heads, 2), on the border of a square
    steps = torch.arange(1, POINTS + 1)[:, None]
    # (heads, levels, points, xy), flat as the layer keeps it.
    return (unit[:, None, None] * steps).expand(-1, levels, -1, -1).flatten()
