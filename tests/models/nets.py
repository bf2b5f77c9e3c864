"""Small networks whose weights are large enough for every part to matter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from itpn_ray.models import Classifier, DenseTrunk, create_dense, create_model


def stir(module: nn.Module, seed: int = 0) -> None:
    """Draw every parameter anew: matrices keep the scale of their input, vectors vary by 0.3."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        with torch.no_grad():
            if parameter.ndim == 2:
                parameter.copy_(1.5 * noise / parameter.shape[1] ** 0.5)
            else:
                parameter.add_(0.3 * noise)


def classifier(name: str = "nano", **changes: Any) -> Classifier:
    """A stirred classifier of ten classes for images of 64 pixels, in eval mode."""
    settings = {"num_classes": 10, "image_size": 64, "width": 32, "heads": 2, **changes}
    net = create_model(name, **settings)
    stir(net)
    return net.eval()


def dense(**changes: Any) -> DenseTrunk:
    """A stirred dense trunk for images of 64 pixels, in eval mode."""
    net = create_dense(
        "nano", image_size=64, width=32, heads=2, pyramid_width=16, levels=3, **changes
    )
    stir(net)
    return net.eval()


def make_images(batch: int, height: int, width: int | None = None, seed: int = 0) -> Tensor:
    """Noise, (B, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, height, width or height, generator=generator)
