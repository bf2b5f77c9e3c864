"""The same images and objects in the layouts that programs for annotation write.

Six images of 40 x 32 pixels: 0 to 3 train, 4 and 5 val. Each has a cat at (4, 8) of 16 x 8 pixels
and a dog at (10, 4) of 20 x 16, but for image 3, which has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.data.made_files import image_bytes

CLASSES = ("cat", "dog")
BOXES = ((4, 8, 16, 8), (10, 4, 20, 16))
SPLITS = {"train": (0, 1, 2, 3), "val": (4, 5)}
EMPTY = 3


def objects_of(number: int) -> tuple[tuple[int, tuple[int, int, int, int]], ...]:
    """Class and box (x, y, width, height) of the objects of an image."""
    return () if number == EMPTY else tuple(enumerate(BOXES))


def coco(numbers: Any, **fields: Any) -> str:
    """An annotation file of some images."""
    entries = [
        {"image_id": number, "category_id": label + 1, "bbox": list(box)}
        for number in numbers
        for label, box in objects_of(number)
    ]
    content = {
        "info": {},
        "images": [{"id": n, "file_name": f"{n}.jpg", "width": 40, "height": 32} for n in numbers],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES, 1)],
        "annotations": [{"id": n, **entry} for n, entry in enumerate(entries)],
        **fields,
    }
    return json.dumps(content)


def yolo(number: int, kind: str = "box") -> str:
    """A label file of YOLO: boxes, or outlines of five corners."""
    lines = []
    for label, (x, y, width, height) in objects_of(number):
        shares = [(x + width / 2) / 40, (y + height / 2) / 32, width / 40, height / 32]
        if kind == "outline":
            left, right, top, bottom = x / 40, (x + width) / 40, y / 32, (y + height) / 32
            middle = (left + right) / 2
            shares = [left, top, middle, top, right, top, right, bottom, left, bottom]
        lines.append(" ".join(map(str, [label, *shares])))
    return "\n".join(lines) + "\n" * bool(lines)


def voc(number: int, size: bool = True) -> str:
    """A label file of Pascal VOC."""
    told = "<size><width>40</width><height>32</height><depth>3</depth></size>" if size else ""
    objects = "".join(
        f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin>"
        f"<ymin>{y + 1}</ymin><xmax>{x + width}</xmax><ymax>{y + height}</ymax></bndbox></object>"
        for label, (x, y, width, height) in objects_of(number)
    )
    return f"<annotation><filename>{number}.jpg</filename>{told}{objects}</annotation>"


def labelme(number: int) -> str:
    """A label file of labelme: a rectangle and a polygon."""
    shapes = []
    for label, (x, y, width, height) in objects_of(number):
        corners = [[x, y], [x + width, y + height]]
        if label:
            corners = [[x, y], [x + width, y], [x + width, y + height], [x, y + height]]
        kind = "polygon" if label else "rectangle"
        shapes.append({"label": CLASSES[label], "points": corners, "shape_type": kind})
    path = f"..\\images\\{number}.jpg"
    told = {"imagePath": path, "imageData": None, "imageHeight": 32, "imageWidth": 40}
    return json.dumps({"version": "5.0", "flags": {}, "shapes": shapes, **told})


def metadata(numbers: Any, form: str) -> str:
    """``metadata.jsonl`` of some images: lists of fields, or a list of objects."""
    lines = []
    for number in numbers:
        found: Any = [{"bbox": b, "category": CLASSES[n]} for n, b in objects_of(number)]
        if form == "lists":
            found = {
                "bbox": [box for _, box in objects_of(number)],
                "categories": [label for label, _ in objects_of(number)],
            }
        lines.append(json.dumps({"file_name": f"{number}.jpg", "objects": found}))
    return "\n".join(lines) + "\n"


Files = dict[str, str | bytes]
"""Path -> content."""


def each(pattern: str, content: Callable[[int], str | bytes], valid: str = "val") -> Files:
    """A file for every image; ``pattern`` names it by its split and number."""
    return {
        pattern.format(split=valid if split == "val" else split, n=number): content(number)
        for split, numbers in SPLITS.items()
        for number in numbers
    }


def for_splits(pattern: str, content: Callable[[Any], str], valid: str = "val") -> Files:
    """A file for each split."""
    return {
        pattern.format(split=valid if split == "val" else split): content(numbers)
        for split, numbers in SPLITS.items()
    }


def listed(pattern: str) -> Files:
    """The images of each split in a list."""
    return {
        f"{split}.txt": "".join(f"{pattern.format(n=n)}\n" for n in numbers)
        for split, numbers in SPLITS.items()
    }


YAML = "path: ../datasets/mine\ntrain: images/train\nval: images/val\n"
NAMES = "nc: 2\nnames: [cat, dog]\n"
ROBOFLOW = "train: ../train/images\nval: ../valid/images\ntest: ''\n"
NUMBERED = "names:\n  0: cat\n  1: dog\n"
BESIDE = each("images/{split}/{n}.jpg", image_bytes) | each("labels/{split}/{n}.txt", yolo)
FLAT = each("images/{n}.jpg", image_bytes)
VOC_LISTS = {
    f"VOC2007/ImageSets/Main/{split}.txt": "".join(f"{n}\n" for n in numbers)
    for split, numbers in SPLITS.items()
}
VOC = each("VOC2007/JPEGImages/{n}.jpg", image_bytes) | each("VOC2007/Annotations/{n}.xml", voc)

LAYOUTS: dict[str, tuple[str, Files]] = {
    "Roboflow COCO": (
        "coco",
        each("{split}/{n}.jpg", image_bytes, "valid")
        | for_splits("{split}/_annotations.coco.json", coco, "valid"),
    ),
    "CVAT COCO with subsets": (
        "coco",
        each("images/{split}/{n}.jpg", image_bytes, "Validation")
        | for_splits("annotations/instances_{split}.json", coco, "Validation"),
    ),
    "files named by their split": (
        "coco",
        each("{split}/{n}.jpg", image_bytes) | for_splits("{split}_annotations.json", coco),
    ),
    "files in the folders of the splits": (
        "coco",
        each("{split}/images/{n}.jpg", image_bytes) | for_splits("{split}/labels.json", coco),
    ),
    "YOLO, images first": ("yolo", BESIDE | {"data.yaml": YAML + NAMES}),
    "YOLO without a description": ("yolo", BESIDE | {"classes.txt": "cat\r\ndog\r\n"}),
    "YOLO, splits first": (
        "yolo",
        each("{split}/images/{n}.jpg", image_bytes, "valid")
        | each("{split}/labels/{n}.txt", yolo, "valid")
        | {"data.yaml": ROBOFLOW + NUMBERED},
    ),
    "YOLO with lists": (
        "yolo",
        FLAT
        | each("labels/{n}.txt", yolo)
        | listed("/home/me/mine/images/{n}.jpg")
        | {"mine.yml": "train: train.txt\nval: [val.txt]\n" + NAMES},
    ),
    "YOLO side by side": (
        "yolo",
        each("obj_train_data/{split}/{n}.jpg", image_bytes)
        | each("obj_train_data/{split}/{n}.txt", yolo)
        | {"obj.names": "cat\ndog\n", "obj.data": "classes = 2\n"},
    ),
    "YOLO with outlines": (
        "yolo",
        BESIDE
        | each("labels/{split}/{n}.txt", lambda n: yolo(n, "outline"))
        | {"data.yaml": YAML + NAMES},
    ),
    "VOC with lists": ("voc", VOC | VOC_LISTS),
    "VOC side by side": (
        "voc",
        each("{split}/{n}.jpg", image_bytes, "valid") | each("{split}/{n}.xml", voc, "valid"),
    ),
    "VOC without sizes": (
        "voc",
        each("images/{split}/{n}.jpg", image_bytes)
        | each("annotations/{split}/{n}.xml", lambda n: voc(n, size=False)),
    ),
    "labelme": (
        "labelme",
        each("{split}/{n}.jpg", image_bytes) | each("{split}/{n}.json", labelme),
    ),
    "labelme in a folder of its own": (
        "labelme",
        each("{split}/images/{n}.jpg", image_bytes) | each("{split}/labels/{n}.json", labelme),
    ),
    "metadata with lists": (
        "metadata",
        each("{split}/{n}.jpg", image_bytes)
        | for_splits("{split}/metadata.jsonl", lambda numbers: metadata(numbers, "lists")),
    ),
    "metadata with objects": (
        "metadata",
        each("{split}/{n}.jpg", image_bytes)
        | for_splits("{split}/metadata.jsonl", lambda numbers: metadata(numbers, "objects")),
    ),
}
"""Layout -> its format, and its files."""
ONE_FILE: dict[str, Files] = {
    "CVAT COCO": FLAT | {"annotations/instances_default.json": coco(range(6))},
    "Label Studio COCO": FLAT | {"result.json": coco(range(6))},
    "labelme2coco": each("JPEGImages/{n}.jpg", image_bytes) | {"annotations.json": coco(range(6))},
    "beside the images": each("{n}.jpg", image_bytes) | {"_annotations.coco.json": coco(range(6))},
}
"""Layouts of COCO without splits."""


def write_files(root: Path, files: Files) -> Path:
    """Write files into a folder."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root
