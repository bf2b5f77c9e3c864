"""The contract between the one training loop and what it trains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeAlias, TypeVar, cast

import torch
from torch import nn

from itpn_ray.data.config import Augmentation, AugmentConfig, LoaderConfig
from itpn_ray.data.loading.image_folder import Predict
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.metrics import Metric
from itpn_ray.models import LoadReport
from itpn_ray.models.acceleration.config import Accelerated
from itpn_ray.models.acceleration.gathering import refuse_other_windows
from itpn_ray.models.config import PyramidConfig
from itpn_ray.models.weights.files import build_network, read_pyramid
from itpn_ray.models.weights.read import read_weights
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce, TrainBatches
from itpn_ray.tasks.config import ModelConfig, TaskConfig
from itpn_ray.tasks.elastic import check_ratios, metric_at, ratio_of_step
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator, PredictionPlace

C = TypeVar("C", bound=TaskConfig)
N = TypeVar("N", bound=nn.Module)
T = TypeVar("T", bound=nn.Module)

STAGES_USAGE = 'u1, u2, u3 = model.trunk.stages(model.preprocess("photo.jpg")[None])'
"""How a pre-trained network is used: its trunk's maps at strides 4, 8 and 16."""

PYRAMID = "pyramid"
"""In `Task.from_files`: the shape of the initial weights' pyramid; None where they have none."""


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


