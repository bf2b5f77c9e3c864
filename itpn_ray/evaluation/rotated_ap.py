"""Average precision of turned boxes, as DOTA's Task 1 has it: whole images, VOC's eleven points.

What is found in the tiles of an image is merged (`itpn_ray.evaluation.dota_format`), and compared
with the objects of the whole image. A detection stands for the object of its class that it overlaps
most; the surest one that overlaps it by more than the threshold is right, others are wrong, and
those of difficult objects neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from itpn_ray.data.annotations.tiles import TileObjects, TileReader
from itpn_ray.evaluation.dota_format import WholeImage, merge_tiles
from itpn_ray.evaluation.rank_zero import on_rank_zero
from itpn_ray.models.rotated.boxes import from_corners
from itpn_ray.models.rotated.overlap import overlaps

if TYPE_CHECKING:
    from itpn_ray.models.detection.base import Detections

THRESHOLDS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
_POINTS = np.arange(0.0, 1.1, 0.1)
"""Recalls at which precision is read, as VOC's program of 2007 computes them."""


@dataclass(frozen=True, kw_only=True)
class RotatedMetrics:
    """What an evaluation found; all metrics are fractions in [0, 1].

    Attributes:
        metrics: ``rotated_AP50`` (DOTA's mAP), ``rotated_AP75``, and ``rotated_AP``, the mean over
            overlaps 0.50:0.05:0.95: means over the classes that have objects.
        per_class: a row a class: ``name``, ``count`` of its objects without difficult ones, and the
            same metrics, None where no object counts.
    """

    metrics: dict[str, float]
    per_class: list[dict[str, object]]


@dataclass(frozen=True, kw_only=True)
class _Tile:
    objects: TileObjects
    found: Detections


@dataclass(frozen=True, kw_only=True)
class _Truth:
    """The objects of an image: boxes (n, 5), classes and difficult (n,)."""

    boxes: Tensor
    classes: NDArray[np.int64]
    difficult: NDArray[np.bool_]


class RotatedAP:
    """Collects the detections of this worker's tiles, and evaluates those of all workers.

    Args:
        truth: the objects of the split.

    Attributes:
        results: after :meth:`compute`, on rank 0 only: what was found in each image.
    """

    def __init__(self, truth: TileReader) -> None:
        self.results: list[WholeImage] = []
        self._truth = truth
        self._tiles: dict[int, _Tile] = {}

    def add(self, sample_ids: Tensor, detections: Sequence[Detections]) -> None:
        """Add tiles.

        Args:
            sample_ids: (B,) int64.
            detections: of each tile, see `itpn_ray.evaluation.dota_format.in_tile`.
        """
        for sample_id, found in zip(sample_ids.tolist(), detections, strict=True):
            self._tiles[sample_id] = _Tile(objects=self._truth[sample_id], found=found)

    def compute(self) -> RotatedMetrics:
        """Evaluate the tiles of all workers, each of which must call this; a tile that several
        workers saw counts once.
        """
        return on_rank_zero(self._tiles, self._evaluate)

    def _evaluate(self, parts: list[dict[int, _Tile]]) -> RotatedMetrics:
        tiles = {sample_id: tile for part in parts for sample_id, tile in part.items()}
        images: dict[int, list[_Tile]] = {}
        # In the order of the split, so that equal scores rank alike for any number of workers.
        for sample_id in sorted(tiles):
            tile = tiles[sample_id]
            images.setdefault(tile.objects.image_id, []).append(tile)
        self.results = [
            WholeImage(
                path=image[0].objects.path,
                found=merge_tiles([(tile.objects.origin, tile.found) for tile in image]),
            )
            for image in images.values()
        ]
        truth = [_whole([tile.objects for tile in image]) for image in images.values()]
        found = [image.found for image in self.results]
        return _metrics(truth, found, self._truth.dataset.classes)


def _whole(tiles: Sequence[TileObjects]) -> _Truth:
    """The objects of an image from its tiles, of which several may show one."""
    # Tiles overlap and share objects: each counts once.
    _, first = np.unique(np.concatenate([tile.ids for tile in tiles]), return_index=True)
    corners = np.concatenate([tile.corners + np.array(tile.origin) for tile in tiles])[first]
    return _Truth(
        boxes=from_corners(torch.from_numpy(corners)),
        classes=np.concatenate([tile.classes for tile in tiles])[first],
        difficult=np.concatenate([tile.difficult for tile in tiles])[first],
    )


def _metrics(
    truth: Sequence[_Truth], found: Sequence[Detections], names: Sequence[str]
) -> RotatedMetrics:
    rows: list[dict[str, object]] = []
    counted = []
    for label, name in enumerate(names):
        objects, precisions = _class_precisions(truth, found, label)
        row = {
            "rotated_AP50": precisions[0],
            "rotated_AP75": precisions[THRESHOLDS.index(0.75)],
            "rotated_AP": float(np.mean(precisions)),
        }
        rows.append({"name": name, "count": objects, **(row if objects else dict.fromkeys(row))})
        counted += [row] if objects else []
    metrics = {
        name: float(np.mean([row[name] for row in counted]))
        for name in (counted[0] if counted else ())
    }
    return RotatedMetrics(metrics=metrics, per_class=rows)


def _class_precisions(
    truth: Sequence[_Truth], found: Sequence[Detections], label: int
) -> tuple[int, list[float]]:
    """Objects of a class that count, and its average precision at each of `THRESHOLDS`."""
    scores, best, nearest, difficult = [], [], [], []
    objects = 0
    for real, seen in zip(truth, found, strict=True):
        own = np.flatnonzero(real.classes == label)
        hits = seen.labels == label
        scores.append(seen.scores[hits].numpy())
        # Without an object of the class nothing overlaps.
        best_here = np.zeros(int(hits.sum()))
        nearest_here = np.zeros(len(best_here), dtype=np.int64)
        if len(own) and len(best_here):
            most = overlaps(seen.boxes[hits], real.boxes[own]).max(dim=1)
            best_here, nearest_here = most.values.numpy(), most.indices.numpy()
        best.append(best_here)
        # Numbered on, so that objects of different images are told apart.
        nearest.append(nearest_here + objects)
        difficult.append(real.difficult[own])
        objects += len(own)
    # Stable, so that equal scores stay in the order of the split.
    order = np.argsort(-np.concatenate(scores), kind="stable")
    hard = np.concatenate(difficult)
    count = int((~hard).sum())
    overlap, index = np.concatenate(best)[order], np.concatenate(nearest)[order]
    return count, [_precision(overlap > at, index, hard, count) for at in THRESHOLDS]


def _precision(
    near: NDArray[np.bool_], index: NDArray[np.int64], hard: NDArray[np.bool_], count: int
) -> float:
    """VOC's average precision of detections, the surest first.

    Args:
        near: (n,) whether each overlaps an object enough.
        index: (n,) that object.
        hard: (objects,) whether it is difficult.
        count: objects that are not.
    """
    if not near.any() or not count:
        return 0.0
    # What hits a difficult object is neither right nor wrong.
    ignored = near.copy()
    ignored[near] = hard[index[near]]
    right = np.zeros(len(near), dtype=np.bool_)
    candidates = np.flatnonzero(near & ~ignored)
    _, first = np.unique(index[candidates], return_index=True)  # the surest of each object
    right[candidates[first]] = True
    hits = np.cumsum(right[~ignored])
    precision = hits / np.arange(1, len(hits) + 1)
    recall = hits / count
    # A recall that is not reached has precision 0.
    at_points = [precision[recall >= point].max(initial=0.0) for point in _POINTS]
    return float(np.mean(at_points))
