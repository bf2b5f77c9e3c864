"""Detection of turned boxes over the pre-trained pyramid (paper, 5.3 and Table 7)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from itpn_ray.data.annotations.objects import check_rotated
from itpn_ray.data.annotations.tiles import TileReader
from itpn_ray.data.config import RotatedAugmentConfig
from itpn_ray.data.loading.image_folder import Predict
from itpn_ray.data.loading.rotated_loader import RotatedEvalLoader, RotatedTrainLoader
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.on_device import normalise_views
from itpn_ray.evaluation.dota_format import WholeImage, in_tile
from itpn_ray.evaluation.draw_detections import Scene, detection_grid
from itpn_ray.evaluation.rotated_ap import RotatedAP
from itpn_ray.models import RotatedRcnn, create_rotated_rcnn, save_model
from itpn_ray.models.detection.base import Detector
from itpn_ray.tasks.base import TaskSetup, WorkerShare
from itpn_ray.tasks.batches import Batch, Evaluation, TrainBatches
from itpn_ray.tasks.cost import training_cost
from itpn_ray.tasks.detection.base import SHOWN, DetectionNetwork, DetectorTask
from itpn_ray.tasks.rotated_detection.config import RotatedDetection
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator, PredictionPlace

SMALL = {"fc_width": 256, "proposals": 256, "regions": 128}


class RotatedDetectionTask(DetectorTask[RotatedDetection]):
    """Train a detector of turned boxes."""

    def __init__(self, setup: TaskSetup[RotatedDetection]) -> None:
        super().__init__(setup)
        self.augment = cast(RotatedAugmentConfig, setup.augment)

    def check(self, train: ShardedDataset, val: ShardedDataset) -> None:
        """Refuse data without turned boxes.

        Raises:
            DataError: a split has none.
        """
        for dataset in (train, val):
            check_rotated(dataset)

    def train_loader(self, train: ShardedDataset, share: WorkerShare) -> TrainBatches:
        """Views of tiles with the objects that they show."""
        return RotatedTrainLoader(
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
        """Whole tiles."""
        return RotatedEvalLoader(
            val,
            self.setup.loader,
            short_side=self.config.short_side,
            long_side=self.config.long_side,
            batch=share.eval_batch,
            rank=share.rank,
            world=share.world,
            pin=share.pin,
        )

    def _create(self, **options: Any) -> Detector:
        small = SMALL if self.config.small_head else {}
        return create_rotated_rcnn(self.model.name, **small, **options)

    @torch.no_grad()
    def evaluate_model(
        self, model: Detector, batches: Iterable[Batch]
    ) -> tuple[Evaluation, list[WholeImage]]:
        """See `DetectorTask.evaluate_model`: DOTA's mAP over whole images, merged from tiles."""
        average_precision = RotatedAP(TileReader(self._truth()))
        self._shown = {}
        for batch in batches:
            images = normalise_views(batch["image"], batch["size"])
            seen = model.detect(images, batch["size"])
            found = [
                in_tile(*each) for each in zip(seen, batch["size"], batch["original"], strict=True)
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
        """See `DetectorTask.draw_last`: tiles."""
        if not self._shown:
            return []
        truth = TileReader(self._truth())
        scenes = [
            Scene(image=truth.image(number), found=found, truth=truth[number])
            for number, found in self._shown.items()
        ]
        return [detection_grid(scenes, self.classes, folder / "detections.png")]

    def multiply_adds(self, network: DetectionNetwork) -> dict[str, int]:
        """Of the detector, for a square tile."""
        # Rounded up, as views are padded.
        side = max(64, -(-self.augment.side // 32) * 32)
        return training_cost("detector", network.detector, self.model, side)

    def export(self, network: DetectionNetwork, path: Path) -> None:
        """Write the evaluated detector, with its classes, view and tiles."""
        settings = self._truth().manifest.settings
        save_model(
            network.evaluated,
            path,
            {
                "task": self.config.name,
                "classes": json.dumps(self.classes),
                "view": json.dumps([self.config.short_side, self.config.long_side]),
                "tiles": json.dumps([settings["tile"], settings["tile_gap"]]),
            },
        )

    @classmethod
    def accepts(cls, network: nn.Module) -> bool:
        """See `Task.accepts`: a detector of turned boxes."""
        return isinstance(network, RotatedRcnn)

    @classmethod
    def check_split(cls, dataset: ShardedDataset) -> None:
        """See `Task.check_split`: tiles with turned boxes."""
        check_rotated(dataset)

    @classmethod
    def evaluator(
        cls, network: Detector, classes: Sequence[str], place: EvaluationPlace
    ) -> Evaluator[Detector]:
        """See `Task.evaluator`."""
        from itpn_ray.tasks.rotated_detection.evaluator import RotatedEvaluator

        return RotatedEvaluator(network, classes, place)

    @classmethod
    def predictor(
        cls, network: Detector, classes: Sequence[str], place: PredictionPlace
    ) -> Predict:
        """See `Task.predictor`: turned boxes of whole images, and lines of DOTA's Task 1."""
        from itpn_ray.tasks.rotated_detection.predictor import RotatedPredictor

        assert isinstance(network, RotatedRcnn)
        return RotatedPredictor(network, classes, place)

    @classmethod
    def categories(cls, network: Detector) -> list[dict[str, Any]]:
        """See `Task.categories`."""
        return [{"id": n, "name": name} for n, name in enumerate(network.classes, 1)]
