"""What the tasks of all detectors share: network, initial weights, losses, averages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from itpn_ray.data.annotations.objects import ObjectReader
from itpn_ray.data.loading.view_batches import trim
from itpn_ray.data.store.shard_cache import open_rows
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.detection_views import PAD_TO
from itpn_ray.data.transforms.on_device import normalise_views
from itpn_ray.evaluation.coco_ap import CocoAP
from itpn_ray.evaluation.draw_detections import Scene, detection_grid
from itpn_ray.evaluation.rotated_ap import RotatedAP
from itpn_ray.models import layer_ids, load_weights, no_weight_decay
from itpn_ray.models.detection.base import Detections, Detector, Targets
from itpn_ray.rng import image_seeds
from itpn_ray.tasks.averaging import Averaging
from itpn_ray.tasks.base import Task, TaskSetup
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce
from itpn_ray.tasks.config import DenseTaskConfig
from itpn_ray.tasks.workers import mean_over_workers, without_own_share

S = TypeVar("S", bound=DenseTaskConfig)
SHOWN = 6
"""Images in a drawing of detections."""


class DetectionNetwork(Averaging):
    """The detector with its loss, and the moving average of it that is evaluated."""

    average: Detector | None

    def __init__(self, detector: Detector, ema_decay: float) -> None:
        super().__init__()
        self.detector = detector
        if ema_decay > 0:
            self.keep_average(detector, ema_decay)

    @property
    def evaluated(self) -> Detector:
        """The network that is evaluated and exported: the average where there is one."""
        return self.detector if self.average is None else self.average

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, and ``loss``, their sum; scalars.

        Normalisers are those of all workers' micro-batches together.
        """
        targets = Targets(
            boxes=batch["boxes"],
            labels=batch["label"],
            masks=batch.get("masks"),
            seeds=batch["seed"],
        )
        parts = self.detector.losses(batch["image"], batch["size"], targets, mean_over_workers)
        parts = without_own_share(parts, batch["image"], mean_over_workers)
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}


