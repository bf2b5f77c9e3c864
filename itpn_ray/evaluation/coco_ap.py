"""COCO's average precision and recall, of boxes and of masks.

The metrics are those of COCO's own evaluation (https://cocodataset.org/#detection-eval): averages
over ten overlaps 0.50:0.05:0.95, at most 100 detections an image, crowds ignored; small objects
have less than 32², large ones more than 96² square pixels. hotcoco compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from itpn_ray.data.annotations.objects import ObjectReader
from itpn_ray.evaluation.coco_format import (
    Entry,
    class_numbers,
    image_entry,
    result_entries,
    truth_entries,
)
from itpn_ray.evaluation.rank_zero import on_rank_zero

if TYPE_CHECKING:
    from itpn_ray.models.detection.base import Detections

KINDS = ("box", "mask")
"""What is compared."""
_SIZES = ("small", "medium", "large")
_IOU = {"box": "bbox", "mask": "segm"}
"""Kind -> COCO's name of it."""
_LIMITS = (1, 10, 100)
"""Detections of an image that count."""
_OVERLAPS = {"AP": slice(None), "AP50": slice(1), "AP75": slice(5, 6)}
"""Metric -> which of the ten overlaps it averages."""
_PER_CLASS = ("AP", "AP50", *(f"AP_{size}" for size in _SIZES))

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class CocoMetrics:
    """What an evaluation found; all metrics are fractions in [0, 1].

    Attributes:
        metrics: COCO's twelve metrics for each kind: ``box_AP``, ``box_AP50``, ``box_AP75``,
            ``box_AP_small``, ..., ``box_AR1``, ``box_AR10``, ``box_AR100``, ``box_AR_small``, ...,
            likewise ``mask_AP``, ...; one that no object counts for is left out.
        per_class: a row a class: ``name``, ``count`` of its objects without crowds, and for each
            kind ``box_AP``, ``box_AP50``, ``box_AP_small``, ``box_AP_medium``, ``box_AP_large``;
            None where no object counts.
    """

    metrics: dict[str, float]
    per_class: list[dict[str, object]]


class CocoAP:
    """Collects the detections of this worker's images, and evaluates those of all workers.

    Args:
        truth: the objects of the split.
        masks: evaluate masks besides boxes.

    Attributes:
        results: after :meth:`compute`, on rank 0 only: all detections as COCO's results.
    """

    def __init__(self, truth: ObjectReader, *, masks: bool) -> None:
        self.results: list[Entry] = []
        self._truth = truth
        self._kinds = KINDS if masks else KINDS[:1]
        self._class_ids = class_numbers(truth.dataset.manifest)
        self._images: dict[int, _Image] = {}

    def add(self, sample_ids: Tensor, detections: Sequence[Detections]) -> None:
        """Add images.

        Args:
            sample_ids: (B,) int64.
            detections: of each image, on the CPU, in pixels of the stored image
                (`itpn_ray.evaluation.pasting.in_image`).
        """
        for sample_id, found in zip(sample_ids.tolist(), detections, strict=True):
            objects = self._truth[sample_id]
            self._images[sample_id] = _Image(
                image=image_entry(objects),
                truth=truth_entries(objects, self._class_ids),
                results=result_entries(found, objects.image_id, objects.size, self._class_ids),
            )

    def compute(self) -> CocoMetrics:
        """Evaluate the images of all workers, each of which must call this; an image that
        several workers saw counts once.
        """
        return on_rank_zero(self._images, self._evaluate)

    def _evaluate(self, parts: list[dict[int, _Image]]) -> CocoMetrics:
        images = {sample_id: image for part in parts for sample_id, image in part.items()}
        # In the order of the split, so that equal scores rank alike for any number of workers.
        ordered = [images[sample_id] for sample_id in sorted(images)]
        names = self._truth.dataset.classes
        truth = {
            "images": [image.image for image in ordered],
            "annotations": [entry for image in ordered for entry in image.truth],
            "categories": [
                {"id": number, "name": name}
                for number, name in zip(self._class_ids, names, strict=True)
            ],
        }
        self.results = [entry for image in ordered for entry in image.results]
        return coco_metrics(truth, self.results, self._kinds)


@dataclass(frozen=True, kw_only=True)
class _Image:
    """One image in COCO's form: its entry, its annotations, and what was detected."""

    image: Entry
    truth: list[Entry]
    results: list[Entry]


