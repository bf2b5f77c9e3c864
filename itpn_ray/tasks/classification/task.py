"""Fine-tuning for classification (paper, 5.2)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.data.annotations.objects import check_classification
from itpn_ray.data.loading.image_folder import Predict
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.on_device import erase, mix, normalise
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.evaluation.confusion import plot_confusion
from itpn_ray.evaluation.mistakes import Mistakes
from itpn_ray.evaluation.topk import TopK
from itpn_ray.models import (
    Classifier,
    create_model,
    layer_ids,
    load_weights,
    no_weight_decay,
    save_model,
)
from itpn_ray.models.weights.head import take_head
from itpn_ray.rng import Stream, uniform_torch
from itpn_ray.tasks.averaging import Averaging
from itpn_ray.tasks.base import Task, TaskSetup, WorkerShare
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce, TrainBatches
from itpn_ray.tasks.classification.class_weights import class_weights
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.cost import training_cost
from itpn_ray.tasks.crop_loaders import crop_eval_loader, crop_train_loader
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator, PredictionPlace

COUNTS = "train_counts"
"""In `Task.from_files`: training images of each class."""


class ClassificationNetwork(Averaging):
    """The classifier with its loss, and the moving average of it that is evaluated."""

    average: Classifier | None
    class_weights: Tensor | None

    def __init__(
        self, classifier: Classifier, ema_decay: float, class_weights: Sequence[float] = ()
    ) -> None:
        super().__init__()
        self.classifier = classifier
        # No part of checkpoints: they follow from settings and data.
        weights = torch.tensor(class_weights) if class_weights else None  # (classes,)
        self.register_buffer("class_weights", weights, persistent=False)
        if ema_decay > 0:
            self.keep_average(classifier, ema_decay)

    @property
    def evaluated(self) -> Classifier:
        """The network that is evaluated and exported: the average where there is one."""
        return self.classifier if self.average is None else self.average

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the soft targets (B, classes), averaged over the batch.

        Each class of a target counts by its weight; the mean is over images, not over weights, so
        that micro-batches and workers add up.
        """
        logits = self.classifier(batch["image"], drop_noise=batch["drop_noise"])
        # Targets are probabilities, so PyTorch divides
        # by the images, not by the sum of their weights.
        return {"loss": F.cross_entropy(logits.float(), batch["target"], self.class_weights)}


