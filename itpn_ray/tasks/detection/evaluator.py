"""Evaluation of trained detectors."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from itpn_ray.data.annotations.objects import check_detection
from itpn_ray.data.config import DetectionAugmentConfig
from itpn_ray.data.loading.detection_loader import DetectionEvalLoader
from itpn_ray.data.transforms.on_device import normalise_views, prefetch
from itpn_ray.evaluation.coco_format import write_results
from itpn_ray.evaluation.speed import Speed, finish, seconds_in_turn
from itpn_ray.models import Dino, Rcnn
from itpn_ray.models.detection.base import Detector
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.batches import Batch, Evaluation
from itpn_ray.tasks.detection.base import DetectorTask
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.detection.task import DetectionTask
from itpn_ray.tasks.trained import LOADER, EvaluationPlace, Evaluator, counted
from itpn_ray.terminal.item_progress import Count


class ViewEvaluator(Evaluator[Detector]):
    """What evaluators of all detectors share: drawings and speeds."""

    task: DetectorTask[Any]

    @abstractmethod
    def _batches(self) -> Iterable[Batch]:
        """The views of the split, on the device."""

    def draw(self, folder: Path) -> list[Path]:
        """See `Evaluator.draw`: the first images."""
        return self.task.draw_last(folder)

    def speeds(self, networks: Mapping[float, Detector]) -> dict[float, Speed]:
        """See `Evaluator.speeds`: on the first images, from normalised views to boxes and masks."""
        # One batch over and over: reading it must not be timed.
        batch = next(iter(self._batches()))
        images, sizes = normalise_views(batch["image"], batch["size"]), batch["size"]
        calls = {
            # A GPU answers a call before it has computed: finish waits for it.
            ratio: partial(finish, partial(network.detect, images, sizes), images.device)
            for ratio, network in networks.items()
        }
        spent = seconds_in_turn(calls)
        return {ratio: Speed.of(len(images), seconds) for ratio, seconds in spent.items()}


class DetectorEvaluator(ViewEvaluator):
    """COCO's average precision of whole images, and all detections as COCO's results.

    Args:
        network: tells whether there are masks, and the size of the images.
        classes: names of the classes.
        place: where.

    Raises:
        DataError: the data has no boxes.
    """

    shown = ("box_AP", "box_AP50", "mask_AP")

    def __init__(self, network: Detector, classes: Sequence[str], place: EvaluationPlace) -> None:
        check_detection(place.dataset)
        self.place = place
        self.batch = place.batch or 1
        self.short_side, self.long_side = network.view
        self.task = DetectionTask(
            TaskSetup(
                config=Detection(masks=isinstance(network, Rcnn | Dino) and network.config.masks),
                augment=DetectionAugmentConfig(),
                loader=LOADER,
                data=place.dataset.uri,
                eval_split=place.dataset.split,
                classes=classes,
            )
        )

    def evaluate(self, network: Detector, ratio: float, count: Count) -> Evaluation:
        """See `Evaluator.evaluate`: writes ``detections_rR.json`` for a ratio R."""
        batches = counted(self._batches(), len(self.place.dataset), count)
        found, results = self.task.evaluate_model(network, batches)
        write_results(results, self.place.folder / f"detections_r{ratio:g}.json")
        return found

    def _batches(self) -> Iterable[Batch]:
        loader = DetectionEvalLoader(
            self.place.dataset,
            LOADER,
            batch=self.batch,
            short_side=self.short_side,
            long_side=self.long_side,
            pin=self.place.pin,
        )
        return prefetch(loader, self.place.device)