def coco_metrics(
    truth: dict[str, list[Entry]], results: Sequence[Entry], kinds: Sequence[str]
) -> CocoMetrics:
    """Evaluate COCO results against COCO annotations; neither is changed.

    Args:
        truth: ``images``, ``annotations`` and ``categories``. Where masks are compared, an
            annotation without a ``segmentation`` is a crowd that fills its box: it need not be
            found, and masks of its class that lie in it count neither as right nor as wrong.
        results: entries of a results file.
        kinds: of `KINDS`.
    """
    metrics: dict[str, float] = {}
    categories = sorted(truth["categories"], key=lambda category: category["id"])
    # A missing class keeps its row, with a count of 0.
    counts = {category["id"]: 0 for category in categories}
    for entry in truth["annotations"]:
        # COCO counts no crowd as an object.
        counts[entry["category_id"]] += not entry.get("iscrowd", 0)
    rows: list[dict[str, object]] = [
        {"name": category["name"], "count": counts[category["id"]]} for category in categories
    ]
    for kind in kinds:
        precision, recall = _run(truth, results, list(counts), kind)
        for name, part in (_precisions(precision) | _recalls(recall)).items():
            value = _mean(part)
            if value is not None:
                metrics[f"{kind}_{name}"] = value
        for number, row in enumerate(rows):
            found = _precisions(precision[:, :, [number]])
            row |= {f"{kind}_{name}": _mean(found[name]) for name in _PER_CLASS}
    return CocoMetrics(metrics=metrics, per_class=rows)


def _run(
    truth: dict[str, list[Entry]], results: Sequence[Entry], class_ids: Sequence[int], kind: str
) -> tuple[Array, Array]:
    """Precisions (overlaps, recalls, classes, sizes, limits), recalls (overlaps, classes, sizes,
    limits); -1 where no object counts.
    """
    from hotcoco import COCO, COCOeval

    compared, entries = _numbered_anew(truth, results, class_ids, kind)
    evaluated = COCO(compared)
    evaluation = COCOeval(evaluated, evaluated.load_res(entries), _IOU[kind])
    evaluation.evaluate()
    # Not summarize(), which prints.
    evaluation.accumulate()
    found = cast("dict[str, Array]", evaluation.eval)
    return found["precision"], found["recall"]


def _numbered_anew(
    truth: dict[str, list[Entry]], results: Sequence[Entry], class_ids: Sequence[int], kind: str
) -> tuple[dict[str, list[Entry]], list[Entry]]:
    """Annotations and results of one kind, all numbers from 1 on.

    Files have negative numbers too, or the same for several annotations.
    """
    # In the order of the images' numbers, in which COCO ranks equal scores.
    numbers = sorted(entry["id"] for entry in truth["images"])
    images = {number: place for place, number in enumerate(numbers, 1)}
    classes = {number: place for place, number in enumerate(class_ids, 1)}

    def numbered(entry: Entry) -> Entry:
        image, label = images[entry["image_id"]], classes[entry["category_id"]]
        return entry | {"image_id": image, "category_id": label}

    masks = kind == "mask"
    annotations = [
        numbered(_comparable(entry, masks)) | {"id": number}
        for number, entry in enumerate(truth["annotations"], 1)
    ]
    # Given both, it would take the sizes of masks from their boxes.
    left_out = "bbox" if masks else "segmentation"
    entries = [numbered({k: v for k, v in entry.items() if k != left_out}) for entry in results]
    compared = {
        "images": [entry | {"id": images[entry["id"]]} for entry in truth["images"]],
        "annotations": annotations,
        "categories": [{"id": place, "name": str(place)} for place in classes.values()],
    }
    return compared, entries


def _comparable(entry: Entry, masks: bool) -> dict[str, Any]:
    """An annotation as the evaluation takes it: without a mask it is a crowd that fills its box."""
    if not masks or entry.get("segmentation"):
        return dict(entry)
    x, y, width, height = entry["bbox"]
    x2, y2 = x + width, y + height
    # Without a mask it can be neither found nor missed: a crowd of its box's shape.
    return {**entry, "segmentation": [[x, y, x2, y, x2, y2, x, y2]], "iscrowd": 1}


def _precisions(precision: Array) -> dict[str, Array]:
    """What each metric of precision averages."""
    # All detections that the last limit allows; size 0 is all sizes together.
    by_size = precision[..., -1]
    parts = {name: by_size[overlaps, ..., 0] for name, overlaps in _OVERLAPS.items()}
    return parts | {f"AP_{size}": by_size[..., n] for n, size in enumerate(_SIZES, 1)}


def _recalls(recall: Array) -> dict[str, Array]:
    """What each metric of recall averages."""
    parts = {f"AR{limit}": recall[..., 0, n] for n, limit in enumerate(_LIMITS)}
    return parts | {f"AR_{size}": recall[..., n, -1] for n, size in enumerate(_SIZES, 1)}


def _mean(part: Array) -> float | None:
    """The mean of what counts; None where nothing does."""
    counted = part[part > -1]
    return float(counted.mean()) if counted.size else None
