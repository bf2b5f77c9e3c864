"""What a pre-training is judged by: its loss on held-out images, and a probe of its trunk."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from itpn_ray.evaluation.knn import leave_one_out_accuracy
from itpn_ray.models import Trunk
from itpn_ray.tasks.base import Batch, Evaluation, Reduce, average_over

PROBED = 10_000
"""Most images in the nearest-neighbour probe: its features are held on every worker."""


@torch.no_grad()
def evaluate_pretraining(
    network: nn.Module, trunk: Trunk, batches: Iterable[Batch], reduce: Reduce
) -> list[Evaluation]:
    """Mean loss terms over all workers' images, and nearest neighbours among whole images.

    Args:
        network: maps a prepared batch to loss terms.
        trunk: its trunk; the mean of the last stage's tokens is an image's feature.
        batches: prepared batches of this worker's share.
        reduce: sums over all workers.

    Returns:
        Loss terms as ``val``; top-1 of the neighbours as ``probe`` where the images have labels.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    features, labels, ids = [], [], []
    for batch in batches:
        size = len(batch["sample_id"])
        for name, value in network(batch).items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value * size
        count += size
        last_stage = trunk.stages(batch["image"])[-1]  # (B, N, 1, 1, d)
        features.append(last_stage.mean(dim=(1, 2, 3)))
        labels.append(batch["label"])
        ids.append(batch["sample_id"])
    means = average_over(reduce, torch.stack(list(sums.values())), count)
    metrics = dict(zip(sums, means.tolist(), strict=True))
    found = [Evaluation(split="val", metrics=metrics, details={})]
    accuracy = leave_one_out_accuracy(
        torch.cat(features), torch.cat(labels), torch.cat(ids), reduce, limit=PROBED
    )
    if accuracy is not None:
        found.append(Evaluation(split="probe", metrics={"knn_top1": accuracy}, details={}))
    return found
