"""The annotated objects of an image, as a detection shard holds them.

Shapes: n objects; boxes (n, 4) float64 x1, y1, x2, y2 in pixels of the stored image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from itpn_ray.data.loading.decode import decode_rgb
from itpn_ray.data.schema import OBJECT_COLUMNS, WITH_OBJECTS
from itpn_ray.data.store.shards import Shard, ShardedDataset
from itpn_ray.errors import DataError

_IMAGE = ("path", "image_id", "width", "height")


@dataclass(frozen=True, kw_only=True)
class Objects:
    """All objects of one image, crowds among them.

    Attributes:
        path: where the image was found.
        image_id: the annotation file's number of the image.
        size: (height, width) of the stored image, pixels.
        ids: (n,) int64, the annotation file's numbers.
        classes: (n,) int64 from 0.
        boxes: (n, 4) float64.
        areas: (n,) float64 square pixels, as annotated.
        crowds: (n,) bool.
        polygons: outlines x, y, x, y, ... of each object's parts; empty where there are none.
        runs: run lengths of each object's mask (see `run_lengths`); empty likewise.
    """

    path: str
    image_id: int
    size: tuple[int, int]
    ids: NDArray[np.int64]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    crowds: NDArray[np.bool_]
    polygons: list[list[list[float]]]
    runs: list[list[int]]

    def __len__(self) -> int:
        return len(self.ids)


def read_objects(shard: Shard, row: int) -> Objects:
    """The objects of a row of a shard; the image itself is not touched."""
    found = shard.fields(row, (*_IMAGE, *OBJECT_COLUMNS))
    return Objects(
        path=found["path"],
        image_id=found["image_id"],
        size=(found["height"], found["width"]),
        ids=np.array(found["object_ids"], dtype=np.int64),
        classes=np.array(found["classes"], dtype=np.int64),
        # Without objects the array is (0,), which needs its second axis.
        boxes=np.array(found["boxes"], dtype=np.float64).reshape(-1, 4),
        areas=np.array(found["areas"], dtype=np.float64),
        crowds=np.array(found["crowds"], dtype=np.bool_),
        polygons=found["polygons"],
        runs=found["runs"],
    )


class ObjectReader:
    """Objects of any image of a split, for evaluation and drawing.

    Args:
        dataset: a split of detection; where it is remote, opened with a ``local_path``.

    Raises:
        DataError: it is no split of detection.
    """

    def __init__(self, dataset: ShardedDataset) -> None:
        self._check(dataset)
        self.dataset = dataset
        # Neighbours are read one after another: the last shard stays open, a remote one too.
        self._open: tuple[int, Shard] | None = None

    def __getitem__(self, sample_id: int) -> Objects:
        return read_objects(*self._locate(sample_id))

    def _check(self, dataset: ShardedDataset) -> None:
        check_detection(dataset)

    def image(self, sample_id: int) -> Tensor:
        """The stored image, (3, H, W) uint8."""
        shard, row = self._locate(sample_id)
        return decode_rgb(shard.image(row))

    def _locate(self, sample_id: int) -> tuple[Shard, int]:
        index, row = self.dataset.locate(sample_id)
        if self._open is None or self._open[0] != index:
            self._open = index, self.dataset.shard(index)
        return self._open[1], row


def check_detection(dataset: ShardedDataset) -> None:
    """Refuse data that has no objects.

    Raises:
        DataError: it is no split of detection, or one without an object.
    """
    kind = dataset.manifest.kind
    if kind != "detection":
        hint = "Prepare a folder with boxes: COCO, YOLO, Pascal VOC, ... (docs/reference/data.md)"
        if kind == "rotated":
            hint = "Train on it with `itpn-ray detect fast_itpn_base_rotated_1x`"
        cause = f"was prepared {_prepared(kind)}, but boxes are needed"
        raise DataError("data", dataset.uri, cause, hint)
    check_any(dataset)


def check_rotated(dataset: ShardedDataset) -> None:
    """Refuse data that has no turned boxes.

    Raises:
        DataError: it is no split of rotated detection, or one without an object.
    """
    kind = dataset.manifest.kind
    if kind != "rotated":
        raise DataError(
            "data",
            dataset.uri,
            f"was prepared {_prepared(kind)}, but turned boxes are needed",
            "Prepare a folder in DOTA's layout (docs/how-to/rotated.md)",
        )
    check_any(dataset)


def check_any(
    dataset: ShardedDataset,
    what: str = "object",
    hint: str = "Prepare images with objects; its quarantine.csv says what was left out",
) -> None:
    """Refuse a split without an object, or without whatever its classes are counted of.

    Raises:
        DataError: as said.
    """
    if not any(dataset.manifest.splits[dataset.split].class_counts):
        raise DataError("data", dataset.uri, f"its {dataset.split} has not one {what}", hint)


def check_classification(dataset: ShardedDataset) -> None:
    """Refuse data whose images have no class each.

    Raises:
        DataError: it is no split of classification.
    """
    kind = dataset.manifest.kind
    if kind != "classification":
        verb = "`itpn-ray detect`" if kind in WITH_OBJECTS else "`itpn-ray pretrain`"
        if kind == "multilabel":
            verb = "`itpn-ray finetune fast_itpn_base_multilabel`"
        raise DataError(
            "data",
            dataset.uri,
            f"was prepared {_prepared(kind)}, but a class of each image is needed",
            f"Train on it with {verb}, or prepare a folder with one subfolder a class",
        )


def check_multilabel(dataset: ShardedDataset) -> None:
    """Refuse data whose images have no list of labels each, or not one label in all.

    Raises:
        DataError: as said.
    """
    kind = dataset.manifest.kind
    if kind != "multilabel":
        hint = "Prepare labels as lists (docs/how-to/multilabel.md)"
        if kind == "classification":
            hint = f"Train on it with `itpn-ray finetune fast_itpn_base`, or {hint.lower()}"
        cause = f"was prepared {_prepared(kind)}, but a list of labels of each image is needed"
        raise DataError("data", dataset.uri, cause, hint)
    check_any(dataset, "label", "Prepare it with a larger --holdout, or check the labels")


def _prepared(kind: str) -> str:
    words = {
        "unlabelled": "without labels",
        "rotated": "for rotated detection",
        "multilabel": "for multi-label classification",
    }
    return words.get(kind, f"for {kind}")


def check_masks(dataset: ShardedDataset) -> None:
    """Refuse data none of whose objects has a mask.

    Raises:
        DataError: as said.
    """
    # Shard by shard, until a mask is found: nearly always the first one answers.
    for number in range(len(dataset.shards)):
        table = dataset.shard(number).table(["polygons", "runs"])
        chunks = [chunk for column in table.columns for chunk in column.chunks]
        # Of each object the number of parts or of run lengths; one above 0 is enough.
        if any(np.any(chunk.flatten().value_lengths()) for chunk in chunks):
            return
    raise DataError(
        "data",
        dataset.uri,
        f"no object of its {dataset.split} has a mask",
        "Train on boxes alone with --task.masks false",
    )
