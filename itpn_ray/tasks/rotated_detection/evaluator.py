"""Evaluation of trained detectors of turned boxes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from itpn_ray.data.annotations.objects import check_rotated
from itpn_ray.data.config import RotatedAugmentConfig
from itpn_ray.data.loading.rotated_loader import RotatedEvalLoader
from itpn_ray.data.transforms.on_device import prefetch
from itpn_ray.evaluation.dota_format import write_task1
from itpn_ray.models.detection.base import Detector
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.batches import Batch, Evaluation
from itpn_ray.tasks.detection.evaluator import ViewEvaluator
from itpn_ray.tasks.rotated_detection.config import RotatedDetection
from itpn_ray.tasks.rotated_detection.task import RotatedDetectionTask
from itpn_ray.tasks.trained import LOADER, EvaluationPlace, counted
from itpn_ray.terminal.item_progress import Count


class RotatedEvaluator(ViewEvaluator):
    """DOTA's mAP of whole images, and all detections as the files of its Task 1.

    Args:
        network: tells the size of the tiles as it is shown them.
        classes: names of the classes.
        place: where.

    Raises:
        DataError: the data has no turned boxes.
    """

    shown = ("rotated_AP50", "rotated_AP75", "rotated_AP")

    def __init__(self, network: Detector, classes: Sequence[str], place: EvaluationPlace) -> None:
        check_rotated(place.dataset)
        self.place = place
        self.batch = place.batch or 1
        self.short_side, self.long_side = network.view
        self.classes = classes
        self.task = RotatedDetectionTask(
            TaskSetup(
                config=RotatedDetection(),
                augment=RotatedAugmentConfig(),
                loader=LOADER,
                data=place.dataset.uri,
                eval_split=place.dataset.split,
                classes=classes,
            )
        )

    def evaluate(self, network: Detector, ratio: float, count: Count) -> Evaluation:
        """See `Evaluator.evaluate`: writes ``task1_rR/Task1_CLASS.txt`` for a ratio R."""
        batches = counted(self._batches(), len(self.place.dataset), count)
        found, images = self.task.evaluate_model(network, batches)
        write_task1(images, self.classes, self.place.folder / f"task1_r{ratio:g}")
        return found

    def _batches(self) -> Iterable[Batch]:
        loader = RotatedEvalLoader(
            self.place.dataset,
            LOADER,
            batch=self.batch,
            short_side=self.short_side,
            long_side=self.long_side,
            pin=self.place.pin,
        )
        return prefetch(loader, self.place.device)
