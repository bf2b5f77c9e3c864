"""Data sets of boxes, in the layouts that programs for annotation write."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itpn_ray.cli import run
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources.detect import detect, open_source
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import DataError
from tests.data.made_files import config, image_bytes, prepared
from tests.data.made_layouts import (
    BESIDE,
    BOXES,
    CLASSES,
    EMPTY,
    FLAT,
    LAYOUTS,
    NAMES,
    ONE_FILE,
    SPLITS,
    VOC,
    YAML,
    coco,
    each,
    metadata,
    voc,
    write_files,
    yolo,
)


def assert_read(rows: dict[str, list[dict[str, Any]]], splits: Any = SPLITS) -> None:
    """That each split has its images with their objects."""
    assert set(rows) == set(splits)
    for split, numbers in splits.items():
        by_name = {row["path"].rpartition("/")[2]: row for row in rows[split]}
        assert set(by_name) == {f"{number}.jpg" for number in numbers}
        for number in numbers:
            row = by_name[f"{number}.jpg"]
            assert row["image"] == image_bytes(number)
            assert row["classes"] == ([] if number == EMPTY else [0, 1])
            wanted = [[x, y, x + w, y + h] for x, y, w, h in BOXES[: len(row["boxes"])]]
            np.testing.assert_allclose(row["boxes"], wanted, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path: Path, layout: str) -> None:
    name, files = LAYOUTS[layout]
    raw = write_files(tmp_path / "raw", files)
    assert detect(str(raw)) == name
    assert_read(prepared(raw, tmp_path / "out"))
    manifest = read_manifest(str(tmp_path / "out"))
    assert manifest.kind == "detection"
    assert manifest.classes == (("0", "1") if layout == "metadata with lists" else CLASSES)
    assert manifest.quarantined == 0
    assert run(["doctor", str(raw), "--out", str(tmp_path / "list.csv")]) == 0


@pytest.mark.parametrize("layout", ONE_FILE)
def test_one_coco_file_is_held_out_from(tmp_path: Path, layout: str) -> None:
    raw = write_files(tmp_path / "raw", ONE_FILE[layout])
    assert detect(str(raw)) == "coco"
    rows = prepared(raw, tmp_path / "out", holdout=0.4)
    assert_read({"train": rows["train"] + rows["val"]}, {"train": range(6)})
    assert len(rows["val"]) == 2


def test_a_coco_file_that_names_no_split_is_listed(tmp_path: Path) -> None:
    more = {"annotations/more.json": coco((4,))}
    raw = write_files(tmp_path / "raw", LAYOUTS["CVAT COCO with subsets"][1] | more)
    (raw / "annotations/instances_train.json").rename(raw / "annotations/train.json")
    (raw / "annotations/instances_Validation.json").rename(raw / "annotations/val.json")
    assert_read(prepared(raw, tmp_path / "out"))
    (listed,) = csv.DictReader((tmp_path / "out/quarantine.csv").open())
    assert (listed["path"], listed["reason"]) == (
        "annotations/more.json",
        "left out: it names no split",
    )


def test_images_that_are_held_out_show_objects(tmp_path: Path) -> None:
    objects = [{"id": 1, "image_id": n, "category_id": 1, "bbox": [1, 1, 5, 5]} for n in (1, 4)]
    raw = write_files(tmp_path / "raw", FLAT | {"result.json": coco(range(6), annotations=objects)})
    for seed in range(5):
        rows = prepared(raw, tmp_path / f"{seed}", seed=seed)
        counts = {split: [len(row["boxes"]) for row in part] for split, part in rows.items()}
        assert sorted(counts["train"]) == [0, 0, 0, 1]
        assert sorted(counts["val"]) == [0, 1]


def test_outlines_and_what_looks_like_oriented_boxes(tmp_path: Path) -> None:
    files = LAYOUTS["YOLO with outlines"][1]
    four = {"labels/val/4.txt": "0 0.1 0.25 0.5 0.25 0.5 0.5 0.1 0.5\n"}
    raw = write_files(tmp_path / "raw", files | four)
    rows = {row["path"]: row for row in prepared(raw, tmp_path / "out")["val"]}
    assert [len(parts[0]) for parts in rows["images/val/5.jpg"]["polygons"]] == [10, 10]
    (four_corners,) = rows["images/val/4.jpg"]["polygons"]
    np.testing.assert_allclose(four_corners, [[4, 8, 20, 8, 20, 16, 4, 16]])
    assert run(["doctor", str(raw), "--out", str(tmp_path / "list.csv")]) == 0
    (told,) = csv.DictReader((tmp_path / "list.csv").open())
    assert (told["file"], told["entry"]) == ("labels/val/4.txt", "line 1")
    assert told["kind"] == "oriented box read as an outline"


LINES = {
    "2 .5 .5 .2 .2": "is of category 2, which is not listed",
    "-1 .5 .5 .2 .2": "is of category -1, which is not listed",
    "0 320 240 64 48": "has 320 where a share of the image's side belongs, 0 to 1",
    "0 .5 .5 0 .2": "has a box without area",
    "0 1.5 .5 .2 .2": "has a box outside of the image",
    "0 .5 .5 nan .2": "has coordinates that are not finite",
    "0 .5 .5 .2": "has 3 numbers behind its class",
    "0 .1 .1 .2 .2 .3 .3 .4": "has 7 numbers behind its class",
    "0 .5 .5 .2 wide": "is no class with numbers: '0 .5 .5 .2 wide'",
}


def test_lines_of_yolo_that_cannot_be_used(tmp_path: Path) -> None:
    text = yolo(4) + "\n".join([*LINES, "", "0 .9 .5 .3 .2", "1.0,.5,.5,.2,.2,.97"])
    raw = write_files(tmp_path / "raw", BESIDE | {"data.yaml": YAML + NAMES})
    (raw / "labels/val/4.txt").write_text(text, encoding="utf-16")
    rows = prepared(raw, tmp_path / "out", max_broken=0.5)["val"]
    assert rows[0]["classes"] == [0, 1, 0, 1]
    listed = list(csv.DictReader((tmp_path / "out/quarantine.csv").open()))
    assert [row["path"] for row in listed] == [
        f"labels/val/4.txt#line {number}" for number in range(3, 3 + len(LINES))
    ]
    for row, reason in zip(listed, LINES.values(), strict=True):
        assert row["reason"].startswith(reason)


def test_files_that_belong_to_nothing_are_listed(tmp_path: Path) -> None:
    more: dict[str, str | bytes] = {
        "labels/train/9.txt": yolo(1),
        "images/extra/8.jpg": image_bytes(8),
        "data.yaml": YAML + NAMES,
    }
    raw = write_files(tmp_path / "raw", BESIDE | more)
    assert_read(prepared(raw, tmp_path / "out"))
    listed = {
        r["path"]: r["reason"] for r in csv.DictReader((tmp_path / "out/quarantine.csv").open())
    }
    assert listed == {
        "labels/train/9.txt": "labels of an image that is not there",
        "images/extra/8.jpg": "in no split of data.yaml",
    }


def test_val_that_is_train_is_held_out_instead(tmp_path: Path) -> None:
    yaml = "train: images/train\nval: images/train\n" + NAMES
    raw = write_files(tmp_path / "raw", BESIDE | {"data.yaml": yaml})
    rows = prepared(raw, tmp_path / "out")
    assert {split: len(part) for split, part in rows.items()} == {"train": 3, "val": 1}
    assert "val names the images of train" in (tmp_path / "out/quarantine.csv").read_text()


@pytest.mark.parametrize(
    ("yaml", "cause"),
    [
        (
            "train: photos/train\nnames: [cat, dog]\n",
            "train is photos/train, where no images",
        ),
        ("train: images/train\nnames: {0: {a: b}}\n", "names is neither a list"),
        ("train: {a: b}\nnames: [cat, dog]\n", "train is neither a folder nor a list"),
        ("train: [images/train\n", "cannot be read"),
        (
            "train: !!python/object/apply:os.system [ls]\nnames: [a]\n",
            "train is ls, where no images",
        ),
        ("train: " + "[" * 5000 + "]" * 5000, "cannot be read"),
    ],
)
def test_descriptions_that_cannot_be_used(tmp_path: Path, yaml: str, cause: str) -> None:
    raw = write_files(tmp_path / "raw", BESIDE | {"data.yaml": yaml})
    with pytest.raises(DataError, match=cause):
        prepare(config(raw, tmp_path / "out", format="yolo"))


def test_names_are_text_whatever_yaml_takes_them_for(tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", BESIDE | {"data.yaml": YAML + "names: [no, 3.10]\n"})
    prepare(config(raw, tmp_path / "out"))
    assert read_manifest(str(tmp_path / "out")).classes == ("no", "3.10")


BOMB = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 12))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f'<!DOCTYPE x [<!ENTITY a0 "ha">{BOMB}]>' + voc(4).replace("cat", "&a11;"), "entity 'a0'"),
        ('<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>' + voc(4), "the entity 'a'"),
        ("<a>" * 200 + "</a>" * 200, "more than 100 deep"),
        (voc(4)[:-30], "is not XML"),
        ("<svg></svg>", "is XML of 'svg'"),
    ],
)
def test_xml_that_cannot_be_read_is_one_object_lost(tmp_path: Path, text: str, reason: str) -> None:
    files = LAYOUTS["VOC side by side"][1]
    raw = write_files(tmp_path / "raw", files | {"valid/4.xml": text})
    rows = prepared(raw, tmp_path / "out", max_broken=0.5)["val"]
    assert [len(row["boxes"]) for row in rows] == [0, 2]
    (listed,) = csv.DictReader((tmp_path / "out/quarantine.csv").open())
    assert listed["path"] == "valid/4.xml"
    assert reason in listed["reason"]


def test_objects_of_voc(tmp_path: Path) -> None:
    text = voc(4).replace("<difficult>0", "<difficult>1", 1).replace("<xmax>30", "<xmax>wide")
    raw = write_files(tmp_path / "raw", LAYOUTS["VOC side by side"][1] | {"valid/4.xml": text})
    row = prepared(raw, tmp_path / "out", max_broken=0.5)["val"][0]
    assert row["crowds"] == [True]
    (listed,) = csv.DictReader((tmp_path / "out/quarantine.csv").open())
    assert listed["path"] == "valid/4.xml#object 2"
    assert listed["reason"] == "has 'wide' as its xmax"


def test_images_in_no_list_of_voc_are_listed(tmp_path: Path) -> None:
    lists = {"VOC2007/ImageSets/Main/trainval.txt": "0 1\n1 -1\n2\n"}
    raw = write_files(tmp_path / "raw", VOC | lists)
    rows = prepared(raw, tmp_path / "out")
    assert {split: len(part) for split, part in rows.items()} == {"train": 2, "val": 1}
    listed = list(csv.DictReader((tmp_path / "out/quarantine.csv").open()))
    assert [row["reason"] for row in listed] == ["in no list of ImageSets/Main"] * 3


def test_trainval_of_voc_leaves_the_lists_beside_it_their_images(tmp_path: Path) -> None:
    folder = "VOC2007/ImageSets/Main"
    lists = {f"{folder}/trainval.txt": "0\n1\n2\n4\n", f"{folder}/val.txt": "1\n4\n"}
    rows = prepared(write_files(tmp_path / "raw", VOC | lists), tmp_path / "out")
    names = {split: sorted(Path(row["path"]).name for row in part) for split, part in rows.items()}
    assert names == {"train": ["0.jpg", "2.jpg"], "val": ["1.jpg", "4.jpg"]}


@pytest.mark.parametrize(
    ("files", "cause"),
    [
        (each("masks/{n}.jpg", image_bytes), "holds no list of its classes"),
        (each("labels/{n}.jpg", image_bytes), "has images/ with labels beside it"),
        ({"labels.csv": "file,label\n"}, r"If labels\.csv tells their classes"),
        ({"data.yaml": YAML + NAMES}, r"has images/ with data\.yaml beside it"),
        ({"annotations.xml": "<annotations><image id='0'/></annotations>"}, "another XML form"),
        ({"_annotations.createml.json": "[]"}, "of CreateML"),
        ({"_annotations.csv": "filename,xmin\n"}, "CSV of boxes"),
    ],
)
def test_what_is_recognised_but_not_read_is_told(tmp_path: Path, files: Any, cause: str) -> None:
    raw = write_files(tmp_path / "raw", FLAT | files)
    with pytest.raises(DataError, match=cause):
        prepare(config(raw, tmp_path / "out"))


def test_a_folder_around_the_data_is_told(tmp_path: Path) -> None:
    write_files(tmp_path / "raw/export", LAYOUTS["Roboflow COCO"][1])
    with pytest.raises(DataError, match=r"holds one folder\. Give --source .*raw/export"):
        prepare(config(tmp_path / "raw", tmp_path / "out"))


def test_images_beside_annotations_may_be_a_heap(tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", FLAT | {"captions.csv": "file,text\n"})
    prepare(config(raw, tmp_path / "out", unlabelled=True))
    assert read_manifest(str(tmp_path / "out")).kind == "unlabelled"


def test_a_format_can_be_forced(tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", FLAT | each("masks/{n}.jpg", image_bytes))
    prepare(config(raw, tmp_path / "out", format="folders"))
    assert read_manifest(str(tmp_path / "out")).classes == ("images", "masks")
    for name in ("coco", "yolo", "voc", "labelme", "metadata", "metadata-labels"):
        with pytest.raises(DataError):
            prepare(config(raw, tmp_path / name, format=name))
    mixed = write_files(tmp_path / "mixed", LAYOUTS["labelme"][1] | LAYOUTS["VOC side by side"][1])
    assert detect(str(mixed)) == "voc"
    prepare(config(mixed, tmp_path / "mixed_out", format="labelme"))


def test_classes_can_be_given(tmp_path: Path) -> None:
    raw = write_files(tmp_path / "raw", LAYOUTS["VOC side by side"][1])
    (tmp_path / "classes.txt").write_text("dog\nbird\ncat\n")
    rows = prepared(raw, tmp_path / "out", classes=str(tmp_path / "classes.txt"))
    assert rows["val"][0]["classes"] == [2, 0]
    assert read_manifest(str(tmp_path / "out")).classes == ("dog", "bird", "cat")


def test_metadata_with_labels_is_for_classification(tmp_path: Path) -> None:
    lines = "".join(f'{{"file_name": "{n}.jpg", "label": "{CLASSES[n % 2]}"}}\n' for n in range(6))
    raw = write_files(
        tmp_path / "raw", each("train/{n}.jpg", image_bytes) | {"train/metadata.jsonl": lines}
    )
    rows = prepared(raw, tmp_path / "out")
    assert read_manifest(str(tmp_path / "out")).classes == CLASSES
    assert {row["path"]: row["label"] for part in rows.values() for row in part} == {
        f"train/{n}.jpg": n % 2 for n in range(6)
    }
    (raw / "train/metadata.jsonl").write_text(lines + '{"file_name": "6.jpg", "label": null}\n')
    with pytest.raises(DataError, match="line 7: has no label that can be used"):
        prepare(config(raw, tmp_path / "again"))


def test_lines_of_metadata_that_cannot_be_used(tmp_path: Path) -> None:
    text = metadata((4, 5), "lists").replace('"categories": [0, 1]', '"categories": [0]', 1)
    raw = write_files(
        tmp_path / "raw", LAYOUTS["metadata with lists"][1] | {"val/metadata.jsonl": text}
    )
    prepare(config(raw, tmp_path / "out", max_broken=0.5))
    (listed,) = csv.DictReader((tmp_path / "out/quarantine.csv").open())
    assert listed["path"] == "val/metadata.jsonl#line 1 object 1"
    assert listed["reason"] == "has 2 boxes and 1 category"
    (raw / "val/metadata.jsonl").write_text("{\n")
    with pytest.raises(DataError, match="cannot be read"):
        prepare(config(raw, tmp_path / "again"))


@pytest.mark.parametrize("orientation", [1, 6])
def test_shares_are_of_the_upright_image(tmp_path: Path, orientation: int) -> None:
    import io

    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    Image.new("RGB", (40, 20)).save(out, "JPEG", exif=exif)
    files: dict[str, str | bytes] = {"data.yaml": YAML + NAMES}
    for split in ("train", "val"):
        files |= {f"images/{split}/a.jpg": out.getvalue(), f"labels/{split}/a.txt": "0 .5 .5 1 .5"}
    row = prepared(write_files(tmp_path / "raw", files), tmp_path / "out")["val"][0]
    assert row["boxes"] == [[0, 5, 40, 15] if orientation == 1 else [0, 10, 20, 30]]


def test_splits_are_named_by_the_user_in_layouts_of_boxes_too(tmp_path: Path) -> None:
    files = {f"{part}/images/0.jpg": image_bytes(0) for part in ("lot 1", "lot 2", "rest")}
    files |= {f"{part}/labels/0.txt": "0 0.5 0.5 0.2 0.2\n" for part in ("lot 1", "lot 2", "rest")}
    raw = write_files(tmp_path / "raw", files)
    named = config(raw, tmp_path / "out", format="yolo", splits=("train=lot 1", "val=lot 2"))
    found = open_source(named)[1].listing()
    assert {split: table.column("path").to_pylist() for split, table in found.splits.items()} == {
        "train": ["lot 1/images/0.jpg"],
        "val": ["lot 2/images/0.jpg"],
    }
    assert [path for path, _ in found.skipped] == ["rest/images"]
