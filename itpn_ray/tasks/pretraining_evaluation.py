"""What a pre-training is judged by: its loss on held-out images, and a probe of its trunk."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from itpn_ray.evaluation.knn import leave_one_out_accuracy
from itpn_ray.evaluation.rank import gram, rankme
from itpn_ray.models import Trunk
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce, average_over

PROBED = 10_000
"""Most images in the nearest-neighbour probe: its features are held on every worker."""


class PretrainingNetwork(nn.Module):
    """A network that maps a prepared batch to loss terms.

    Attributes:
        terms: their names, ``loss`` among them. A worker without a held-out image needs them too,
            for the sums over all workers.
    """

    terms: tuple[str, ...]


@torch.no_grad()
def evaluate_pretraining(
    network: PretrainingNetwork, trunk: Trunk, batches: Iterable[Batch], reduce: Reduce
) -> list[Evaluation]:
    """Mean loss terms over all workers' images, and nearest neighbours among whole images.

    Args:
        network: what is pre-trained.
        trunk: its trunk; the mean of the last stage's tokens is an image's feature.
        batches: prepared batches of this worker's share, which may be empty.
        reduce: sums over all workers.

    Returns:
        Loss terms as ``val``; the features' effective rank as ``probe``, and where the images have
        labels the top-1 of their neighbours. A rank that falls towards 1 tells of a collapse.
    """
    device = next(network.parameters()).device
    # float64: sums over many thousand images lose digits in float32.
    sums = torch.zeros(len(network.terms), dtype=torch.float64, device=device)
    count = 0
    # Empty first entries, so that a worker without images has something to concatenate.
    features = [torch.zeros(0, trunk.widths[-1], device=device)]
    labels, ids = ([torch.zeros(0, dtype=torch.int64, device=device)] for _ in range(2))
    for batch in batches:
        size = len(batch["sample_id"])
        terms = network(batch)
        # Means over a batch become sums again, for the last batch may be smaller.
        sums += torch.stack([terms[name] for name in network.terms]).double() * size
        count += size
        last_stage = trunk.stages(batch["image"])[-1]  # (B, N, 1, 1, d)
        # float32 before the mean: neighbours differ by less than bf16 can hold.
        features.append(last_stage.float().mean(dim=(1, 2, 3)))
        labels.append(batch["label"])
        ids.append(batch["sample_id"])
    means = average_over(reduce, sums, count).tolist()
    metrics = dict(zip(network.terms, means, strict=True))
    found = torch.cat(features)
    # Products (d, d) add up over workers, so that no features have to be gathered for the rank.
    probe = {"rankme": rankme(reduce(gram(found)))}
    accuracy = leave_one_out_accuracy(
        found, torch.cat(labels), torch.cat(ids), reduce, limit=PROBED
    )
    if accuracy is not None:
        probe["knn_top1"] = accuracy
    return [
        Evaluation(split="val", metrics=metrics, details={}),
        Evaluation(split="probe", metrics=probe, details={}),
    ]
