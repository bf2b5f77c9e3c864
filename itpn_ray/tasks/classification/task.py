"""Fine-tuning for classification (paper, 5.2)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.data.annotations.objects import check_classification
from itpn_ray.data.loading.image_folder import Predict
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.on_device import normalise
from itpn_ray.errors import DataError
from itpn_ray.evaluation.confusion import plot_confusion
from itpn_ray.evaluation.mistakes import Mistakes
from itpn_ray.evaluation.topk import TopK
from itpn_ray.models import Classifier
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce
from itpn_ray.tasks.classification.base import ClassifierNetwork, ClassifierTask
from itpn_ray.tasks.classification.class_weights import class_weights
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator, PredictionPlace


class ClassificationNetwork(ClassifierNetwork):
    """The classifier with its loss, and the moving average of it that is evaluated."""

    class_weights: Tensor | None

    def __init__(
        self, classifier: Classifier, ema_decay: float, class_weights: Sequence[float] = ()
    ) -> None:
        super().__init__(classifier, ema_decay)
        # No part of checkpoints: they follow from settings and data.
        weights = torch.tensor(class_weights) if class_weights else None  # (classes,)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the soft targets (B, classes), averaged over the batch.

        Each class of a target counts by its weight; the mean is over images, not over weights, so
        that micro-batches and workers add up.
        """
        logits = self.classifier(batch["image"], drop_noise=batch["drop_noise"])
        # Targets are probabilities, so PyTorch divides
        # by the images, not by the sum of their weights.
        return {"loss": F.cross_entropy(logits.float(), batch["target"], self.class_weights)}


class ClassificationTask(ClassifierTask[Classification, ClassificationNetwork]):
    """Fine-tune a classifier.

    Attributes:
        mistakes: of the last evaluation, among this rank's images.
    """

    usage = 'logits = model(model.preprocess("photo.jpg")[None])'

    def __init__(self, setup: TaskSetup[Classification]) -> None:
        super().__init__(setup)
        self.mistakes = Mistakes()
        self._confusion: Tensor | None = None

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """Refuse data with nothing to tell apart.

        Raises:
            DataError: there are no labels, or fewer than two classes.
            ConfigError: weights of classes that are not there; a head without initial weights.
        """
        super().check(train, val)
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

    def with_loss(self, classifier: Classifier) -> ClassificationNetwork:
        """See `ClassifierTask.with_loss`: cross-entropy."""
        return ClassificationNetwork(classifier, self.config.ema_decay, self._class_weights())

    def _class_weights(self) -> list[float]:
        """A weight a class; none where all count the same."""
        texts = self.config.class_weights
        if not texts:
            return []
        return class_weights(texts, self.classes, self.train_counts)

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Smooth the targets, then see `ClassifierTask.mixed`."""
        # Smoothed before they are mixed, as timm does: the mix of two smooth targets still sums to
        # 1.
        one_hot = F.one_hot(batch["label"], len(self.classes)).float()  # (B, classes)
        smoothing = self.config.label_smoothing
        target = one_hot * (1.0 - smoothing) + smoothing / len(self.classes)
        return self.mixed(batch, target, epoch)

    @torch.no_grad()
    def evaluate_model(
        self, model: nn.Module, batches: Iterable[Batch], reduce: Reduce
    ) -> Evaluation:
        """Top-1 and top-5 accuracy, the per-class table, and the confusion matrix."""
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