class DetectorTask(Task[S, DetectionNetwork, Detector]):
    """Train a detector."""

    predict_batch = 4
    usage = '(found,) = model.detect(*model.preprocess("photo.jpg"))'

    def __init__(self, setup: TaskSetup[S]) -> None:
        super().__init__(setup)
        self._shown: dict[int, Detections] = {}

    @property
    def pad_to(self) -> int:
        """What sides of training batches are multiples of, pixels."""
        return PAD_TO

    @abstractmethod
    def _create(self, **options: Any) -> Detector:
        """The detector with new weights; ``options`` of every function that creates one."""

    @abstractmethod
    def _average_precision(self) -> CocoAP | RotatedAP:
        """What collects and judges detections."""

    @abstractmethod
    def _reader(self) -> ObjectReader:
        """The annotated objects of the evaluated images."""

    @staticmethod
    @abstractmethod
    def in_original(found: Detections, size: Tensor, original: Tensor) -> Detections:
        """Detections in a view, given in pixels of the stored image, on the CPU.

        Args:
            found: boxes in pixels of the view.
            size: (2,) height and width of the view's valid part.
            original: (2,) height and width of the stored image.
        """

    @torch.no_grad()
    def evaluate_model(
        self, model: Detector, batches: Iterable[Batch]
    ) -> tuple[Evaluation, list[Any]]:
        """As :meth:`evaluate`, for a bare detector.

        Returns:
            What was found; and on rank 0 all detections.
        """
        average_precision = self._average_precision()
        self._shown = {}
        for batch in batches:
            sizes = batch["size"]
            seen = model.detect(normalise_views(batch["image"], sizes), sizes)
            found = [
                self.in_original(*each) for each in zip(seen, sizes, batch["original"], strict=True)
            ]
            average_precision.add(batch["sample_id"], found)
            for sample_id, one in zip(batch["sample_id"].tolist(), found, strict=True):
                if len(self._shown) < SHOWN:
                    self._shown[sample_id] = one
        precision = average_precision.compute()
        evaluation = Evaluation(
            split="val", metrics=precision.metrics, details={"per_class": precision.per_class}
        )
        return evaluation, average_precision.results

    def draw_last(self, folder: Path) -> list[Path]:
        """The first images of the last evaluation: what was found, and what is annotated."""
        if not self._shown:
            return []
        truth = self._reader()
        scenes = [
            Scene(image=truth.image(number), found=found, truth=truth[number])
            for number, found in self._shown.items()
        ]
        return [detection_grid(scenes, self.classes, folder / "detections.png")]

    def _truth(self) -> ShardedDataset:
        """The annotated objects that detections are compared with."""
        return open_rows(self.setup.data, self.setup.eval_split, self.setup.loader)

    def build(self) -> DetectionNetwork:
        """The detector, with trunk and pyramid from ``model.init``, if given, and a new head.

        A detector's file gives its head too, but for class layers of other classes. The pyramid
        has the shape of the initial file's, also where its weights are drawn anew: pre-training on
        pixels has two blocks after each upsampling, and what it learned in both is kept.
        """
        # The same first weights on every worker, without sending them around.
        torch.manual_seed(self.seed)
        init = self.model.init
        # A pyramid of the file's shape, so that its weights fit.
        pyramid = self.initial_pyramid()
        detector = self._create(
            num_classes=len(self.classes),
            image_size=self.model.image_size,
            acceleration=self.model.acceleration,
            **({} if pyramid is None else _shape(pyramid.width, pyramid.depth)),
            **self.model.trunk_changes(),
        )
        if init:
            self.load_report = load_weights(
                detector,
                init,
                key=self.model.init_key,
                partial=self.model.partial_init,
                pyramid=self.config.init_pyramid,
            )
        if self.model.freeze_trunk:
            detector.body.freeze()
        detector.set_grad_checkpointing(self.model.checkpoint_activations)
        return DetectionNetwork(detector, self.config.ema_decay)

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Normalise, and give each image the seed of its draws."""
        return {
            **batch,
            "image": normalise_views(batch["image"], batch["size"]),
            "seed": image_seeds(self.seed, epoch, batch["sample_id"]),
        }

    def cut(self, batch: Batch, begin: int, end: int) -> Batch:
        """See `Task.cut`: with the padding of its own views, not of the worker's whole share."""
        return trim(super().cut(batch, begin, end), self.pad_to)

    def layer_ids(self, network: DetectionNetwork) -> dict[str, int]:
        """Depths of the detector's parameters; pyramid and head lie at the top."""
        detector = network.detector
        return {f"detector.{name}": depth for name, depth in layer_ids(detector).items()}

    def no_weight_decay(self, network: DetectionNetwork) -> set[str]:
        """Vectors and position tables."""
        detector = network.detector
        return {f"detector.{name}" for name in no_weight_decay(detector)}

    def migrating(self, network: DetectionNetwork) -> tuple[Detector, ...]:
        """See `Task.migrating`: the detector and its average."""
        return network.detector, network.evaluated

    def after_step(self, network: DetectionNetwork, step: int) -> None:
        """Move the average."""
        network.follow(network.detector, step)

    def evaluate(
        self, network: DetectionNetwork, batches: Iterable[Batch], reduce: Reduce
    ) -> list[Evaluation]:
        """The metrics of the task, and a per-class table."""
        del reduce  # what is gathered are detections
        model = network.evaluated
        return [self.evaluate_model(model, batches)[0]]

    def draw(self, network: DetectionNetwork, folder: Path) -> list[Path]:
        """See :meth:`draw_last`."""
        del network
        return self.draw_last(folder)


def _shape(width: int, depth: int) -> dict[str, int]:
    return {"pyramid_width": width, "pyramid_depth": depth}
