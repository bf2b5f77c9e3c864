"""Semantic segmentation over the pre-trained pyramid (paper, 5.3)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from itpn_ray.data.annotations.class_masks import decode_mask
from itpn_ray.data.config import SegmentationAugmentConfig
from itpn_ray.data.loading.decode import decode_rgb
from itpn_ray.data.loading.image_folder import Predict
from itpn_ray.data.loading.segmentation_loader import (
    SegmentationEvalLoader,
    SegmentationTrainLoader,
    check_segmentation,
)
from itpn_ray.data.store.shard_cache import open_rows
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.distortion import distort
from itpn_ray.data.transforms.on_device import normalise_views
from itpn_ray.evaluation.draw_masks import MaskedImage, mask_grid
from itpn_ray.evaluation.mean_iou import MeanIoU
from itpn_ray.models import (
    create_segmenter,
    layer_ids,
    load_weights,
    no_weight_decay,
    save_model,
)
from itpn_ray.models.segmentation.base import Segmenter
from itpn_ray.models.segmentation.sliding import Viewing
from itpn_ray.rng import image_seeds
from itpn_ray.tasks.averaging import Averaging
from itpn_ray.tasks.base import Task, TaskSetup, WorkerShare
from itpn_ray.tasks.batches import Batch, Evaluation, Reduce, TrainBatches
from itpn_ray.tasks.cost import training_cost
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator, PredictionPlace
from itpn_ray.tasks.workers import mean_over_workers

SHOWN = 6
"""Images in a drawing of masks."""
WIDTHS = {"mask_dino": "channels"}
"""What a head's settings call its width, where it is not ``width``."""
SMALL = {
    "mask_dino": {
        "channels": 128,
        "attention_heads": 4,
        "mlp_width": 512,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "queries": 50,
        "denoising": 20,
        "points": 1024,
    },
    "eomt": {"width": 128, "attention_heads": 4, "queries": 50, "points": 1024},
}
"""Settings of small heads."""