class Task(ABC, Generic[C, N, T]):
    """What is trained: builds the network, loads and prepares batches, evaluates and exports.

    The network that :meth:`build` returns maps a prepared batch to a dict of loss terms, scalars
    averaged over the batch's images; the entry ``loss`` is minimised, all are logged.

    Args:
        setup: settings and data.

    Attributes:
        load_report: what :meth:`build` took from the initial weights; None where there are none.
        usage: the Python that uses a loaded network called ``model``, for the end of a run.
        from_files: what :meth:`build` reads from files beside weights, by names of its own, JSON
            values. What stands here is not read, so that a network can be built again without them.

    A class method of a task takes networks that have been trained, of type ``T``: whoever calls it
    has a weight file, and not the run that wrote it.
    """

    load_report: LoadReport | None = None
    usage: ClassVar[str]
    predict_batch: ClassVar[int] = 64
    """Images of a folder that a trained network is asked about at once, unless the user says."""

    def __init__(self, setup: TaskSetup[C]) -> None:
        self.setup = setup
        self.config = setup.config
        self.model = setup.model
        self.seed = setup.seed
        self.classes = list(setup.classes)
        self.from_files: dict[str, Any] = {}

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

    def initial_pyramid(self) -> PyramidConfig | None:
        """The pyramid of the network in ``model.init``; None where there is none.

        Raises:
            CheckpointError: that is no weight file.
        """
        if self.model.init and PYRAMID not in self.from_files:
            found = read_pyramid(self.model.init, self.model.init_key)
            self.from_files[PYRAMID] = None if found is None else asdict(found)
        shape = self.from_files.get(PYRAMID)
        return None if shape is None else PyramidConfig(**shape)

    @abstractmethod
    def build(self) -> N:
        """The network to train, on the CPU, with the loss inside."""

    def compile(self, network: N) -> nn.Module:
        """What is called in a step in the place of ``network``, on its device, compiled."""
        return cast(nn.Module, torch.compile(network))

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

    def migrating(self, network: N) -> tuple[Accelerated, ...]:
        """The networks whose r changes with each step of elastic training: trained, evaluated."""
        del network
        return ()

    def check_elastic(self, network: N) -> None:
        """Refuse, before the first step, elastic r that ``network`` cannot have.

        Raises:
            ConfigError: the task names no networks that migrate, or a ratio is too large.
        """
        ratios = self.model.elastic_migration
        if not ratios:
            return
        networks = self.migrating(network)
        # Else every step, and each metric "at r", would silently be at r = 0.
        if not networks:
            raise ConfigError(
                "model.elastic_migration",
                ratios,
                f"networks of {self.config.name} have no r that could change with the step",
                "Leave it out",
            )
        for each in networks:
            check_ratios(each, ratios)

    def set_ratio(self, network: N, ratio: float) -> None:
        """Give the trained and the evaluated network another r."""
        for each in self.migrating(network):
            each.set_migration(ratio)

    def before_step(self, network: N, step: int) -> None:
        """Called before each step, 0 being the run's first: elastic r is that of the step."""
        if ratios := self.model.elastic_migration:
            self.set_ratio(network, ratio_of_step(ratios, self.seed, step))

    def after_step(self, network: N, step: int) -> None:
        """Called after each optimiser step, 0 being the run's first, e.g. to move averages."""

    @abstractmethod
    def evaluate(self, network: N, batches: Iterable[Batch], reduce: Reduce) -> list[Evaluation]:
        """Evaluate this worker's share of the val split; metrics are over all workers."""

    def evaluate_ratios(
        self, network: N, batches: Callable[[], Iterable[Batch]], reduce: Reduce
    ) -> list[Evaluation]:
        """`evaluate`; with elastic r at 0, and its headline metric at every other r too.

        Args:
            network: what `build` returned.
            batches: opens this worker's share of the val split.
            reduce: sums over all workers.
        """
        ratios, name = self.model.elastic_migration, self.headline.name
        others = {}
        # Only r = 0 is tabulated and drawn; of the others the headline metric is enough to compare.
        for ratio in ratios[1:]:
            self.set_ratio(network, ratio)
            found = self.evaluate(network, batches(), reduce)
            others[metric_at(name, ratio)] = found[0].metrics[name]
        if ratios:
            self.set_ratio(network, 0.0)  # last, so that what is drawn is of r = 0
        first, *rest = self.evaluate(network, batches(), reduce)
        return [replace(first, metrics=first.metrics | others), *rest]

    def draw(self, network: N, folder: Path) -> list[Path]:
        """Write images of the last evaluation; called on rank 0 only."""
        del network, folder
        return []

    def multiply_adds(self, network: N) -> dict[str, int]:
        """Multiply-adds of an image's forward pass in training, by part: student, teacher."""
        del network
        return {}

    def work_share(self, batch: Batch) -> float:
        """Multiply-adds of an image of a prepared training batch over `multiply_adds`, about."""
        del batch
        return 1.0

    @abstractmethod
    def export(self, network: N, path: Path) -> None:
        """Write the trained weights as safetensors that ``itpn_ray.models.load_model`` reads."""

    # --- trained networks ------------------------------------------------------------------------

    @classmethod
    def load_lines(cls, path: str) -> list[str]:
        """The Python that loads a file that the task exported, and uses the network."""
        return [
            "from itpn_ray.models import load_model",
            f'model = load_model("{path}")',
            cls.usage,
        ]

    @classmethod
    def load(cls, path: str, key: str | None = None) -> tuple[T, tuple[str, ...]]:
        """The network in a file that the task exported, and what is to be said of the file.

        Args:
            path: a weight file or a run's folder.
            key: which network of a file that holds several; None: the usual one.

        Raises:
            CheckpointError: there is no such file, or it holds something else.
        """
        found = read_weights(path, key=key)
        network, _ = build_network(found)
        if not cls.accepts(network):
            raise CheckpointError(
                found.subject,
                type(network).__name__,
                "is no classifier, detector or segmenter with classes",
                "Give the weights of a fine-tuning, detection or segmentation run",
            )
        return cast(T, network), found.remarks

    @classmethod
    def accepts(cls, network: nn.Module) -> bool:
        """Whether a loaded network is one that the task evaluates and predicts with."""
        del network
        return False

    @classmethod
    def class_names(cls, network: T, usual: Sequence[str] = ()) -> list[str]:
        """The classes as the file names them, else ``usual`` if there are as many, else numbers.

        The authors' files name none; their numbers are those of ImageNet's folders in order.
        """
        named = list(cast(Any, network).classes)
        if named:
            return named
        count = cast(Any, network).config.num_classes
        # The data's names only if there are as many: else they name something else.
        return list(usual) if len(usual) == count else [str(number) for number in range(count)]

    @classmethod
    def names_classes(cls, network: T) -> bool:
        """Whether the network's file names its classes."""
        return bool(cast(Any, network).classes)

    @classmethod
    def check_split(cls, dataset: ShardedDataset) -> None:
        """Refuse data that networks cannot be trained or evaluated on; asked before all else.

        Raises:
            DataError: it is of another kind than the task needs.
        """

    @classmethod
    def accelerate(
        cls, network: T, *, migration: float, window: int | None, gathering: bool
    ) -> None:
        """Set what can be changed of a trained network: r, and windows where they are named.

        Raises:
            ConfigError: it has learned offsets inside windows of another size.
        """
        if window is not None:
            refuse_other_windows(network, window)
            cast(Any, network).set_gathering(window, gathering=gathering)
        cast(Any, network).set_migration(migration)

    @classmethod
    def look(cls, network: T, scales: tuple[float, ...], mirror: bool) -> None:
        """Have each image be seen at several sizes, and mirrored.

        Raises:
            ConfigError: networks of this task see an image once.
        """
        del network
        name, value = ("mirror", mirror) if mirror else ("scales", scales)
        raise ConfigError(name, value, "is for segmenters", "Leave it out")

    @classmethod
    def evaluator(cls, network: T, classes: Sequence[str], place: EvaluationPlace) -> Evaluator[T]:
        """What evaluates the network, and others of its kind, on a split.

        Raises:
            ConfigError: trained networks of this task are not evaluated by themselves.
        """
        del network, classes, place
        raise ConfigError(
            "weights",
            cls.__name__,
            "has no evaluation of trained networks",
            "Its runs evaluate while they train; see their report",
        )

    @classmethod
    def predictor(cls, network: T, classes: Sequence[str], place: PredictionPlace) -> Predict:
        """What answers for the images of a folder.

        Raises:
            ConfigError: trained networks of this task have no answers.
        """
        del network, classes, place
        raise ConfigError(
            "weights", cls.__name__, "has nothing to predict", "Give a fine-tuned network"
        )

    @classmethod
    def answers(cls) -> bool:
        """Whether trained networks of this task have answers for images."""
        # Access makes a new bound method each time; the functions beneath are the same object.
        return cls.predictor.__func__ is not Task.predictor.__func__  # type: ignore[attr-defined]

    @classmethod
    def categories(cls, network: T) -> list[dict[str, Any]] | None:
        """COCO's ``categories`` where predictions are a COCO results file, else None."""
        del network
        return None


AnyTask: TypeAlias = Task[Any, Any, Any]
"""A task of which nothing else needs to be known."""
