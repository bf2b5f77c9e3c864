"""Which prediction stands for which object: by the least total cost (DETR, 3.1).

Shapes: K sets of predictions (layers), B images, Q queries, M places for objects.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor


def assign(costs: Tensor, takes_part: Tensor) -> Tensor:
    """Give each object to one prediction of each set, or to none where there are not enough.

    Args:
        costs: (B, K, Q, M) float32, finite.
        takes_part: (B, Q, M) bool: where a query and an object are there.

    Returns:
        (K, B, Q) int64: a place among the M, or -1.
    """
    # Marked in the costs themselves, so that the host waits for the device once for all images.
    costs = costs.masked_fill(~takes_part[:, None], math.nan)
    batch, sets, queries, _ = costs.shape
    assigned = torch.full((sets, batch, queries), -1)
    for image, tables in enumerate(costs.cpu().numpy()):
        # Who takes part is the same in every set.
        known = ~np.isnan(tables[0])  # (Q, M)
        there, objects = known.any(axis=1).nonzero()[0], known.any(axis=0).nonzero()[0]
        for layer, table in enumerate(tables):
            rows, columns = linear_sum_assignment(table[np.ix_(there, objects)])
            assigned[layer, image, there[rows]] = torch.from_numpy(objects[columns])
    return assigned.to(takes_part.device, non_blocking=True)
