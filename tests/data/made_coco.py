"""Raw data sets with COCO annotations, as the tests want them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.data.made_files import image_bytes


def write_coco(
    root: Path,
    items: list[dict[str, Any]],
    images: int = 4,
    listed: list[dict[str, Any]] | None = None,
    **top: Any,
) -> Path:
    """Two splits of small images, numbered from 10, with these annotations in each."""
    if listed is None:
        listed = [
            {"id": 10 + n, "file_name": f"{n}.jpg", "width": 40, "height": 32}
            for n in range(images)
        ]
    content = {
        "images": listed,
        "annotations": items,
        "categories": [{"id": 7, "name": " Wild Bird "}, {"id": 3, "name": "Moniter/TV"}],
        **top,
    }
    for split, first in (("train", 0), ("val", 100)):
        (root / f"{split}2017").mkdir(parents=True, exist_ok=True)
        for number in range(images):
            (root / f"{split}2017/{number}.jpg").write_bytes(image_bytes(first + number))
    (root / "annotations").mkdir(exist_ok=True)
    for split in ("train", "val"):
        path = root / f"annotations/instances_{split}2017.json"
        path.write_text(json.dumps(content))
    return root


def item(number: int, **fields: Any) -> dict[str, Any]:
    """An annotation of image 10."""
    return {
        "id": number,
        "image_id": 10,
        "category_id": 7,
        "bbox": [1.0, 2.0, 3.0, 4.0],
        "area": 12.0,
        "iscrowd": 0,
        "segmentation": [[1.0, 2.0, 4.0, 2.0, 4.0, 6.0]],
        **fields,
    }
