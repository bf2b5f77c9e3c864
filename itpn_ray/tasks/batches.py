"""What travels between loaders, tasks and the training loop."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Batch = dict[str, Tensor]
"""Tensors by name, images along the first axis; see ``itpn_ray.data.schema``."""

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers, in place, and returns it."""


class TrainBatches(Protocol):
    """A worker's shares of the global batches, in an order that (seed, epoch) decides."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""

    def batches(self, first: int, last: int) -> Iterable[Batch]:
        """The host batches of steps ``first`` to ``last - 1`` of the run."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        split: the name its metrics are logged under, ``val`` or ``probe``.
        metrics: value by name.
        details: larger results for the report: tables as JSON values.
    """

    split: str
    metrics: dict[str, float]
    details: dict[str, object]


def average_over(reduce: Reduce, total: Tensor, count: int) -> Tensor:
    """Mean over all workers of a sum and its number of summands."""
    # One tensor for both, so that a single collective serves.
    packed = torch.cat([total.double().flatten(), total.new_tensor([count], dtype=torch.float64)])
    packed = reduce(packed)
    return packed[:-1] / packed[-1]