class ClassificationTask(Task[Classification, ClassificationNetwork, Classifier]):
    """Fine-tune a classifier.

    Attributes:
        mistakes: of the last evaluation, among this rank's images.
    """

    usage = 'logits = model(model.preprocess("photo.jpg")[None])'

    def __init__(self, setup: TaskSetup[Classification]) -> None:
        super().__init__(setup)
        self.mistakes = Mistakes()
        self._confusion: Tensor | None = None
        self._num_drops = 0

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """Refuse data with nothing to tell apart.

        Raises:
            DataError: there are no labels, or fewer than two classes.
            ConfigError: weights of classes that are not there; a head without initial weights.
        """
        for dataset in (train, val):
            check_classification(dataset)
        if len(train.classes) < 2:
            raise DataError(
                train.uri,
                list(train.classes),
                "has fewer than two classes to tell apart",
                "Prepare a folder with one subfolder a class",
            )
        # For its errors alone: a class that is not there is refused before anything starts.
        self._class_weights()
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

    def build(self) -> ClassificationNetwork:
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
            if self.config.init_head:
                taken = take_head(classifier, self.classes, self.model.init, self.model.init_key)
                known = f"the head of {taken:,} of {len(self.classes):,} classes, by their names"
                report = self.load_report
                self.load_report = replace(report, remarks=(*report.remarks, known))
        if self.model.freeze_trunk:
            classifier.body.freeze()
        classifier.trunk.set_grad_checkpointing(self.model.checkpoint_activations)
        # Known once the network is built; `prepare` draws as many numbers for each image.
        self._num_drops = classifier.trunk.num_drops
        return ClassificationNetwork(classifier, self.config.ema_decay, self._class_weights())

    def _class_weights(self) -> list[float]:
        """A weight a class; none where all count the same."""
        texts = self.config.class_weights
        if not texts:
            return []
        return class_weights(texts, self.classes, self._train_counts)

    @property
    def _train_counts(self) -> Sequence[int]:
        """Training images of each class."""
        if COUNTS not in self.from_files:
            counts = read_manifest(self.setup.data).splits["train"].class_counts
            self.from_files[COUNTS] = list(counts)
        return cast(list[int], self.from_files[COUNTS])

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Normalise, erase, mix neighbouring images, smooth the targets, draw the drop paths.

        Noise is mixed as all pixels are: erasing belongs to an image, as in timm.
        """
        ids = batch["sample_id"]
        images = erase(
            normalise(batch["image"]),
            ids,
            seed=self.seed,
            epoch=epoch,
            probability=self.config.random_erasing,
        )
        # Smoothed before they are mixed, as timm does: the mix of two smooth targets still sums to
        # 1.
        one_hot = F.one_hot(batch["label"], len(self.classes)).float()  # (B, classes)
        smoothing = self.config.label_smoothing
        images, target = mix(
            images,
            one_hot * (1.0 - smoothing) + smoothing / len(self.classes),
            ids,
            seed=self.seed,
            epoch=epoch,
            mixup=self.config.mixup,
            cutmix=self.config.cutmix,
        )
        noise = uniform_torch(self.seed, epoch, ids, Stream.DROP_PATH, self._num_drops)
        return {**batch, "image": images, "target": target, "drop_noise": noise}

    def layer_ids(self, network: ClassificationNetwork) -> dict[str, int]:
        """Depths of the classifier's parameters (the authors' groups)."""
        classifier = network.classifier
        return {f"classifier.{name}": depth for name, depth in layer_ids(classifier).items()}

    def no_weight_decay(self, network: ClassificationNetwork) -> set[str]:
        """Vectors and position tables."""
        classifier = network.classifier
        return {f"classifier.{name}" for name in no_weight_decay(classifier)}

    def migrating(self, network: ClassificationNetwork) -> tuple[Classifier, ...]:
        """See `Task.migrating`: the classifier and its average."""
        return network.classifier, network.evaluated

    def after_step(self, network: ClassificationNetwork, step: int) -> None:
        """Move the average."""
        network.follow(network.classifier, step)

    @torch.no_grad()
    def evaluate(
        self, network: ClassificationNetwork, batches: Iterable[Batch], reduce: Reduce
    ) -> list[Evaluation]:
        """Top-1 and top-5 accuracy, the per-class table, and the confusion matrix.

        The table also tells how many images each class was trained on, where the data is named.
        """
        found = self.evaluate_model(network.evaluated, batches, reduce)
        # A bare network is also evaluated where no prepared data is named.
        if not self.setup.data:
            return [found]
        per_class = cast(list[dict[str, object]], found.details["per_class"])
        for row, images in zip(per_class, self._train_counts, strict=True):
            row["train_images"] = images
        return [found]

    @torch.no_grad()
    def evaluate_model(
        self, model: nn.Module, batches: Iterable[Batch], reduce: Reduce
    ) -> Evaluation:
        """As :meth:`evaluate`, for a bare classifier."""
        topk, mistakes = TopK(len(self.classes)), Mistakes()
        for batch in batches:
            logits, labels = model(normalise(batch["image"])), batch["label"]
            topk.update(logits, labels)
            mistakes.update(batch["image"], logits, labels, batch["sample_id"])
        topk.reduce(reduce)
        self._confusion, self.mistakes = topk.confusion, mistakes
        return Evaluation(
            split="val",
            metrics=topk.metrics(),
            details={"per_class": topk.per_class(self.classes), "images": topk.count},
        )

    def draw(self, network: ClassificationNetwork, folder: Path) -> list[Path]:
        """See :meth:`draw_last`."""
        del network
        return self.draw_last(folder)

    def draw_last(self, folder: Path) -> list[Path]:
        """The last evaluation's confusion matrix, and the mistakes among this rank's images."""
        drawn = []
        if self._confusion is not None:
            drawn.append(plot_confusion(self._confusion, self.classes, folder / "confusion.png"))
        if self.mistakes.worst:
            drawn.append(self.mistakes.draw(self.classes, folder / "mistakes.png"))
        return drawn

    def multiply_adds(self, network: ClassificationNetwork) -> dict[str, int]:
        """Of the classifier."""
        return training_cost("classifier", network.classifier, self.model, self.model.image_size)

    def export(self, network: ClassificationNetwork, path: Path) -> None:
        """Write the evaluated classifier, with its class names."""
        save_model(
            network.evaluated,
            path,
            {
                "task": self.config.name,
                "classes": json.dumps(self.classes),
                "crop_fraction": str(self.model.evaluation_crop),
            },
        )

    @classmethod
    def accepts(cls, network: nn.Module) -> bool:
        """See `Task.accepts`: a classifier with a head."""
        return isinstance(network, Classifier) and network.config.num_classes > 0

    @classmethod
    def check_split(cls, dataset: ShardedDataset) -> None:
        """See `Task.check_split`: images with a label each."""
        check_classification(dataset)

    @classmethod
    def evaluator(
        cls, network: Classifier, classes: Sequence[str], place: EvaluationPlace
    ) -> Evaluator[Classifier]:
        """See `Task.evaluator`."""
        from itpn_ray.tasks.classification.evaluator import ClassifierEvaluator

        return ClassifierEvaluator(network, classes, place)

    @classmethod
    def predictor(
        cls, network: Classifier, classes: Sequence[str], place: PredictionPlace
    ) -> Predict:
        """See `Task.predictor`: the five likeliest classes."""
        from itpn_ray.tasks.classification.predictor import ClassPredictor

        return ClassPredictor(network, classes, place)
