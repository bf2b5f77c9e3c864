"""Evaluation of trained segmenters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from itpn_ray.data.config import SegmentationAugmentConfig
from itpn_ray.data.loading.segmentation_loader import SegmentationEvalLoader
from itpn_ray.data.transforms.on_device import normalise_views, prefetch
from itpn_ray.evaluation.speed import Speed, finish, seconds_in_turn
from itpn_ray.models.segmentation.base import Segmenter
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.batches import Batch, Evaluation
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.tasks.segmentation.task import SegmentationTask
from itpn_ray.tasks.trained import LOADER, EvaluationPlace, Evaluator, counted
from itpn_ray.terminal.item_progress import Count


class SegmenterEvaluator(Evaluator[Segmenter]):
    """Mean intersection over union of whole images.

    Args:
        network: tells how images are looked at.
        classes: names of the classes.
        place: where.
    """

    shown = ("miou", "macc", "aacc")

    def __init__(self, network: Segmenter, classes: Sequence[str], place: EvaluationPlace) -> None:
        self.place = place
        self.batch = place.batch or 1
        self.viewing = network.viewing
        self.task = SegmentationTask(
            TaskSetup(
                config=Segmentation(),
                augment=SegmentationAugmentConfig(),
                loader=LOADER,
                data=place.dataset.uri,
                eval_split=place.dataset.split,
                classes=classes,
            )
        )

    def evaluate(self, network: Segmenter, ratio: float, count: Count) -> Evaluation:
        """See `Evaluator.evaluate`."""
        del ratio
        batches = counted(self._batches(), len(self.place.dataset), count)
        return self.task.evaluate_model(network, batches, self.place.reduce)

    def draw(self, folder: Path) -> list[Path]:
        """See `Evaluator.draw`: the first images."""
        return self.task.draw_last(folder)

    def speeds(self, networks: Mapping[float, Segmenter]) -> dict[float, Speed]:
        """See `Evaluator.speeds`: on the first images, from normalised views to masks."""
        # One batch over and over: reading it must not be timed.
        batch = next(iter(self._batches()))
        images, sizes = normalise_views(batch["image"], batch["size"]), batch["size"]
        calls = {
            # A GPU answers a call before it has computed: finish waits for it.
            ratio: partial(
                finish, partial(network.segment, images, sizes, batch["original"]), images.device
            )
            for ratio, network in networks.items()
        }
        spent = seconds_in_turn(calls)
        return {ratio: Speed.of(len(images), seconds) for ratio, seconds in spent.items()}

    def _batches(self) -> Iterable[Batch]:
        loader = SegmentationEvalLoader(
            self.place.dataset,
            LOADER,
            batch=self.batch,
            short_side=self.viewing.short_side,
            long_side=self.viewing.long_side,
            pin=self.place.pin,
        )
        return prefetch(loader, self.place.device)
