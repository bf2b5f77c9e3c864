"""Object detection and instance segmentation over the pre-trained pyramid (paper, 5.3)."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from itpn_ray.data.annotations.objects import ObjectReader
from itpn_ray.data.config import DetectionAugmentConfig
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
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.models.weights.files import read_pyramid
from itpn_ray.rng import image_seeds
from itpn_ray.tasks.averaging import update_average
from itpn_ray.tasks.base import Batch, Evaluation, Reduce, Task
from itpn_ray.tasks.config import Detection, ModelConfig

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


class DetectionNetwork(nn.Module):
    """The detector with its loss, and the moving average of it that is evaluated."""

    def __init__(self, detector: Detector, ema_decay: float) -> None:
        super().__init__()
        self.detector = detector
        self.average: Detector | None = (
            copy.deepcopy(detector).requires_grad_(False).eval() if ema_decay > 0 else None
        )

    @property
    def evaluated(self) -> Detector:
        """The network that is evaluated and exported: the average where there is one."""
        return self.detector if self.average is None else self.average

    def train(self, mode: bool = True) -> DetectionNetwork:
        """Set the mode of the detector; the average always evaluates."""
        super().train(mode)
        if self.average is not None:
            self.average.eval()
        return self

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


class DetectionTask(Task):
    """Train a detector.

    Args:
        config: head, loading, evaluation, averaging.
        model: the network.
        classes: class names, in the order of their labels.
        seed: seed of the weights and of every draw.
        augment: the sizes of training images.
        truth: opens the split that is evaluated on.
    """

    def __init__(
        self,
        config: Detection,
        model: ModelConfig,
        *,
        classes: Sequence[str],
        seed: int,
        augment: DetectionAugmentConfig,
        truth: Callable[[], ShardedDataset],
    ) -> None:
        self.config = config
        self.model = model
        self.classes = list(classes)
        self.seed = seed
        self.augment = augment
        self._truth = truth
        self._shown: dict[int, Detections] = {}

    def build(self) -> nn.Module:
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

    def layer_ids(self, network: nn.Module) -> dict[str, int]:
        """Depths of the detector's parameters; pyramid and head lie at the top."""
        detector = cast(DetectionNetwork, network).detector
        return {f"detector.{name}": depth for name, depth in layer_ids(detector).items()}

    def no_weight_decay(self, network: nn.Module) -> set[str]:
        """Vectors and position tables."""
        detector = cast(DetectionNetwork, network).detector
        return {f"detector.{name}" for name in no_weight_decay(detector)}

    def after_step(self, network: nn.Module) -> None:
        """Move the average."""
        network = cast(DetectionNetwork, network)
        if network.average is not None:
            update_average(network.average, network.detector, self.config.ema_decay)

    def evaluate(
        self, network: nn.Module, batches: Iterable[Batch], reduce: Reduce
    ) -> list[Evaluation]:
        """COCO's twelve figures of boxes, and of masks where there are any; a per-class table."""
        del reduce  # what is gathered are detections
        model = cast(DetectionNetwork, network).evaluated
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
        figures = average_precision.compute()
        evaluation = Evaluation(
            split="val", metrics=figures.metrics, details={"per_class": figures.per_class}
        )
        return evaluation, average_precision.results

    def draw(self, network: nn.Module, folder: Path) -> list[Path]:
        """The first images of the last evaluation: what was found, and what is annotated."""
        del network
        if not self._shown:
            return []
        truth = ObjectReader(self._truth())
        scenes = [
            Scene(image=truth.image(number), found=found, truth=truth[number])
            for number, found in self._shown.items()
        ]
        return [detection_grid(scenes, self.classes, folder / "detections.png")]

    def multiply_adds(self, network: nn.Module) -> dict[str, int]:
        """Of the detector, for a view of the middle size, four to three as most photographs are."""
        detector = cast(DetectionNetwork, network).detector
        sides = sorted(self.augment.short_sides)
        height = max(64, sides[len(sides) // 2] // 32 * 32)
        width = height * 4 // 3 // 32 * 32
        return {"detector": multiply_adds(detector, (height, width))}

    def export(self, network: nn.Module, path: Path) -> None:
        """Write the evaluated detector, with its classes and the size it was evaluated at."""
        save_model(
            cast(DetectionNetwork, network).evaluated,
            path,
            {
                "classes": json.dumps(self.classes),
                "class_ids": json.dumps(class_numbers(self._truth().manifest)),
                "view": json.dumps([self.config.short_side, self.config.long_side]),
            },
        )


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a normaliser over all workers, which all must call this as often."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def _shape(width: int, depth: int) -> dict[str, int]:
    return {"pyramid_width": width, "pyramid_depth": depth}
