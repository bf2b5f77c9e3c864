"""Object detection and instance segmentation over the pre-trained pyramid (paper, 5.3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from itpn_ray.data.annotations.objects import ObjectReader, check_detection, check_masks
from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.data.loading.detection_loader import DetectionEvalLoader, DetectionTrainLoader
from itpn_ray.data.loading.image_folder import Predict
from itpn_ray.data.store.shard_cache import open_rows
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.evaluation.coco_ap import CocoAP
from itpn_ray.evaluation.coco_format import class_numbers
from itpn_ray.evaluation.pasting import in_image
from itpn_ray.models import (
    create_dino,
    create_rcnn,
    save_model,
)
from itpn_ray.models.detection.base import Detections, Detector
from itpn_ray.tasks.base import TaskSetup, WorkerShare
from itpn_ray.tasks.batches import Batch, TrainBatches
from itpn_ray.tasks.cost import training_cost
from itpn_ray.tasks.detection.base import DetectionNetwork, DetectorTask
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator, PredictionPlace

STAGES = {"mask_rcnn": 1, "cascade_mask_rcnn": 3}
SMALL_RCNN = {"fc_width": 256, "proposals": 128, "regions": 64}
SMALL_DINO = {
    "channels": 128,
    "attention_heads": 4,
    "mlp_width": 512,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "queries": 100,
    "denoising": 20,
}
MOST_SIZES = 64
"""Sizes of batches that are compiled: 8 by 8 sides, up to 2,048 pixels in steps of 256."""
DINO_LEVELS = 4
"""Strides 8 to 64; with stride 4 too the encoder would see five times as many tokens."""


class DetectionTask(DetectorTask[Detection]):
    """Train a detector of upright boxes, with masks or without."""

    def __init__(self, setup: TaskSetup[Detection]) -> None:
        super().__init__(setup)
        self.augment = cast(DetectionAugmentConfig, setup.augment)

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """Refuse data without boxes, or without masks where they are learned.

        Raises:
            DataError: a split has no boxes, or the training images no masks.
        """
        for dataset in (train, val):
            check_detection(dataset)
        if self.config.masks:
            check_masks(open_rows(self.setup.data, "train", self.setup.loader))

    def train_loader(self, train: ShardedDataset, share: WorkerShare) -> TrainBatches:
        """Views with the objects that they show."""
        return DetectionTrainLoader(
            train,
            self.setup.loader,
            augment=self.augment,
            seed=self.seed,
            global_batch=self.setup.global_batch,
            masks=self.config.masks,
            pad_to=self.pad_to,
            rank=share.rank,
            world=share.world,
            pin=share.pin,
        )

    def eval_loader(self, val: ShardedDataset, share: WorkerShare) -> Iterable[Batch]:
        """Whole images."""
        return DetectionEvalLoader(
            val,
            self.setup.loader,
            batch=share.eval_batch,
            short_side=self.config.short_side,
            long_side=self.config.long_side,
            rank=share.rank,
            world=share.world,
            pin=share.pin,
        )

    def _create(self, **options: Any) -> Detector:
        config, name = self.config, self.model.name
        if config.head == "dino":
            small = SMALL_DINO if config.small_head else {}
            return create_dino(name, levels=DINO_LEVELS, masks=config.masks, **small, **options)
        small = SMALL_RCNN if config.small_head else {}
        stages = STAGES[config.head]
        return create_rcnn(name, stages=stages, masks=config.masks, **small, **options)

    @property
    def pad_to(self) -> int:
        """See `DetectorTask.pad_to`."""
        return self.config.pad_to

    def compile(self, network: DetectionNetwork) -> nn.Module:
        """See `Task.compile`: trunk and pyramid alone, once for each size of a batch.

        What follows chooses boxes, whose number no graph knows.
        """
        # The default of 8 is fewer than the sizes; beyond it nothing is compiled, without an error.
        torch._dynamo.config.recompile_limit = MOST_SIZES
        # Not dynamic: sizes are few, and each is worth a graph of its own.
        network.detector.trunk.compile(dynamic=False)
        return network

    def _average_precision(self) -> CocoAP:
        """See `DetectorTask._average_precision`: COCO's twelve metrics of boxes, and of masks."""
        return CocoAP(self._reader(), masks=self.config.masks)

    def _reader(self) -> ObjectReader:
        return ObjectReader(self._truth())

    @staticmethod
    def in_original(found: Detections, size: Tensor, original: Tensor) -> Detections:
        """See `DetectorTask.in_original`."""
        return in_image(found, size, original)

    def multiply_adds(self, network: DetectionNetwork) -> dict[str, int]:
        """Of the detector, for a view of the middle size, four to three as most photographs are."""
        sides = sorted(self.augment.short_sides)
        height = max(64, sides[len(sides) // 2] // 32 * 32)
        width = height * 4 // 3 // 32 * 32
        return training_cost("detector", network.detector, self.model, (height, width))

    def export(self, network: DetectionNetwork, path: Path) -> None:
        """Write the evaluated detector, with its classes and the size it was evaluated at."""
        save_model(
            network.evaluated,
            path,
            {
                "task": self.config.name,
                "classes": json.dumps(self.classes),
                # COCO's numbers have gaps (80 classes, up to 90), and results files use them.
                "class_ids": json.dumps(class_numbers(self._truth().manifest)),
                "view": json.dumps([self.config.short_side, self.config.long_side]),
            },
        )

    @classmethod
    def accepts(cls, network: nn.Module) -> bool:
        """See `Task.accepts`: a detector."""
        return isinstance(network, Detector) and not network.rotated

    @classmethod
    def check_split(cls, dataset: ShardedDataset) -> None:
        """See `Task.check_split`: images with boxes."""
        check_detection(dataset)

    @classmethod
    def evaluator(
        cls, network: Detector, classes: Sequence[str], place: EvaluationPlace
    ) -> Evaluator[Detector]:
        """See `Task.evaluator`."""
        from itpn_ray.tasks.detection.evaluator import DetectorEvaluator

        return DetectorEvaluator(network, classes, place)

    @classmethod
    def predictor(
        cls, network: Detector, classes: Sequence[str], place: PredictionPlace
    ) -> Predict:
        """See `Task.predictor`: entries of a COCO results file."""
        from itpn_ray.tasks.detection.predictor import DetectionPredictor

        return DetectionPredictor(network, _categories(network, classes), place)

    @classmethod
    def categories(cls, network: Detector) -> list[dict[str, Any]]:
        """See `Task.categories`."""
        return _categories(network, network.classes)


def _categories(network: Detector, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The classes of a detector as COCO's ``categories``, in the order of their labels."""
    names = list(classes) or [str(number) for number in range(network.config.num_classes)]
    # Files that name no numbers count from 1, as COCO does.
    numbers = network.class_ids or range(1, len(names) + 1)
    return [{"id": n, "name": name} for n, name in zip(numbers, names, strict=True)]
