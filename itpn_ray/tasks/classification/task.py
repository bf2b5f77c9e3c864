"""Fine-tuning for classification (paper, 5.2)."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.data.transforms.on_device import erase, mix, normalise
from itpn_ray.evaluation.confusion import plot_confusion
from itpn_ray.evaluation.topk import TopK
from itpn_ray.models import (
    Classifier,
    create_model,
    layer_ids,
    load_weights,
    no_weight_decay,
    save_model,
)
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.rng import Stream, uniform_torch
from itpn_ray.tasks.averaging import update_average
from itpn_ray.tasks.base import Batch, Evaluation, Reduce, Task
from itpn_ray.tasks.config import Classification, ModelConfig


class ClassificationNetwork(nn.Module):
    """The classifier with its loss, and the moving average of it that is evaluated."""

    def __init__(self, classifier: Classifier, ema_decay: float) -> None:
        super().__init__()
        self.classifier = classifier
        self.average: Classifier | None = (
            copy.deepcopy(classifier).requires_grad_(False).eval() if ema_decay > 0 else None
        )

    @property
    def evaluated(self) -> Classifier:
        """The network that is evaluated and exported: the average where there is one."""
        return self.classifier if self.average is None else self.average

    def train(self, mode: bool = True) -> ClassificationNetwork:
        """Set the mode of the classifier; the average always evaluates."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy with the soft targets (B, classes), averaged over the batch."""
        logits = self.classifier(batch["image"], drop_noise=batch["drop_noise"])
        return {"loss": F.cross_entropy(logits.float(), batch["target"])}


class ClassificationTask(Task):
    """Fine-tune a classifier.

    Args:
        config: mixing, smoothing, averaging.
        model: the network.
        classes: class names, in the order of their labels.
        seed: seed of the weights and of every draw.
    """

    def __init__(
        self, config: Classification, model: ModelConfig, *, classes: Sequence[str], seed: int
    ) -> None:
        self.config = config
        self.model = model
        self.classes = list(classes)
        self.seed = seed
        self._confusion: Tensor | None = None
        self._num_drops = 0

    def build(self) -> nn.Module:
        """The classifier with trunk weights from ``model.init``, if given, and a new head."""
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
        classifier.trunk.set_grad_checkpointing(self.model.checkpoint_activations)
        self._num_drops = classifier.trunk.num_drops
        return ClassificationNetwork(classifier, self.config.ema_decay)

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Normalise, mix neighbouring images, erase, smooth the targets, draw the drop paths."""
        ids = batch["sample_id"]
        one_hot = F.one_hot(batch["label"], len(self.classes)).float()  # (B, classes)
        smoothing = self.config.label_smoothing
        images, target = mix(
            normalise(batch["image"]),
            one_hot * (1.0 - smoothing) + smoothing / len(self.classes),
            ids,
            seed=self.seed,
            epoch=epoch,
            mixup=self.config.mixup,
            cutmix=self.config.cutmix,
        )
        images = erase(
            images, ids, seed=self.seed, epoch=epoch, probability=self.config.random_erasing
        )
        noise = uniform_torch(self.seed, epoch, ids, Stream.DROP_PATH, self._num_drops)
        return {**batch, "image": images, "target": target, "drop_noise": noise}

    def layer_ids(self, network: nn.Module) -> dict[str, int]:
        """Depths of the classifier's parameters (the authors' groups)."""
        classifier = cast(ClassificationNetwork, network).classifier
        return {f"classifier.{name}": depth for name, depth in layer_ids(classifier).items()}

    def no_weight_decay(self, network: nn.Module) -> set[str]:
        """Vectors and position tables."""
        classifier = cast(ClassificationNetwork, network).classifier
        return {f"classifier.{name}" for name in no_weight_decay(classifier)}

    def after_step(self, network: nn.Module) -> None:
        """Move the average."""
        network = cast(ClassificationNetwork, network)
        if network.average is not None:
            update_average(network.average, network.classifier, self.config.ema_decay)

    @torch.no_grad()
    def evaluate(
        self, network: nn.Module, batches: Iterable[Batch], reduce: Reduce
    ) -> list[Evaluation]:
        """Top-1 and top-5 accuracy, the per-class table, and the confusion matrix."""
        model = cast(ClassificationNetwork, network).evaluated
        return [self.evaluate_model(model, batches, reduce)]

    @torch.no_grad()
    def evaluate_model(
        self, model: nn.Module, batches: Iterable[Batch], reduce: Reduce
    ) -> Evaluation:
        """As :meth:`evaluate`, for a bare classifier."""
        topk = TopK(len(self.classes))
        for batch in batches:
            topk.update(model(normalise(batch["image"])), batch["label"])
        topk.reduce(reduce)
        self._confusion = topk.confusion
        return Evaluation(
            split="val",
            metrics=topk.metrics(),
            details={"per_class": topk.per_class(self.classes)},
        )

    def draw(self, network: nn.Module, folder: Path) -> list[Path]:
        """The confusion matrix of the last evaluation."""
        del network
        if self._confusion is None:
            return []
        path = folder / "confusion.png"
        plot_confusion(self._confusion, self.classes, path)
        return [path]

    def multiply_adds(self, network: nn.Module) -> dict[str, int]:
        """Of the classifier."""
        classifier = cast(ClassificationNetwork, network).classifier
        return {"classifier": multiply_adds(classifier, self.model.image_size)}

    def export(self, network: nn.Module, path: Path) -> None:
        """Write the evaluated classifier, with its class names."""
        save_model(
            cast(ClassificationNetwork, network).evaluated,
            path,
            {
                "classes": json.dumps(self.classes),
                "crop_fraction": str(self.model.evaluation_crop),
            },
        )
