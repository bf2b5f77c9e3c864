"""DINO's choice of queries and its decoder.

Shapes: B images, S tokens of the encoder, Q queries, C classes, L levels. Boxes are (x, y, width,
height) in shares of the image.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from itpn_ray.models.detection.dino.boxes import logit, sine_code
from itpn_ray.models.detection.dino.config import DeformableConfig, DinoConfig
from itpn_ray.models.detection.dino.levels import Levels
from itpn_ray.models.detection.dino.losses import Predictions
from itpn_ray.models.detection.dino.parts import Mlp, draw_heads, draw_layers, make_decoder_layers


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The tokens of the encoder that look most like objects."""

    predictions: Predictions
    """What the encoder itself says of them: one set."""
    anchors: Tensor
    """(B, Q, 4): its boxes, for the decoder to begin with."""
    usable: Tensor
    """(B, Q) bool: False where an image has fewer tokens than there are queries."""


class Select(nn.Module):
    """Mixed query selection (DINO, 3.4): boxes from the encoder, contents learned elsewhere."""

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        width = config.channels
        self.queries = config.queries
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.class_head = nn.Linear(width, config.num_classes)
        self.box_head = Mlp(width, width, 4, 3)
        draw_layers(self.linear)
        draw_heads(self.class_head, self.box_head)

    def forward(self, tokens: Tensor, levels: Levels) -> Selection:
        """Take the tokens (B, S, width) whose best class scores highest; Q at most."""
        guesses, allowed = levels.anchors()
        tokens = self.norm(self.linear(tokens.masked_fill(~allowed[..., None], 0.0)))
        with torch.no_grad():
            # Chosen without a gradient: what learns is the head's answer for the chosen ones,
            # below.
            scores = self.class_head(tokens).amax(-1).float()  # (B, S)
        best = scores.masked_fill(~allowed, -torch.inf).topk(min(self.queries, scores.shape[1]))[1]
        tokens = _take(tokens, best)
        logits = self.class_head(tokens).float()
        # Added before the sigmoid, so that no step leaves the image.
        boxes = (self.box_head(tokens).float() + logit(_take(guesses, best))).sigmoid()
        return Selection(
            predictions=Predictions(logits=logits[None], boxes=boxes[None]),
            anchors=boxes,
            usable=allowed.gather(1, best),
        )


class Decoder(nn.Module):
    """Layers that refine boxes, each looking forward twice (DINO, 3.5).

    Layer i moves a box b[i-1] by d[i] to b'[i]. The next layer starts from b[i] = b'[i] without its
    gradient, but what layer i is judged by is b'[i-1] moved by d[i], with the gradient of b'[i-1]:
    so d[i] learns from the losses of layers i and i + 1. Both steps take the same d[i], as the
    paper has it. (The authors' code takes it once before and once after the last norm.)

    All layers share the heads.

    Args:
        config: of the network.
        masks: whether queries have masks too.
    """

    mask_head: Mlp | None

    def __init__(self, config: DeformableConfig, *, masks: bool = False) -> None:
        super().__init__()
        width = config.channels
        self.layers = make_decoder_layers(config)
        self.norm = nn.LayerNorm(width)
        self.position = Mlp(2 * width, width, width, 2)
        self.class_head = nn.Linear(width, config.num_classes)
        self.box_head = Mlp(width, width, 4, 3)
        draw_layers(self.layers)
        draw_layers(self.position)
        draw_heads(self.class_head, self.box_head)
        self.mask_head = Mlp(width, width, width, 3) if masks else None
        if self.mask_head is not None:
            draw_layers(self.mask_head)

    def forward(
        self,
        contents: Tensor,
        anchors: Tensor,
        tokens: Tensor,
        levels: Levels,
        visible: Tensor,
    ) -> Predictions:
        """Predictions of all layers, one set a layer; see `refine`."""
        found, boxes = self.refine(contents, anchors, tokens, levels, visible)
        masks = None if self.mask_head is None else self.mask_head(found).float()
        return Predictions(logits=self.class_head(found).float(), boxes=boxes, masks=masks)

    def refine(
        self,
        contents: Tensor,
        anchors: Tensor,
        tokens: Tensor,
        levels: Levels,
        visible: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What the queries hold after each of K layers (K, B, Q, width), and boxes (K, B, Q, 4).

        Args:
            contents: (B, Q, width), what the queries begin with.
            anchors: (B, Q, 4), the boxes that they begin with; no gradient flows to them.
            tokens: (B, S, width) of the encoder.
            levels: where the tokens lie.
            visible: (B, 1, Q, Q) bool, [b, 0, q, k] whether query q sees query k.
        """
        ratios = levels.ratios.repeat(1, 1, 2)[:, None]  # (B, 1, L, 4)
        shapes, starts, mask = levels.sides, levels.starts, levels.mask
        start = before = anchors.detach()
        states, boxes = [], []
        for layer in self.layers:
            contents = layer(
                contents,
                self.position(sine_code(start, tokens.shape[-1])),
                start[:, :, None] * ratios,  # (B, Q, L, 4)
                shapes,
                levels.shapes,
                starts,
                tokens,
                mask,
                attention_mask=visible,
            )
            found = self.norm(contents)
            states.append(found)
            step = self.box_head(found).float()
            # Looking forward twice (DINO): the loss of this box also reaches the step before.
            boxes.append((logit(before) + step).sigmoid())
            before = (logit(start) + step).sigmoid()
            start = before.detach()
        return torch.stack(states), torch.stack(boxes)


def _take(values: Tensor, index: Tensor) -> Tensor:
    """Rows (B, Q) of values (B, S, C), (B, Q, C)."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))
