"""Evaluation of trained classifiers of several labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from itpn_ray.evaluation.speed import Speed, compare_speed
from itpn_ray.models import Classifier
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.batches import Evaluation
from itpn_ray.tasks.classification.evaluator import BATCH, central_crops
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.multilabel.config import MultiLabel
from itpn_ray.tasks.multilabel.task import MultiLabelTask
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator
from itpn_ray.terminal.item_progress import Count


class MultiLabelEvaluator(Evaluator[Classifier]):
    """Average precision on central crops."""

    shown = ("map", "f1")

    def __init__(self, network: Classifier, classes: Sequence[str], place: EvaluationPlace) -> None:
        self.place = place
        self.size = network.config.trunk.image_size
        model = ModelConfig(image_size=self.size)
        self.task = MultiLabelTask(TaskSetup(config=MultiLabel(), model=model, classes=classes))

    def evaluate(self, network: Classifier, ratio: float, count: Count) -> Evaluation:
        """See `Evaluator.evaluate`."""
        del ratio
        batches = central_crops(network, self.place, count)
        return self.task.evaluate_model(network, batches, self.place.reduce)

    def speeds(self, networks: Mapping[float, Classifier]) -> dict[float, Speed]:
        """See `Evaluator.speeds`: on random numbers."""
        return compare_speed(networks, image_size=self.size, batch=self.place.batch or BATCH)
