"""Loss normalisers that all workers share."""

from __future__ import annotations

from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor

from itpn_ray.models.networks.dense_head import Mean


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a normaliser over all workers, which all must call this as often."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    # all_reduce works in place, and the caller's value is its own.
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def without_own_share(parts: Mapping[str, Tensor], images: Tensor, mean: Mean) -> dict[str, Tensor]:
    """Losses that were divided by a normaliser of all workers, as the loop is to be given them.

    The loop counts a worker's loss by its share of the images, which is taken out here: a sum over
    a worker's images, divided by what all of them have on average, holds that share already.

    Args:
        parts: the losses of this worker.
        images: its images, (B, ...).
        mean: averages a normaliser over workers.
    """
    own = images.new_full((), len(images))
    even = mean(own) / own
    return {name: part * even for name, part in parts.items()}
