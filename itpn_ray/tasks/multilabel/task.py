"""Fine-tuning for images with several labels each: a yes or no to each class."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.data.annotations.objects import check_multilabel
from itpn_ray.data.loading.image_folder import Predict
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.on_device import normalise
from itpn_ray.evaluation.label_ap import LabelAP
from itpn_ray.models import Classifier
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce
from itpn_ray.tasks.classification.base import ClassifierNetwork, ClassifierTask
from itpn_ray.tasks.multilabel.config import MultiLabel
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator, PredictionPlace


class MultiLabelNetwork(ClassifierNetwork):
    """The classifier with its loss, and the moving average of it that is evaluated."""

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Binary cross-entropy with the targets (B, classes), averaged over classes and batch."""
        logits = self.classifier(batch["image"], drop_noise=batch["drop_noise"])
        loss = F.binary_cross_entropy_with_logits(logits.float(), batch["target"])
        return {"loss": loss}


class MultiLabelTask(ClassifierTask[MultiLabel, MultiLabelNetwork]):
    """Fine-tune a classifier whose classes do not exclude each other."""

    usage = 'scores = model(model.preprocess("photo.jpg")[None]).sigmoid()'
    file_entries: ClassVar[dict[str, str]] = {"scores": "sigmoid"}

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """Refuse data without lists of labels.

        Raises:
            DataError: as said, or a split has not one label.
            ConfigError: a head without initial weights.
        """
        super().check(train, val)
        for dataset in (train, val):
            check_multilabel(dataset)

    def with_loss(self, classifier: Classifier) -> MultiLabelNetwork:
        """See `ClassifierTask.with_loss`: binary cross-entropy."""
        return MultiLabelNetwork(classifier, self.config.ema_decay)

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """See `ClassifierTask.mixed`; targets are 0 and 1 as long as nothing is mixed."""
        return self.mixed(batch, batch["labels"].float(), epoch)

    @torch.no_grad()
    def evaluate_model(
        self, model: nn.Module, batches: Iterable[Batch], reduce: Reduce
    ) -> Evaluation:
        """Average precision, and the per-class table."""
        del reduce  # rankings are no sums: `LabelAP` gathers what all workers found
        precision = LabelAP(self.classes)
        for batch in batches:
            logits = model(normalise(batch["image"]))
            precision.add(batch["sample_id"], logits, batch["labels"])
        found = precision.compute()
        return Evaluation(
            split="val",
            metrics=found.metrics,
            details={"per_class": found.per_class, "images": found.images},
        )

    @classmethod
    def check_split(cls, dataset: ShardedDataset) -> None:
        """See `Task.check_split`: images with a list of labels each."""
        check_multilabel(dataset)

    @classmethod
    def evaluator(
        cls, network: Classifier, classes: Sequence[str], place: EvaluationPlace
    ) -> Evaluator[Classifier]:
        """See `Task.evaluator`."""
        from itpn_ray.tasks.multilabel.evaluator import MultiLabelEvaluator

        return MultiLabelEvaluator(network, classes, place)

    @classmethod
    def predictor(
        cls, network: Classifier, classes: Sequence[str], place: PredictionPlace
    ) -> Predict:
        """See `Task.predictor`: all labels that are sure enough."""
        from itpn_ray.tasks.multilabel.predictor import LabelPredictor

        return LabelPredictor(network, classes, place)
