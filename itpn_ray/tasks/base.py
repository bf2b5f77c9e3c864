"""The contract between the one training loop and what it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from itpn_ray.data.config import Augmentation, AugmentConfig, LoaderConfig
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.metrics import Metric
from itpn_ray.models import LoadReport
from itpn_ray.tasks.config import ModelConfig, TaskConfig

C = TypeVar("C", bound=TaskConfig)
N = TypeVar("N", bound=nn.Module)

STAGES_USAGE = (
    "u1, u2, u3 = model.trunk.stages(images)  # images: float (B, 3, H, W), normalised by "
    "itpn_ray.data.transforms.on_device.normalise"
)
"""How a pre-trained network is used: its trunk's maps at strides 4, 8 and 16."""

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


@dataclass(frozen=True, kw_only=True)
class TaskSetup(Generic[C]):
    """What a task is made from: its settings, and the parts of an experiment that it reads.

    Attributes:
        config: the task's own settings.
        model: the network.
        augment: augmentation of training images, of the class that ``config`` names.
        loader: how shards are read.
        data: URI of the prepared data.
        eval_split: split that is evaluated on.
        classes: class names, in the order of their labels.
        seed: seed of the weights and of every random draw.
        global_batch: images a step over all workers.
    """

    config: C
    model: ModelConfig = field(default_factory=ModelConfig)
    augment: Augmentation = field(default_factory=AugmentConfig)
    loader: LoaderConfig = field(default_factory=LoaderConfig)
    data: str = ""
    eval_split: str = "val"
    classes: Sequence[str] = ()
    seed: int = 0
    global_batch: int = 2


@dataclass(frozen=True, kw_only=True)
class WorkerShare:
    """Which worker a loader reads for.

    Attributes:
        rank: 0 .. world - 1.
        world: number of workers.
        pin: whether host batches lie in pinned memory, for copies to a GPU.
        eval_batch: images that are evaluated at once.
    """

    rank: int = 0
    world: int = 1
    pin: bool = False
    eval_batch: int = 1


class Task(ABC, Generic[C, N]):
    """What is trained: builds the network, loads and prepares batches, evaluates and exports.

    The network that :meth:`build` returns maps a prepared batch to a dict of loss terms, scalars
    averaged over the batch's images; the entry ``loss`` is minimised, all are logged.

    Args:
        setup: settings and data.

    Attributes:
        load_report: what :meth:`build` took from the initial weights; None where there are none.
        usage: the Python that uses a loaded network called ``model``, for the end of a run.
    """

    load_report: LoadReport | None = None
    usage: ClassVar[str]

    def __init__(self, setup: TaskSetup[C]) -> None:
        self.setup = setup
        self.config = setup.config
        self.model = setup.model
        self.seed = setup.seed
        self.classes = list(setup.classes)

    @property
    def headline(self) -> Metric:
        """The metric by which evaluations are compared."""
        return self.config.headline()

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """Refuse, before anything starts, data or settings that could not be trained on.

        Raises:
            ConfigError: settings that do not go with the data.
            DataError: data of another kind than the task needs.
        """

    def input_digests(self) -> dict[str, str]:
        """SHA-256 (hex) of what it reads beside data and initial weights, by configuration field.

        Raises:
            DataError: what it reads is missing or damaged.
            CheckpointError: a weight file is missing.
        """
        return {}

    @abstractmethod
    def train_loader(self, train: ShardedDataset, share: WorkerShare) -> TrainBatches:
        """A worker's shares of the training images."""

    @abstractmethod
    def eval_loader(self, val: ShardedDataset, share: WorkerShare) -> Iterable[Batch]:
        """A worker's share of the held-out images, each of them once."""

    @abstractmethod
    def build(self) -> N:
        """The network to train, on the CPU, with the loss inside."""

    @abstractmethod
    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Turn a device batch of the loader into the network's input; draws are by sample id."""

    def cut(self, batch: Batch, begin: int, end: int) -> Batch:
        """The images from ``begin`` to ``end`` of a prepared batch: a micro-batch."""
        return {name: tensor[begin:end] for name, tensor in batch.items()}

    @abstractmethod
    def layer_ids(self, network: N) -> dict[str, int]:
        """Parameter name -> depth, 0 at the input, for layer decay."""

    @abstractmethod
    def no_weight_decay(self, network: N) -> set[str]:
        """Names of the parameters that weight decay leaves alone."""

    def after_step(self, network: N, step: int) -> None:
        """Called after each optimiser step, 0 being the run's first, e.g. to move averages."""

    @abstractmethod
    def evaluate(self, network: N, batches: Iterable[Batch], reduce: Reduce) -> list[Evaluation]:
        """Evaluate this worker's share of the val split; figures are over all workers."""

    def draw(self, network: N, folder: Path) -> list[Path]:
        """Write images of the last evaluation; called on rank 0 only."""
        del network, folder
        return []

    def multiply_adds(self, network: N) -> dict[str, int]:
        """Multiply-adds of an image's forward pass in training, by part: student, teacher."""
        del network
        return {}

    @abstractmethod
    def export(self, network: N, path: Path) -> None:
        """Write the trained weights as safetensors that ``itpn_ray.models.load_model`` reads."""


AnyTask: TypeAlias = Task[Any, Any]
"""A task of which nothing else needs to be known."""


def average_over(reduce: Reduce, total: Tensor, count: int) -> Tensor:
    """Mean over all workers of a sum and its number of summands."""
    # One tensor for both, so that a single collective serves.
    packed = torch.cat([total.double().flatten(), total.new_tensor([count], dtype=torch.float64)])
    packed = reduce(packed)
    return packed[:-1] / packed[-1]
