"""What is left of an image's objects in a view of it: the targets of detection."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from itpn_ray.data.annotations.faults import FaultError, faults_of
from itpn_ray.data.annotations.objects import Objects
from itpn_ray.data.transforms.detection_views import View
from itpn_ray.data.transforms.object_masks import box_masks
from itpn_ray.errors import DataError

_LEAST_SIDE = 1.0
"""Pixels of the view; thinner slivers, which crops leave of objects, show nothing."""


@dataclass(frozen=True, kw_only=True)
class ViewObjects:
    """The n objects of a view.

    Attributes:
        boxes: (n, 4) float32 x1, y1, x2, y2 in pixels of the view, within it; or (n, 5) turned ones
            (`itpn_ray.models.rotated.boxes`), which may reach beyond it.
        labels: (n,) int64 classes.
        masks: (n, 112, 112) uint8 of 0 and 1, each cut to its box, or all `UNKNOWN` where an object
            has none; None where none were asked for.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None

    def __len__(self) -> int:
        return len(self.labels)


def view_objects(objects: Objects, view: View, *, masks: bool) -> ViewObjects:
    """The objects that a view shows, without crowds and without those that it cuts away."""
    moved, _ = view.boxes(torch.from_numpy(objects.boxes))
    # Moved in float64; the network takes float32.
    boxes = moved.float()
    # Crowds mark many objects as one: they are no example of an object.
    shown = (boxes[:, 2:] - boxes[:, :2] >= _LEAST_SIDE).all(1).numpy() & ~objects.crowds
    chosen = np.flatnonzero(shown)
    boxes, labels = boxes[chosen], torch.from_numpy(objects.classes[chosen])
    if not masks:
        return ViewObjects(boxes=boxes, labels=labels, masks=None)
    # Cut in the image itself, so that no mask is resampled twice.
    inside = box_masks(objects, chosen, view.undo_boxes(moved[chosen]).numpy())
    if view.flip:
        inside = inside.flip(-1)
    # Of a box something may be left where of its object nothing is.
    left = inside.flatten(1).amax(1) > 0
    return ViewObjects(boxes=boxes[left], labels=labels[left], masks=inside[left])


def check_objects(objects: Objects, classes: int) -> None:
    """Refuse annotations that nothing can be learned from.

    Args:
        objects: of an image.
        classes: how many there are.

    Raises:
        DataError: a box is no number, has no area or lies outside of the image, a mask is of
            another size, or a class does not exist; it carries the image's path and the object's
            id.
    """
    refuse(objects.path, faults_of(objects, classes))


def refuse(path: str, faults: Iterable[tuple[int, FaultError]]) -> None:
    """Refuse an image that has a faulty object.

    Args:
        path: where the image was found.
        faults: number and fault of each such object.

    Raises:
        DataError: there is one.
    """
    for number, fault in faults:
        raise DataError(
            path,
            None,
            f"its object {number} {fault.reason}",
            "Find all such objects with `itpn-ray doctor`, fix them and prepare the data",
        )
