"""The contract between the one training loop and what it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from itpn_ray.models import LoadReport

Batch = dict[str, Tensor]
"""Tensors by name, images along the first axis; see ``itpn_ray.data.schema``."""

Reduce = Callable[[Tensor], Tensor]
"""Sums a tensor over all workers, in place, and returns it."""


class TrainBatches(Protocol):
    """A worker's shares of the global batches, in an order that (seed, epoch) decides."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole global batches in an epoch."""

    def epoch(self, epoch: int, first_step: int = 0) -> Iterable[Batch]:
        """The host batches of an epoch from a step on."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        split: the name its figures are logged under, ``val`` or ``probe``.
        metrics: figure by name.
        details: larger results for the report: tables as JSON values.
    """

    split: str
    metrics: dict[str, float]
    details: dict[str, object]


class Headline(NamedTuple):
    """The figure of an evaluation by which evaluations are compared."""

    name: str
    higher: bool
    """Whether more is better."""


class Task(ABC):
    """What is trained: builds the network, prepares its batches, evaluates and exports it.

    The network that :meth:`build` returns maps a prepared batch to a dict of loss terms, scalars
    averaged over the batch's images; the entry ``loss`` is minimised, all are logged.

    Attributes:
        headline: the figure by which evaluations are compared.
        load_report: what :meth:`build` took from the initial weights; None where there are none.
    """

    headline = Headline("loss", higher=False)
    load_report: LoadReport | None = None

    @abstractmethod
    def build(self) -> nn.Module:
        """The network to train, on the CPU, with the loss inside."""

    @abstractmethod
    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Turn a device batch of the loader into the network's input; draws are by sample id."""

    @abstractmethod
    def layer_ids(self, network: nn.Module) -> dict[str, int]:
        """Parameter name -> depth, 0 at the input, for layer decay."""

    @abstractmethod
    def no_weight_decay(self, network: nn.Module) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""

    def after_step(self, network: nn.Module) -> None:  # noqa: B027  most tasks need nothing here
        """Called after each optimiser step, e.g. to move averages."""

    @abstractmethod
    def evaluate(
        self, network: nn.Module, batches: Iterable[Batch], reduce: Reduce
    ) -> list[Evaluation]:
        """Evaluate this worker's share of the val split; figures are over all workers."""

    def draw(self, network: nn.Module, folder: Path) -> list[Path]:
        """Write images of the last evaluation; called on rank 0 only."""
        del network, folder
        return []

    def multiply_adds(self, network: nn.Module) -> dict[str, int]:
        """Multiply-adds of an image's forward pass in training, by part: student, teacher."""
        del network
        return {}

    @abstractmethod
    def export(self, network: nn.Module, path: Path) -> None:
        """Write the trained weights as safetensors that ``itpn_ray.models.load_model`` reads."""


def average_over(reduce: Reduce, total: Tensor, count: int) -> Tensor:
    """Mean over all workers of a sum and its number of summands."""
    # One tensor for both, so that a single collective serves.
    packed = torch.cat([total.double().flatten(), total.new_tensor([count], dtype=torch.float64)])
    packed = reduce(packed)
    return packed[:-1] / packed[-1]
