"""Detection of turned boxes over the pre-trained pyramid (paper, 5.3 and Table 7)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from itpn_ray.data.annotations.objects import check_rotated
from itpn_ray.data.annotations.tiles import TileReader
from itpn_ray.data.config import RotatedAugmentConfig
from itpn_ray.data.loading.image_folder import Predict
from itpn_ray.data.loading.rotated_loader import RotatedEvalLoader, RotatedTrainLoader
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.evaluation.dota_format import in_tile
from itpn_ray.evaluation.rotated_ap import RotatedAP
from itpn_ray.models import RotatedRcnn, create_rotated_rcnn, save_model
from itpn_ray.models.detection.base import Detections, Detector
from itpn_ray.tasks.base import TaskSetup, WorkerShare
from itpn_ray.tasks.batches import Batch, TrainBatches
from itpn_ray.tasks.cost import training_cost
from itpn_ray.tasks.detection.base import DetectionNetwork, DetectorTask
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

    def _average_precision(self) -> RotatedAP:
        """See `DetectorTask._average_precision`: DOTA's mAP over images merged from their tiles."""
        return RotatedAP(self._reader())

    def _reader(self) -> TileReader:
        return TileReader(self._truth())

    @staticmethod
    def in_original(found: Detections, size: Tensor, original: Tensor) -> Detections:
        """See `DetectorTask.in_original`: of the tile."""
        return in_tile(found, size, original)

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