class SegmentationNetwork(Averaging):
    """The segmenter with its loss, and the moving average of it that is evaluated."""

    average: Segmenter | None

    def __init__(self, segmenter: Segmenter, ema_decay: float) -> None:
        super().__init__()
        self.segmenter = segmenter
        if ema_decay > 0:
            self.keep_average(segmenter, ema_decay)

    @property
    def evaluated(self) -> Segmenter:
        """The network that is evaluated and exported: the average where there is one."""
        return self.segmenter if self.average is None else self.average

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss, and ``loss``, their sum; scalars."""
        parts = self.segmenter.losses(
            batch["image"], batch["mask"], batch["seed"], mean_over_workers
        )
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}


class SegmentationTask(Task[Segmentation, SegmentationNetwork, Segmenter]):
    """Train a segmenter."""

    predict_batch = 4
    usage = '(mask,) = model.segment(*model.preprocess("photo.jpg"), [(480, 640)])'

    def __init__(self, setup: TaskSetup[Segmentation]) -> None:
        super().__init__(setup)
        self.augment = cast(SegmentationAugmentConfig, setup.augment)
        self.viewing = Viewing(
            short_side=self.config.short_side,
            long_side=self.config.long_side,
            window=self.config.window,
            stride=self.config.stride,
            scales=self.config.scales,
            mirror=self.config.mirror,
        )
        self._shown: dict[int, Tensor] = {}

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """Refuse data without masks.

        Raises:
            DataError: a split has none.
        """
        for dataset in (train, val):
            check_segmentation(dataset)

    def train_loader(self, train: ShardedDataset, share: WorkerShare) -> TrainBatches:
        """Crops with their masks."""
        return SegmentationTrainLoader(
            train,
            self.setup.loader,
            augment=self.augment,
            seed=self.seed,
            global_batch=self.setup.global_batch,
            rank=share.rank,
            world=share.world,
            pin=share.pin,
        )

    def eval_loader(self, val: ShardedDataset, share: WorkerShare) -> Iterable[Batch]:
        """Whole images."""
        return SegmentationEvalLoader(
            val,
            self.setup.loader,
            batch=share.eval_batch,
            short_side=self.viewing.short_side,
            long_side=self.viewing.long_side,
            rank=share.rank,
            world=share.world,
            pin=share.pin,
        )

    def build(self) -> SegmentationNetwork:
        """The segmenter, with trunk and pyramid from ``model.init``, if given, and a new head.

        A segmenter's file gives its head too, but for class layers of other classes. The pyramid
        has the shape of the initial file's, also where its weights are drawn anew.
        """
        # The same first weights on every worker, without sending them around.
        torch.manual_seed(self.seed)
        init = self.model.init
        # A pyramid of the file's shape, so that its weights fit.
        pyramid = self.initial_pyramid()
        shape = {} if pyramid is None else dataclasses.asdict(pyramid)
        segmenter = create_segmenter(
            self.model.name,
            num_classes=len(self.classes),
            head=self.config.head,
            **self._head_options(),
            image_size=self.model.image_size,
            pyramid_width=shape.get("width"),
            pyramid_depth=shape.get("depth", 2),
            acceleration=self.model.acceleration,
            **self.model.trunk_changes(),
        )
        if init:
            self.load_report = load_weights(
                segmenter,
                init,
                key=self.model.init_key,
                partial=self.model.partial_init,
                pyramid=self.config.init_pyramid,
            )
        if self.model.freeze_trunk:
            segmenter.body.freeze()
        segmenter.set_grad_checkpointing(self.model.checkpoint_activations)
        segmenter.viewing = self.viewing
        return SegmentationNetwork(segmenter, self.config.ema_decay)

    def _head_options(self) -> dict[str, int]:
        config = self.config
        small = SMALL.get(config.head, {}) if config.small_head else {}
        width = {WIDTHS.get(config.head, "width"): config.width} if config.width else {}
        # A width that is asked for wins over the small head's.
        return small | width

    def prepare(self, batch: Batch, epoch: int) -> Batch:
        """Change colours, normalise, and give each image the seed of its draws."""
        ids = batch["sample_id"]
        images = distort(
            batch["image"], ids, seed=self.seed, epoch=epoch, probability=self.augment.distortion
        )
        return {
            **batch,
            "image": normalise_views(images, batch["size"]),
            "seed": image_seeds(self.seed, epoch, ids),
        }

    def layer_ids(self, network: SegmentationNetwork) -> dict[str, int]:
        """Depths of the segmenter's parameters; pyramid and head lie at the top."""
        found = layer_ids(network.segmenter)
        return {f"segmenter.{name}": depth for name, depth in found.items()}

    def no_weight_decay(self, network: SegmentationNetwork) -> set[str]:
        """Vectors and position tables."""
        return {f"segmenter.{name}" for name in no_weight_decay(network.segmenter)}

    def migrating(self, network: SegmentationNetwork) -> tuple[Segmenter, ...]:
        """See `Task.migrating`: the segmenter and its average."""
        return network.segmenter, network.evaluated

    def after_step(self, network: SegmentationNetwork, step: int) -> None:
        """Move the average."""
        network.follow(network.segmenter, step)

    def evaluate(
        self, network: SegmentationNetwork, batches: Iterable[Batch], reduce: Reduce
    ) -> list[Evaluation]:
        """Mean intersection over union, accuracies, and a per-class table."""
        return [self.evaluate_model(network.evaluated, batches, reduce)]

    @torch.no_grad()
    def evaluate_model(
        self, model: Segmenter, batches: Iterable[Batch], reduce: Reduce
    ) -> Evaluation:
        """As :meth:`evaluate`, for a bare segmenter."""
        counts = MeanIoU(self.classes, next(model.parameters()).device)
        self._shown = {}
        for batch in batches:
            images = normalise_views(batch["image"], batch["size"])
            found = model.segment(images, batch["size"], batch["original"])
            rows = zip(found, batch["mask"], batch["sample_id"].tolist(), strict=True)
            for mask, truth, sample_id in rows:
                height, width = mask.shape
                # A batch's masks are padded to its largest; what was found is as its image.
                counts.add(mask, truth[:height, :width])
                if len(self._shown) < SHOWN:
                    self._shown[sample_id] = mask.cpu()
        figures = counts.compute(reduce)
        details: dict[str, object] = {"per_class": figures.per_class, "counted": "pixels"}
        return Evaluation(split="val", metrics=figures.metrics, details=details)

    def draw(self, network: SegmentationNetwork, folder: Path) -> list[Path]:
        """See :meth:`draw_last`."""
        del network
        return self.draw_last(folder)

    def draw_last(self, folder: Path) -> list[Path]:
        """The first images of the last evaluation: what was found, and what is annotated."""
        if not self._shown:
            return []
        data = open_rows(self.setup.data, self.setup.eval_split, self.setup.loader)
        scenes = [self._scene(data, number, found) for number, found in self._shown.items()]
        return [mask_grid(scenes, folder / "masks.png")]

    def _scene(self, data: ShardedDataset, sample_id: int, found: Tensor) -> MaskedImage:
        row = data[sample_id]
        image = decode_rgb(np.frombuffer(row["image"], dtype=np.uint8))
        truth = torch.from_numpy(decode_mask(row["mask"]))
        return MaskedImage(image=image, found=found, truth=truth)

    def multiply_adds(self, network: SegmentationNetwork) -> dict[str, int]:
        """Of the segmenter, for a crop."""
        return training_cost("segmenter", network.segmenter, self.model, self.augment.crop_size)

    def export(self, network: SegmentationNetwork, path: Path) -> None:
        """Write the evaluated segmenter, with its classes and how it looks at images."""
        save_model(
            network.evaluated,
            path,
            {
                "task": self.config.name,
                "classes": json.dumps(self.classes),
                "viewing": json.dumps(dataclasses.asdict(self.viewing)),
            },
        )

    @classmethod
    def accepts(cls, network: nn.Module) -> bool:
        """See `Task.accepts`: a segmenter."""
        return isinstance(network, Segmenter)

    @classmethod
    def check_split(cls, dataset: ShardedDataset) -> None:
        """See `Task.check_split`: images with masks."""
        check_segmentation(dataset)

    @classmethod
    def look(cls, network: Segmenter, scales: tuple[float, ...], mirror: bool) -> None:
        """See `Task.look`."""
        network.viewing = dataclasses.replace(network.viewing, scales=scales, mirror=mirror)

    @classmethod
    def evaluator(
        cls, network: Segmenter, classes: Sequence[str], place: EvaluationPlace
    ) -> Evaluator[Segmenter]:
        """See `Task.evaluator`."""
        from itpn_ray.tasks.segmentation.evaluator import SegmenterEvaluator

        return SegmenterEvaluator(network, classes, place)

    @classmethod
    def predictor(
        cls, network: Segmenter, classes: Sequence[str], place: PredictionPlace
    ) -> Predict:
        """See `Task.predictor`: the shares of the classes, and masks as PNG."""
        from itpn_ray.tasks.segmentation.predictor import MaskPredictor

        return MaskPredictor(network, classes, place)
