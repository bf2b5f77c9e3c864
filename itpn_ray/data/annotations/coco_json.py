"""Writes annotations in COCO's form."""

from __future__ import annotations

from typing import Any

import numpy as np

from itpn_ray.data.annotations import run_lengths
from itpn_ray.data.synthetic.drawing import CLASSES
from itpn_ray.data.synthetic.scenes import SceneObject, area


def category_id(label: int) -> int:
    """The number of a class in the file: with gaps, as COCO's own."""
    return 2 * label + 1


def categories() -> list[dict[str, Any]]:
    """The file's ``categories``."""
    return [
        {"id": category_id(label), "name": name, "supercategory": name.split("-")[0]}
        for label, name in enumerate(CLASSES)
    ]


def annotation(found: SceneObject, image_id: int) -> dict[str, Any]:
    """An entry of ``annotations``, without its ``id``: polygons, or the run lengths of a crowd."""
    segmentation: Any
    if found.crowd is not None:
        rows, columns = np.nonzero(found.crowd)
        # From pixel indices to edges: the far edge lies one behind the last pixel.
        x1, y1, x2, y2 = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        size = float(found.crowd.sum())
        segmentation = {
            "counts": run_lengths.encode(found.crowd),
            "size": list(found.crowd.shape),
        }
    else:
        corners = np.concatenate(found.parts)
        (x1, y1), (x2, y2) = corners.min(axis=0), corners.max(axis=0)
        size = sum(area(part) for part in found.parts)
        segmentation = [part.reshape(-1).round(2).tolist() for part in found.parts]
    return {
        "image_id": image_id,
        "category_id": category_id(found.label),
        "bbox": [round(float(value), 2) for value in (x1, y1, x2 - x1, y2 - y1)],
        "area": round(size, 4),
        "iscrowd": int(found.crowd is not None),
        "segmentation": segmentation,
    }
