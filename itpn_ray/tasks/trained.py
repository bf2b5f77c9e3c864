"""What is done with a trained network: it is evaluated, timed, and asked for answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from torch import nn

from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.evaluation.drawing import Drawing
from itpn_ray.evaluation.speed import Speed
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce
from itpn_ray.terminal.item_progress import Count

T = TypeVar("T", bound=nn.Module)
# Threads need no Ray, which a single network's evaluation does not start.
LOADER = LoaderConfig(transport="threads", prefetch=64)


@dataclass(frozen=True, kw_only=True)
class EvaluationPlace:
    """What a trained network is evaluated on, and where.

    Attributes:
        dataset: the split.
        device: where the network lives.
        reduce: sums over all workers.
        autocast: the precision of computations.
        batch: images a forward pass; 0: what is usual for the kind of network.
        folder: the folder of the evaluation.
    """

    dataset: ShardedDataset
    device: torch.device
    reduce: Reduce
    autocast: Callable[[], AbstractContextManager[object]]
    batch: int
    folder: Path

    @property
    def pin(self) -> bool:
        """Whether host batches lie in pinned memory."""
        return self.device.type == "cuda"


@dataclass(frozen=True, kw_only=True)
class PredictionPlace:
    """Where a trained network is asked, and how its answers are shown.

    Attributes:
        device: where the network lives.
        autocast: the precision of computations.
        drawing: how images are drawn.
        min_score: answers below are left out, where a task has scores.
    """

    device: torch.device
    autocast: Callable[[], AbstractContextManager[object]]
    drawing: Drawing = field(default_factory=lambda: Drawing(side=0))
    min_score: float = 0.0


class Evaluator(ABC, Generic[T]):
    """Evaluates trained networks of one kind on a split.

    Attributes:
        shown: the metrics that are said of each migration ratio.
        place: on what, and where.
    """

    shown: ClassVar[tuple[str, ...]]
    place: EvaluationPlace

    @abstractmethod
    def evaluate(self, network: T, ratio: float, count: Count) -> Evaluation:
        """Evaluate on the whole split, at a migration ratio, and count the images."""

    @abstractmethod
    def speeds(self, networks: Mapping[float, T]) -> dict[float, Speed]:
        """Speeds of the networks, by their keys, measured in turn."""

    def draw(self, folder: Path) -> list[Path]:
        """Draw what the last evaluation found."""
        del folder
        return []

    def details(self) -> dict[str, object]:
        """More of the last evaluation for the report, by name."""
        return {}


def counted(batches: Iterable[Batch], total: int, count: Count) -> Iterator[Batch]:
    """The same batches; those that have been worked on are counted."""
    done = 0
    for batch in batches:
        yield batch
        # After the yield: who asks for the next batch has done with this one.
        done += len(batch["sample_id"])
        count(done, total)
