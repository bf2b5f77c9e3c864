"""What all tasks have in common that train a classifier: its network, averages and files."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.on_device import erase, mix, normalise
from itpn_ray.errors import ConfigError
from itpn_ray.models import (
    Classifier,
    create_model,
    layer_ids,
    load_weights,
    no_weight_decay,
    save_model,
)
from itpn_ray.models.networks.low_rank import add_low_rank, merged
from itpn_ray.models.weights.head import take_head
from itpn_ray.rng import Stream, uniform_torch
from itpn_ray.tasks.averaging import Averaging
from itpn_ray.tasks.base import Task, WorkerShare
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce, TrainBatches
from itpn_ray.tasks.classification.config import ClassifierTaskConfig
from itpn_ray.tasks.cost import training_cost
from itpn_ray.tasks.crop_loaders import crop_eval_loader, crop_train_loader

COUNTS = "train_counts"
"""In `Task.from_files`: training images of each class."""

C = TypeVar("C", bound=ClassifierTaskConfig)
N = TypeVar("N", bound="ClassifierNetwork")


class ClassifierNetwork(Averaging):
    """A classifier, and the moving average of it that is evaluated; who inherits adds the loss."""

    average: Classifier | None

    def __init__(self, classifier: Classifier, ema_decay: float) -> None:
        super().__init__()
        self.classifier = classifier
        if ema_decay > 0:
            self.keep_average(classifier, ema_decay)

    @property
    def evaluated(self) -> Classifier:
        """The network that is evaluated and exported: the average where there is one."""
        return self.classifier if self.average is None else self.average


class ClassifierTask(Task[C, N, Classifier]):
    """Fine-tune a classifier on square crops; what is learned from them is left to who inherits."""

    file_entries: ClassVar[dict[str, str]] = {}
    """What its weight files say beside task, classes and crop."""
    _num_drops = 0  # until the network is built

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """See `Task.check`; whether the data fit is left to who inherits.

        Raises:
            ConfigError: a head without initial weights.
        """
        del train, val
        if self.config.init_head and not self.model.init:
            raise ConfigError(
                "task.init_head",
                True,
                "there are no initial weights to take a head from",
                "Name a classifier's with --model.init, or leave it out",
            )

    def train_loader(self, train: ShardedDataset, share: WorkerShare) -> TrainBatches:
        """Random crops."""
        return crop_train_loader(self.setup, train, share)

    def eval_loader(self, val: ShardedDataset, share: WorkerShare) -> Iterable[Batch]:
        """Central crops."""
        return crop_eval_loader(self.setup, val, share)

    @abstractmethod
    def with_loss(self, classifier: Classifier) -> N:
        """The network that trains the classifier."""

    @abstractmethod
    def evaluate_model(
        self, model: nn.Module, batches: Iterable[Batch], reduce: Reduce
    ) -> Evaluation:
        """As :meth:`evaluate`, for a bare classifier."""

    def build(self) -> N:
        """The classifier with trunk weights from ``model.init``, if given, and a new head."""
        # All workers draw the same first weights: sharding does not send them around.
        torch.manual_seed(self.seed)
        classifier = create_model(
            self.model.name,
            num_classes=len(self.classes),
            image_size=self.model.image_size,
            acceleration=self.model.acceleration,
            **self.model.trunk_changes(),
        )
        if self.model.init:
            self.load_report = load_weights(
                classifier,
                self.model.init,
                key=self.model.init_key,
                partial=self.model.partial_init,
            )
            if self.model.lora_rank:
                held = [name.removeprefix("trunk.") for name in self.load_report.loaded]
                add_low_rank(classifier.trunk, self.model.lora_rank, held)
            if self.config.init_head:
                taken = take_head(classifier, self.classes, self.model.init, self.model.init_key)
                known = f"the head of {taken:,} of {len(self.classes):,} classes, by their names"
                report = self.load_report
                self.load_report = replace(report, remarks=(*report.remarks, known))
        if self.model.freeze_trunk:
            classifier.body.freeze()
        classifier.trunk.set_grad_checkpointing(self.model.checkpoint_activations)
        self._num_drops = classifier.trunk.num_drops
        return self.with_loss(classifier)

    @property
    def train_counts(self) -> Sequence[int]:
        """Training images of each class."""
        if COUNTS not in self.from_files:
            counts = read_manifest(self.setup.data).splits["train"].class_counts
            self.from_files[COUNTS] = list(counts)
        return cast(list[int], self.from_files[COUNTS])

    def mixed(self, batch: Batch, target: Tensor, epoch: int) -> Batch:
        """Normalise, erase, mix neighbouring images with their targets, draw the drop paths.

        Noise is mixed as all pixels are: erasing belongs to an image, as in timm.

        Args:
            batch: of the loader.
            target: (B, classes) float, of the images as they are.
            epoch: the epoch.
        """
        ids = batch["sample_id"]
        draws = {"seed": self.seed, "epoch": epoch}
        images = normalise(batch["image"])
        images = erase(images, ids, probability=self.config.random_erasing, **draws)
        images, target = mix(
            images, target, ids, mixup=self.config.mixup, cutmix=self.config.cutmix, **draws
        )
        noise = uniform_torch(self.seed, epoch, ids, Stream.DROP_PATH, self._num_drops)
        return {**batch, "image": images, "target": target, "drop_noise": noise}

    def layer_ids(self, network: N) -> dict[str, int]:
        """Depths of the classifier's parameters (the authors' groups)."""
        classifier = network.classifier
        return {f"classifier.{name}": depth for name, depth in layer_ids(classifier).items()}

    def no_weight_decay(self, network: N) -> set[str]:
        """Vectors and position tables."""
        classifier = network.classifier
        return {f"classifier.{name}" for name in no_weight_decay(classifier)}

    def migrating(self, network: N) -> tuple[Classifier, ...]:
        """See `Task.migrating`: the classifier and its average."""
        return network.classifier, network.evaluated

    def after_step(self, network: N, step: int) -> None:
        """Move the average."""
        network.follow(network.classifier, step)

    @torch.no_grad()
    def evaluate(self, network: N, batches: Iterable[Batch], reduce: Reduce) -> list[Evaluation]:
        """What `evaluate_model` finds, and of each class how many images it was trained on.

        The latter where the data is named.
        """
        found = self.evaluate_model(network.evaluated, batches, reduce)
        if not self.setup.data:
            return [found]
        per_class = cast(list[dict[str, object]], found.details["per_class"])
        for row, images in zip(per_class, self.train_counts, strict=True):
            row["train_images"] = images
        return [found]

    def multiply_adds(self, network: N) -> dict[str, int]:
        """Of the classifier."""
        return training_cost("classifier", network.classifier, self.model, self.model.image_size)

    def export(self, network: N, path: Path) -> None:
        """Write the evaluated classifier, low-rank updates added up, with its class names."""
        save_model(
            merged(network.evaluated),
            path,
            {
                "task": self.config.name,
                "classes": json.dumps(self.classes),
                "crop_fraction": str(self.model.evaluation_crop),
                **self.file_entries,
            },
        )

    @classmethod
    def accepts(cls, network: nn.Module) -> bool:
        """See `Task.accepts`: a classifier with a head."""
        return isinstance(network, Classifier) and network.config.num_classes > 0
