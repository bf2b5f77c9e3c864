"""Truth and detections in COCO's own form: what its tools and its server read.

Boxes there are x, y, width, height in pixels; classes go by the numbers of the annotation file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itpn_ray.data.annotations.objects import Objects
from itpn_ray.data.store.manifest import Manifest
from itpn_ray.evaluation.pasting import encode, paste

if TYPE_CHECKING:
    from itpn_ray.models.detection.base import Detections

Entry = dict[str, Any]


def class_numbers(manifest: Manifest) -> tuple[int, ...]:
    """The annotation file's numbers of the classes; from 1 where it has none."""
    return manifest.class_ids or tuple(range(1, len(manifest.classes) + 1))


def image_entry(objects: Objects) -> Entry:
    """An entry of ``images``."""
    height, width = objects.size
    return {"id": objects.image_id, "file_name": objects.path, "width": width, "height": height}


def truth_entries(objects: Objects, class_ids: Sequence[int]) -> list[Entry]:
    """Entries of ``annotations`` of one image; an object without a mask has no segmentation."""
    entries = []
    for n, (x1, y1, x2, y2) in enumerate(objects.boxes.tolist()):
        entry = {
            "id": int(objects.ids[n]),
            "image_id": objects.image_id,
            "category_id": class_ids[objects.classes[n]],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "area": float(objects.areas[n]),
            "iscrowd": int(objects.crowds[n]),
        }
        if objects.runs[n]:
            entry["segmentation"] = {"size": list(objects.size), "counts": objects.runs[n]}
        elif objects.polygons[n]:
            entry["segmentation"] = objects.polygons[n]
        entries.append(entry)
    return entries


def result_entries(
    detections: Detections, image_id: int, size: tuple[int, int], class_ids: Sequence[int]
) -> list[Entry]:
    """The detections of one image as entries of a results file.

    Args:
        detections: on the CPU, in pixels of the stored image (`pasting.in_image`).
        image_id: the annotation file's number of the image.
        size: (height, width) of the stored image.
        class_ids: the annotation file's numbers of the classes.
    """
    found = zip(
        detections.boxes.tolist(),
        detections.scores.tolist(),
        detections.labels.tolist(),
        strict=True,
    )
    entries: list[Entry] = [
        {
            "image_id": image_id,
            "category_id": class_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": score,
        }
        for (x1, y1, x2, y2), score, label in found
    ]
    if detections.masks is not None:
        masks = paste(detections.masks, detections.boxes, *size)
        for entry, mask in zip(entries, masks, strict=True):
            entry["segmentation"] = encode(mask)
    return entries


def write_results(entries: Sequence[Entry], path: str | Path) -> Path:
    """Write a results file, as COCO's server and tools take it, and return where."""
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(entries))
    return out
