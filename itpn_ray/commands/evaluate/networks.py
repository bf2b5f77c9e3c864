"""What `itpn-ray evaluate` does with a classifier, and what with a detector."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from itpn_ray.data.annotations.objects import check_detection
from itpn_ray.data.config import DetectionAugmentConfig, LoaderConfig
from itpn_ray.data.loading.crop_loader import EvalLoader
from itpn_ray.data.loading.detection_loader import DetectionEvalLoader
from itpn_ray.data.store.shard_cache import open_rows
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.transforms.on_device import normalise_views, prefetch
from itpn_ray.evaluation.coco_format import write_results
from itpn_ray.evaluation.speed import Speed, compare_speed, finish, seconds_in_turn
from itpn_ray.models import Classifier, Rcnn
from itpn_ray.models.detection.base import Detector
from itpn_ray.tasks.base import Batch, Evaluation, TaskSetup
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.classification.task import ClassificationTask
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.detection.task import DetectionTask
from itpn_ray.terminal.item_progress import Count
from itpn_ray.training.launch.context import TrainContext

N = TypeVar("N", Classifier, Detector)
LOADER = LoaderConfig(transport="threads", prefetch=64)


@dataclass(frozen=True, kw_only=True)
class Place:
    """What is evaluated on, and where.

    Attributes:
        dataset: the split.
        worker: this process.
        batch: images a forward pass; 0: what is usual for the kind of network.
        folder: the run's folder.
    """

    dataset: ShardedDataset
    worker: TrainContext
    batch: int
    folder: Path


class Subject(ABC, Generic[N]):
    """How one kind of network is evaluated.

    Attributes:
        headline: the figures that are said of each ratio.
        place: on what, and where.
    """

    headline: tuple[str, ...]
    place: Place

    @abstractmethod
    def evaluate(self, network: N, ratio: float, count: Count) -> Evaluation:
        """Evaluate on the whole split, at a migration ratio, and count the images."""

    @abstractmethod
    def draw(self, network: N, folder: Path) -> list[Path]:
        """Draw what the last evaluation found."""

    @abstractmethod
    def speeds(self, networks: Mapping[float, N]) -> dict[float, Speed]:
        """Speeds of the networks, by their keys, measured in turn."""

    def details(self) -> dict[str, object]:
        """More of the last evaluation for the report, by name."""
        return {}


class Classifiers(Subject[Classifier]):
    """Top-1 and top-5 accuracy on central crops."""

    headline = ("top1", "top5")

    def __init__(self, network: Classifier, classes: list[str], place: Place) -> None:
        self.place = place
        self.size = network.config.trunk.image_size
        self.batch = place.batch or 64
        self.task = ClassificationTask(
            TaskSetup(
                config=Classification(), model=ModelConfig(image_size=self.size), classes=classes
            )
        )

    def evaluate(self, network: Classifier, ratio: float, count: Count) -> Evaluation:
        """See `Subject.evaluate`."""
        del ratio
        loader = EvalLoader(
            self.place.dataset,
            LOADER,
            image_size=self.size,
            crop=network.crop_fraction,
            batch=self.batch,
            pin=self.place.worker.device.type == "cuda",
        )
        batches = _counted(
            prefetch(loader, self.place.worker.device), len(self.place.dataset), count
        )
        return self.task.evaluate_model(network, batches, self.place.worker.reduce)

    def draw(self, network: Classifier, folder: Path) -> list[Path]:
        """See `Subject.draw`: the confusion matrix."""
        return self.task.draw(network, folder)

    def details(self) -> dict[str, object]:
        """See `Subject.details`: ``mistakes``, the surest first, with the images' paths."""
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
        """See `Subject.speeds`: on random numbers."""
        return compare_speed(networks, image_size=self.size, batch=self.batch)


class Detectors(Subject[Detector]):
    """COCO's average precision of whole images, and all detections as COCO's results.

    Args:
        network: tells whether there are masks, and the size of the images.
        classes: names of the classes.
        place: where.

    Raises:
        DataError: the data has no boxes.
    """

    headline = ("box_AP", "box_AP50", "mask_AP")

    def __init__(self, network: Detector, classes: list[str], place: Place) -> None:
        check_detection(place.dataset)
        self.place = place
        self.batch = place.batch or 1
        self.short_side, self.long_side = network.view
        self.task = DetectionTask(
            TaskSetup(
                config=Detection(masks=isinstance(network, Rcnn) and network.config.masks),
                augment=DetectionAugmentConfig(),
                loader=LOADER,
                data=place.dataset.uri,
                eval_split=place.dataset.split,
                classes=classes,
            )
        )

    def evaluate(self, network: Detector, ratio: float, count: Count) -> Evaluation:
        """See `Subject.evaluate`: writes ``detections_rR.json`` for a ratio R."""
        batches = _counted(self._batches(), len(self.place.dataset), count)
        found, results = self.task.evaluate_model(network, batches)
        write_results(results, self.place.folder / f"detections_r{ratio:g}.json")
        return found

    def draw(self, network: Detector, folder: Path) -> list[Path]:
        """See `Subject.draw`: the first images."""
        return self.task.draw(network, folder)

    def speeds(self, networks: Mapping[float, Detector]) -> dict[float, Speed]:
        """See `Subject.speeds`: on the first images, from normalised views to boxes and masks."""
        batch = next(iter(self._batches()))
        images, sizes = normalise_views(batch["image"], batch["size"]), batch["size"]
        calls = {
            ratio: partial(finish, partial(network.detect, images, sizes), images.device)
            for ratio, network in networks.items()
        }
        spent = seconds_in_turn(calls)
        return {ratio: Speed.of(len(images), seconds) for ratio, seconds in spent.items()}

    def _batches(self) -> Iterable[Batch]:
        loader = DetectionEvalLoader(
            self.place.dataset,
            LOADER,
            batch=self.batch,
            short_side=self.short_side,
            long_side=self.long_side,
            pin=self.place.worker.device.type == "cuda",
        )
        return prefetch(loader, self.place.worker.device)


def _counted(batches: Iterable[Batch], total: int, count: Count) -> Iterator[Batch]:
    """The same batches; those that have been worked on are counted."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch["sample_id"])
        count(done, total)
