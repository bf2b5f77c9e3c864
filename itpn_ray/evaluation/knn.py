"""Weighted nearest-neighbour accuracy of features: how well images of a class lie together.

Votes are weighted by exp(cosine / 0.07) as in Wu et al., "Unsupervised Feature Learning via
Non-Parametric Instance Discrimination" (2018), section 3.4.

Shapes: n images, d features, C classes, k neighbours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.evaluation.precision import whole_float32

NEIGHBOURS = 20  # what DINO found best (Caron et al., 2021)
TEMPERATURE = 0.07
_CHUNK = 1024


@torch.no_grad()
def knn_predict(
    bank: Tensor,
    bank_labels: Tensor,
    queries: Tensor,
    *,
    neighbours: int = NEIGHBOURS,
    own: Tensor | None = None,
) -> Tensor:
    """Predict classes by the vote of the nearest neighbours, in float32 under any autocast.

    Args:
        bank: (n, d) features of known images.
        bank_labels: (n,) int64.
        queries: (m, d) features.
        neighbours: k; all of the bank where it holds fewer.
        own: (m,) int64, the bank's row that is the query itself and has no vote.

    Returns:
        (m,) int64 classes.
    """
    # Of length 1, so that products are cosines.
    bank = F.normalize(bank.float(), dim=1)
    classes = int(bank_labels.max()) + 1
    # The image itself is not among its neighbours.
    k = min(neighbours, len(bank) - (own is not None))
    found = []
    for first in range(0, len(queries), _CHUNK):
        rows = slice(first, first + _CHUNK)
        with whole_float32(bank.device):
            likeness = F.normalize(queries[rows].float(), dim=1) @ bank.T  # (chunk, n)
        if own is not None:
            # An image is its own nearest neighbour, and would always be right.
            likeness.scatter_(1, own[rows, None], -torch.inf)
        nearest, index = likeness.topk(k, dim=1)
        votes = torch.zeros(len(nearest), classes, device=bank.device)
        # As in DINO: a vote weighs exp(cosine / temperature).
        votes.scatter_add_(1, bank_labels[index], (nearest / TEMPERATURE).exp())
        found.append(votes.argmax(1))
    return torch.cat(found) if found else bank_labels.new_zeros(0)


@torch.no_grad()
def leave_one_out_accuracy(
    features: Tensor,
    labels: Tensor,
    ids: Tensor,
    reduce: Callable[[Tensor], Tensor],
    *,
    limit: int,
    neighbours: int = NEIGHBOURS,
) -> float | None:
    """Nearest-neighbour accuracy of each image among all the others, over all workers.

    Args:
        features: (n, d) of this worker's share of a split.
        labels: (n,) int64; negative: unlabelled, left out.
        ids: (n,) int64, row of the image in the split: 0 .. images - 1 over all workers.
        reduce: sums a tensor over all workers and returns it.
        limit: most images used; of more, a fixed random choice is taken.
        neighbours: k; all others where there are fewer.

    Returns:
        Share in [0, 1]; None where fewer than two classes have two images.
    """
    device = features.device
    total = int(reduce(torch.tensor([len(ids)], dtype=torch.float64, device=device)))
    if total == 0:
        return None
    # A fixed shuffle: every so many-th image would miss classes where the order is periodic.
    order = torch.randperm(total, generator=torch.Generator().manual_seed(0)).to(device)
    slots = order[ids]
    taken = slots < limit
    slots = slots[taken]
    # Each worker fills its own rows, so the sum over workers is the whole bank.
    bank = torch.zeros(min(total, limit), features.shape[1], device=device)
    marks = torch.zeros(len(bank), dtype=torch.float64, device=device)
    bank[slots] = features[taken].float()
    # Plus one, since rows of other workers hold 0 until the sum: 0 is "nobody's".
    marks[slots] = labels[taken].double() + 1
    bank, bank_labels = reduce(bank), reduce(marks).long() - 1
    known = bank_labels >= 0
    # With fewer than two classes of two images there is nothing to tell apart.
    if int((bank_labels[known].bincount() >= 2).sum()) < 2:
        return None
    mine = slots[labels[taken] >= 0]
    row = known.cumsum(0) - 1  # slot -> row of the bank without the unlabelled
    guesses = knn_predict(
        bank[known], bank_labels[known], bank[mine], neighbours=neighbours, own=row[mine]
    )
    right = (guesses == bank_labels[mine]).sum().double()
    return float(reduce(right[None])) / int(known.sum())
