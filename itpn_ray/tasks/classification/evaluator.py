"""Evaluation of trained classifiers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from itpn_ray.data.loading.crop_loader import EvalLoader
from itpn_ray.data.store.shard_cache import open_rows
from itpn_ray.data.transforms.on_device import prefetch
from itpn_ray.evaluation.speed import Speed, compare_speed
from itpn_ray.models import Classifier
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.batches import Batch, Evaluation
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.classification.task import ClassificationTask
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.trained import LOADER, EvaluationPlace, Evaluator, counted
from itpn_ray.terminal.item_progress import Count

BATCH = 64
"""Images a forward pass, unless the user says."""


def central_crops(network: Classifier, place: EvaluationPlace, count: Count) -> Iterator[Batch]:
    """Device batches of a split as a classifier sees it; those that have been worked on count."""
    loader = EvalLoader(
        place.dataset,
        LOADER,
        image_size=network.config.trunk.image_size,
        crop=network.crop_fraction,
        batch=place.batch or BATCH,
        pin=place.pin,
    )
    return counted(prefetch(loader, place.device), len(place.dataset), count)


class ClassifierEvaluator(Evaluator[Classifier]):
    """Top-1 and top-5 accuracy on central crops."""

    shown = ("top1", "top5")

    def __init__(self, network: Classifier, classes: Sequence[str], place: EvaluationPlace) -> None:
        self.place = place
        self.size = network.config.trunk.image_size
        self.task = ClassificationTask(
            TaskSetup(
                config=Classification(), model=ModelConfig(image_size=self.size), classes=classes
            )
        )

    def evaluate(self, network: Classifier, ratio: float, count: Count) -> Evaluation:
        """See `Evaluator.evaluate`."""
        del ratio
        batches = central_crops(network, self.place, count)
        return self.task.evaluate_model(network, batches, self.place.reduce)

    def draw(self, folder: Path) -> list[Path]:
        """See `Evaluator.draw`: the confusion matrix."""
        return self.task.draw_last(folder)

    def details(self) -> dict[str, object]:
        """See `Evaluator.details`: ``mistakes``, the surest first, with the images' paths."""
        # Batches bring pixels, not paths; the few mistaken images are looked up afterwards.
        data = open_rows(self.place.dataset.uri, self.place.dataset.split, LOADER)
        classes = self.task.classes
        rows = []
        for mistake in self.task.mistakes.worst:
            shard, row = data.locate(mistake.sample_id)
            found = data.shard(shard).fields(row, ["path"])
            named = {"class": classes[mistake.label], "answer": classes[mistake.answer]}
            rows.append({**found, **named, "score": round(mistake.score, 4)})
        return {"mistakes": rows}

    def speeds(self, networks: Mapping[float, Classifier]) -> dict[float, Speed]:
        """See `Evaluator.speeds`: on random numbers."""
        return compare_speed(networks, image_size=self.size, batch=self.place.batch or BATCH)
