"""Small DINO detectors."""

from __future__ import annotations

from typing import Any

import torch

from itpn_ray.models import Dino, create_dino
from itpn_ray.models.detection.dino.config import DinoConfig
from tests.models.detection.made import CLASSES
from tests.models.nets import stir

SMALL = {
    "image_size": 64,
    "depths": (1, 1, 2),
    "pyramid_width": 32,
    "channels": 64,
    "attention_heads": 2,
    "mlp_width": 64,
    "encoder_layers": 1,
    "decoder_layers": 3,
    "queries": 20,
    "denoising": 8,
}


def dino(*, stirred: bool = False, **changes: Any) -> Dino:
    """A nano detector of three classes for images of 64 pixels.

    Args:
        stirred: draw its weights so that every part matters, as nothing does at first.
        changes: see `create_dino`.
    """
    torch.manual_seed(0)
    net = create_dino("nano", **{"num_classes": CLASSES, **SMALL, **changes})
    if stirred:
        stir(net)
        with torch.no_grad():  # small steps, so that no box ends at the border of its range
            for head in (net.select.box_head, net.decoder.box_head):
                head[-1].weight.mul_(0.2)
                head[-1].bias.mul_(0.2)
    return net


def config(**changes: Any) -> DinoConfig:
    """The config of `dino`."""
    return dino(**changes).config
