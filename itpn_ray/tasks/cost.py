"""What an image costs in training, by part: what of it has no backward pass is told apart."""

from __future__ import annotations

from itpn_ray.models import Classifier
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.models.networks.dense_head import DenseHead
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.elastic import mean_cost

FROZEN_TRUNK = "frozen trunk"
FORWARD_ONLY = ("teacher", FROZEN_TRUNK)
"""Parts without a backward pass."""


def training_cost(
    part: str,
    network: Classifier | DenseHead,
    model: ModelConfig,
    image_size: int | tuple[int, int],
) -> dict[str, int]:
    """Multiply-adds of an image's forward pass, by part; that of a frozen trunk apart.

    Args:
        part: what the rest is called.
        network: the network in training.
        model: its settings.
        image_size: pixels, a side or (height, width).
    """
    ratios = model.elastic_migration
    whole = mean_cost(network, ratios, lambda: multiply_adds(network, image_size))
    if not model.freeze_trunk:
        return {part: whole}
    # The body is what `freeze_trunk` freezes.
    trunk = mean_cost(network, ratios, lambda: multiply_adds(network.body, image_size))
    return {FROZEN_TRUNK: trunk, part: whole - trunk}
