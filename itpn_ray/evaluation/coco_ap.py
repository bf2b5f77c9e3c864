"""COCO's average precision and recall, of boxes and of masks.

The metrics are those of COCO's own evaluation (https://cocodataset.org/#detection-eval): averages
over ten overlaps 0.50:0.05:0.95, at most 100 detections an image, crowds ignored; small objects
have less than 32², large ones more than 96² square pixels. faster-coco-eval computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
_METRICS = (
    *("AP", "AP50", "AP75", *(f"AP_{size}" for size in _SIZES)),
    *("AR1", "AR10", "AR100", *(f"AR_{size}" for size in _SIZES)),
)


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
        values, precision = _run(truth, results, kind)
        for name, value in zip(_METRICS, values, strict=True):
            if value > -1:  # COCO's mark of a metric that no object counts for
                metrics[f"{kind}_{name}"] = value
        for number, row in enumerate(rows):
            # The last of COCO's limits (1, 10 and 100 detections an image).
            row |= _of_class(precision[:, :, number, :, -1], kind)
    return CocoMetrics(metrics=metrics, per_class=rows)


def _run(
    truth: dict[str, list[Entry]], results: Sequence[Entry], kind: str
) -> tuple[list[float], NDArray[np.float64]]:
    """The twelve metrics, and precisions (overlaps, recalls, classes, sizes, detections)."""
    from faster_coco_eval import COCO, COCOeval_faster

    masks = kind == "mask"
    # Number 0 would stand for "no match" in the evaluation, so annotations are numbered anew.
    annotations = [
        _comparable(entry, masks) | {"id": number}
        for number, entry in enumerate(truth["annotations"], 1)
    ]
    # Given both, it would take the sizes of masks from their boxes.
    left_out = "bbox" if masks else "segmentation"
    found = [{k: v for k, v in entry.items() if k != left_out} for entry in results]
    compared = COCO({**truth, "annotations": annotations})
    evaluation = COCOeval_faster(compared, compared.loadRes(found), "segm" if masks else "bbox")
    evaluation.run()
    return [float(value) for value in evaluation.stats], evaluation.eval["precision"]


def _comparable(entry: Entry, masks: bool) -> dict[str, Any]:
    """An annotation as the evaluation takes it: without a mask it is a crowd that fills its box."""
    if not masks or entry.get("segmentation"):
        return dict(entry)
    x, y, width, height = entry["bbox"]
    x2, y2 = x + width, y + height
    # Without a mask it can be neither found nor missed: a crowd of its box's shape.
    return {**entry, "segmentation": [[x, y, x2, y, x2, y2, x, y2]], "iscrowd": 1}


def _of_class(precision: NDArray[np.float64], kind: str) -> dict[str, float | None]:
    """A class's row from its precisions (overlaps, recalls, sizes)."""
    # Size 0 is all sizes together, overlap 0 is 0.5.
    parts = {"AP": precision[..., 0], "AP50": precision[0, :, 0]}
    parts |= {f"AP_{size}": precision[..., n] for n, size in enumerate(_SIZES, 1)}
    return {
        # -1 is COCO's mark of a precision that nothing counts for.
        f"{kind}_{name}": float(part[part > -1].mean()) if (part > -1).any() else None
        for name, part in parts.items()
    }
