"""Masks whose values need a table: the full release of ADE20K, and COCO's panoptic segments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from itpn_ray.data.doctor.fault_list import FaultList
from itpn_ray.data.doctor.masks import mask_doctor, mask_source
from itpn_ray.data.sources.detect import detect
from itpn_ray.data.sources.masks.classes import read_object_info
from itpn_ray.errors import DataError
from tests.data.made import make_image
from tests.data.made_masks import HEIGHT, WIDTH, values
from tests.data.sources.test_mask_sources import prepared, stored

NAMES = {64: "ashcan, trash can", 312: "building, edifice", 2420: "sky"}
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 184, "name": "tree-merged"}]


def write_full(root: Path, split: str, row: int, found: Any) -> Path:
    """An image of the full release; ``found`` are the numbers of its pixels' names."""
    folder = root / "images/ADE" / split / "urban/street"
    folder.mkdir(parents=True, exist_ok=True)
    name = f"ADE_{split}_{row:08d}"
    make_image(row, WIDTH, HEIGHT).save(folder / f"{name}.jpg")
    number = np.asarray(found)
    instance = np.arange(number.size).reshape(number.shape) % 7
    coded = np.stack([number // 256 * 10 + instance, number % 256, instance], axis=-1)
    Image.fromarray(coded.astype(np.uint8)).save(folder / f"{name}_seg.png")
    Image.fromarray(coded.astype(np.uint8)).save(folder / f"{name}_parts_1.png")
    objects = [
        {"name": name, "name_ndx": number, "parts": {"part_level": 0}}
        for number, name in NAMES.items()
    ]
    objects.append({"name": "wheel", "name_ndx": 2420, "parts": {"part_level": 1}})
    text = json.dumps({"annotation": {"object": objects}})
    (folder / f"{name}.json").write_text(text)
    return root


@pytest.fixture
def full(tmp_path: Path) -> Path:
    for split, count in (("training", 2), ("validation", 1)):
        for row in range(count):
            rows = np.array([0, *NAMES])[values(row, (0, 1, 2, 3))]
            write_full(tmp_path / "ADE20K", split, row + 10 * len(split), rows)
    return tmp_path / "ADE20K"


def test_the_full_release_has_a_class_for_each_name(full: Path, tmp_path: Path) -> None:
    assert detect(str(full)) == "ade20k-full"
    uri = prepared(full, tmp_path / "data")
    masks = stored(uri)
    assert len(masks) == 2
    for path, mask in masks.items():
        row = int(Path(path).stem.removeprefix("ADE_training_")) - 80
        assert (mask == values(row, (0, 1, 2, 3)).astype(int) - 1).all()


def test_of_the_full_release_some_classes_can_be_chosen(full: Path, tmp_path: Path) -> None:
    table = tmp_path / "objectInfo150.txt"
    table.write_text("Idx\tRatio\tName\n1\t0.1\twall\n2\t0.1\tsky\n3\t0.1\tbuilding, edifice\n")
    uri = prepared(full, tmp_path / "data", classes=str(table))
    for mask in stored(uri).values():
        assert np.unique(mask).tolist() == [-1, 1, 2]
    plain = tmp_path / "classes.txt"
    plain.write_text("sky\nbuilding, edifice\n")
    for mask in stored(prepared(full, tmp_path / "two", classes=str(plain))).values():
        assert np.unique(mask).tolist() == [-1, 0, 1]
    plain.write_text("window\ndoor\n")
    with pytest.raises(DataError, match="holds no object of these classes"):
        prepared(full, tmp_path / "none", classes=str(plain))


def test_a_broken_list_of_objects_is_named(full: Path, tmp_path: Path) -> None:
    broken = next(full.rglob("*.json"))
    broken.write_text('{"annotation": {}}')
    with pytest.raises(DataError, match=rf"{broken.name}.*is no list of an image's objects"):
        prepared(full, tmp_path / "data")


def write_panoptic(root: Path) -> Path:
    """Two splits; the numbers of segments differ from image to image, and exceed 16 bits."""
    for split, count in (("train2017", 3), ("val2017", 1)):
        images, annotations = [], []
        (root / split).mkdir(parents=True)
        (root / f"annotations/panoptic_{split}").mkdir(parents=True)
        for row in range(count):
            name = f"{row:012d}"
            make_image(row + 10 * len(split), WIDTH, HEIGHT).save(root / split / f"{name}.jpg")
            segments = {70_000 + row: 184, 300 + row: 1, 301 + row: 184}
            number = np.array([0, *segments])[values(row, (0, 1, 2, 3))]
            coded = np.stack([number % 256, number // 256 % 256, number // 65_536], axis=-1)
            png = root / f"annotations/panoptic_{split}/{name}.png"
            Image.fromarray(coded.astype(np.uint8)).save(png)
            images.append({"id": row, "file_name": f"{name}.jpg"})
            info = [{"id": own, "category_id": category} for own, category in segments.items()]
            annotations.append({"image_id": row, "file_name": png.name, "segments_info": info})
        whole = {"images": images, "annotations": annotations, "categories": CATEGORIES}
        (root / f"annotations/panoptic_{split}.json").write_text(json.dumps(whole))
    return root


def test_panoptic_segments_are_classes_by_image(tmp_path: Path) -> None:
    root = write_panoptic(tmp_path / "coco")
    uri = prepared(root, tmp_path / "data", format="coco-panoptic")
    masks = stored(uri)
    assert len(masks) == 3
    for path, mask in masks.items():
        row = int(Path(path).stem)
        assert (mask == np.array([-1, 1, 0, 1])[values(row, (0, 1, 2, 3))]).all()


def test_an_unknown_segment_is_told_with_its_place(tmp_path: Path) -> None:
    root = write_panoptic(tmp_path / "coco")
    file = root / "annotations/panoptic_train2017.json"
    whole = json.loads(file.read_text())
    whole["annotations"][1]["segments_info"].pop()
    file.write_text(json.dumps(whole))
    source = mask_source(str(root), "coco-panoptic")
    assert source is not None
    with FaultList(tmp_path / "faults.csv") as faults:
        health = mask_doctor(source, faults)
    assert not health.sound
    told = (tmp_path / "faults.csv").read_text()
    assert "000000000001.png: value 302 at x = " in told


def test_a_category_that_there_is_not_is_refused(tmp_path: Path) -> None:
    root = write_panoptic(tmp_path / "coco")
    file = root / "annotations/panoptic_val2017.json"
    whole = json.loads(file.read_text())
    whole["annotations"][0]["segments_info"][0]["category_id"] = 7
    file.write_text(json.dumps(whole))
    with pytest.raises(DataError, match=r"panoptic_val2017\.json.*category that there is not"):
        prepared(root, tmp_path / "data", format="coco-panoptic")


def test_two_panoptic_files_of_one_split_are_refused_until_one_is_named(tmp_path: Path) -> None:
    root = write_panoptic(tmp_path / "coco")
    file = root / "annotations/panoptic_val2017.json"
    (root / "annotations/panoptic_val2014.json").write_text(file.read_text())
    with pytest.raises(DataError, match=r"val2014\.json.* are both val"):
        prepared(root, tmp_path / "data", format="coco-panoptic")
    named = {"format": "coco-panoptic", "splits": ("train=train2017", "val=val2017")}
    assert len(stored(prepared(root, tmp_path / "data", **named), "val")) == 1
    with pytest.raises(DataError, match=r"val=val2018': nothing in .* is called so"):
        prepared(root, tmp_path / "none", **{**named, "splits": ("val=val2018",)})


def test_an_empty_table_of_classes_is_named(tmp_path: Path) -> None:
    (tmp_path / "objectInfo150.txt").write_text("\n")
    with pytest.raises(DataError, match=r"objectInfo150\.txt: is no table of classes"):
        read_object_info(str(tmp_path / "objectInfo150.txt"))
