"""Object detection and instance segmentation over the pre-trained pyramid (paper, 5.3)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from itpn_ray.data.annotations.objects import ObjectReader, check_detection, check_masks
from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.data.loading.detection_loader import DetectionEvalLoader, DetectionTrainLoader, trim
from itpn_ray.data.loading.image_folder import Predict
from itpn_ray.data.store.shard_cache import open_rows
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.on_device import normalise_views
from itpn_ray.evaluation.coco_ap import CocoAP
from itpn_ray.evaluation.coco_format import Entry, class_numbers
from itpn_ray.evaluation.draw_detections import Scene, detection_grid
from itpn_ray.evaluation.pasting import in_image
from itpn_ray.models import (
    create_dino,
    create_rcnn,
    layer_ids,
    load_weights,
    no_weight_decay,
    save_model,
)
from itpn_ray.models.detection.base import Detections, Detector, Targets
from itpn_ray.models.weights.files import read_pyramid
from itpn_ray.rng import image_seeds
from itpn_ray.tasks.averaging import Averaging
from itpn_ray.tasks.base import Task, TaskSetup, WorkerShare
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce, TrainBatches
from itpn_ray.tasks.cost import training_cost
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.elastic import check_ratios
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator, PredictionPlace

SHOWN = 6
"""Images in a drawing of detections."""
STAGES = {"mask_rcnn": 1, "cascade_mask_rcnn": 3}
SMALL_RCNN = {"fc_width": 256, "proposals": 256, "regions": 128}
SMALL_DINO = {
    "channels": 128,
    "attention_heads": 4,
    "mlp_width": 512,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "queries": 100,
    "denoising": 20,
}
DINO_LEVELS = 4
"""Strides 8 to 64; with stride 4 too the encoder would see five times as many tokens."""


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

        Normalisers are those of all workers' micro-batches together. The loop counts a worker's
        loss by its share of the images, which is taken out here: a sum over a worker's images,
        divided by what all of them have on average, holds that share already.
        """
        targets = Targets(
            boxes=batch["boxes"],
            labels=batch["label"],
            masks=batch.get("masks"),
            seeds=batch["seed"],
        )
        parts = self.detector.losses(batch["image"], batch["size"], targets, mean_over_workers)
        own = batch["image"].new_tensor(float(len(batch["image"])))
        even = mean_over_workers(own) / own
        parts = {name: part * even for name, part in parts.items()}
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}


class DetectionTask(Task[Detection, DetectionNetwork, Detector]):
    """Train a detector."""

    predict_batch = 4
    usage = '(found,) = model.detect(*model.preprocess("photo.jpg"))'

    def __init__(self, setup: TaskSetup[Detection]) -> None:
        super().__init__(setup)
        self.augment = cast(DetectionAugmentConfig, setup.augment)
        self._shown: dict[int, Detections] = {}

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

    def _truth(self) -> ShardedDataset:
        """The annotated objects that detections are compared with."""
        return open_rows(self.setup.data, self.setup.eval_split, self.setup.loader)

    def build(self) -> DetectionNetwork:
        """The detector, with trunk and pyramid from ``model.init``, if given, and a new head.

        A detector's file gives its head too, but for class layers of other classes. The pyramid
        has the shape of the initial file's, also where its weights are drawn anew: pre-training on
        pixels has two blocks after each upsampling, and what it learned in both is kept.
        """
        torch.manual_seed(self.seed)
        init = self.model.init
        pyramid = read_pyramid(init, self.model.init_key) if init else None
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
        check_ratios(detector, self.model.elastic_migration)
        if self.model.freeze_trunk:
            detector.body.freeze()
        detector.set_grad_checkpointing(self.model.checkpoint_activations)
        return DetectionNetwork(detector, self.config.ema_decay)

    def _create(self, **options: Any) -> Detector:
        config, name = self.config, self.model.name
        if config.head == "dino":
            small = SMALL_DINO if config.small_head else {}
            return create_dino(name, levels=DINO_LEVELS, **small, **options)
        small = SMALL_RCNN if config.small_head else {}
        stages = STAGES[config.head]
        return create_rcnn(name, stages=stages, masks=config.masks, **small, **options)

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Normalise, and give each image the seed of its draws."""
        return {
            **batch,
            "image": normalise_views(batch["image"], batch["size"]),
            "seed": image_seeds(self.seed, epoch, batch["sample_id"]),
        }

    def cut(self, batch: Batch, begin: int, end: int) -> Batch:
        """See `Task.cut`: with the padding of its own views, not of the worker's whole share."""
        return trim(super().cut(batch, begin, end))

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
        """COCO's twelve metrics of boxes, and of masks where there are any; a per-class table."""
        del reduce  # what is gathered are detections
        model = network.evaluated
        return [self.evaluate_model(model, batches)[0]]

    @torch.no_grad()
    def evaluate_model(
        self, model: Detector, batches: Iterable[Batch]
    ) -> tuple[Evaluation, list[Entry]]:
        """As :meth:`evaluate`, for a bare detector.

        Returns:
            What was found; and on rank 0 all detections, as COCO's results.
        """
        truth = ObjectReader(self._truth())
        average_precision = CocoAP(truth, masks=self.config.masks)
        self._shown = {}
        for batch in batches:
            images = normalise_views(batch["image"], batch["size"])
            found = [
                in_image(*pair)
                for pair in zip(
                    model.detect(images, batch["size"]),
                    batch["size"],
                    batch["original"],
                    strict=True,
                )
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

    def draw(self, network: DetectionNetwork, folder: Path) -> list[Path]:
        """See :meth:`draw_last`."""
        del network
        return self.draw_last(folder)

    def draw_last(self, folder: Path) -> list[Path]:
        """The first images of the last evaluation: what was found, and what is annotated."""
        if not self._shown:
            return []
        truth = ObjectReader(self._truth())
        scenes = [
            Scene(image=truth.image(number), found=found, truth=truth[number])
            for number, found in self._shown.items()
        ]
        return [detection_grid(scenes, self.classes, folder / "detections.png")]

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
                "class_ids": json.dumps(class_numbers(self._truth().manifest)),
                "view": json.dumps([self.config.short_side, self.config.long_side]),
            },
        )

    @classmethod
    def accepts(cls, network: nn.Module) -> bool:
        """See `Task.accepts`: a detector."""
        return isinstance(network, Detector) and network.config.num_classes > 0

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
    numbers = network.class_ids or range(1, len(names) + 1)
    return [{"id": n, "name": name} for n, name in zip(numbers, names, strict=True)]


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a normaliser over all workers, which all must call this as often."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _shape(width: int, depth: int) -> dict[str, int]:
    return {"pyramid_width": width, "pyramid_depth": depth}
