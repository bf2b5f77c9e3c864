"""Ids, numbers and boxes of COCO files, as programs write them: kept where they are understood."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.cli import run
from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.annotations import annotated, source_doctor
from itpn_ray.data.doctor.fault_list import FaultList
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources.annotated.coco_entries import parse_object
from itpn_ray.data.sources.annotated.ids import FRESH, read_id
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import DataError
from tests.data.made_coco import item, write_coco
from tests.data.made_files import config, prepared

Content = dict[str, Any]


def changed(root: Path, change: Callable[[Content], None], encoding: str = "utf-8") -> Path:
    """Four images with two objects each, in two splits, whose files are changed."""
    items = [item(100 + n, image_id=10 + n // 2, category_id=(3, 7)[n % 2]) for n in range(8)]
    raw = write_coco(root, items)
    for path in (raw / "annotations").iterdir():
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content), encoding=encoding)
    return raw


def each(key: str, field: str, value: Callable[[Any, int], Any]) -> Callable[[Content], None]:
    """A change of a field of every entry of a list; ``None`` removes it."""

    def change(content: Content) -> None:
        for place, entry in enumerate(content[key]):
            entry[field] = value(entry[field], place)
            if entry[field] is None:
                del entry[field]

    return change


def both(first: str, second: tuple[str, str], value: Callable[[Any, int], Any]) -> Any:
    """The same change of the ids of a list and of those that refer to them."""

    def change(content: Content) -> None:
        each(first, "id", value)(content)
        each(*second, value)(content)

    return change


CATEGORIES, IMAGES = ("annotations", "category_id"), ("annotations", "image_id")


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        (each("annotations", "id", lambda v, n: f"ann-{v}"), kinds.ID_MADE),
        (each("annotations", "id", lambda v, n: 1), kinds.ID_MADE),
        (each("annotations", "id", lambda v, n: n % 2), kinds.ID_MADE),
        (each("annotations", "id", lambda v, n: None), kinds.ID_MADE),
        (each("annotations", "id", lambda v, n: v + 0.5), kinds.ID_MADE),
        (each("annotations", "id", lambda v, n: 2**70 + v), kinds.ID_MADE),
        (each("annotations", "id", lambda v, n: str(v)), ""),
        (each("annotations", "id", lambda v, n: float(v)), ""),
        (each("annotations", "category_id", lambda v, n: float(v)), ""),
        (each("annotations", "category_id", lambda v, n: f" {v} "), ""),
        (both("categories", CATEGORIES, lambda v, n: str(v)), ""),
        (both("categories", CATEGORIES, lambda v, n: f"class {v}"), ""),
        (each("images", "id", lambda v, n: float(v)), ""),
        (each("annotations", "image_id", lambda v, n: float(v)), ""),
        (both("images", IMAGES, lambda v, n: str(v)), ""),
        (both("images", IMAGES, lambda v, n: f"{v:012d}"), ""),
        (both("images", IMAGES, lambda v, n: f"a/{v}.jpg"), ""),
        (both("images", IMAGES, lambda v, n: 2**80 + v), ""),
        (each("annotations", "iscrowd", lambda v, n: "0"), ""),
        (each("annotations", "area", lambda v, n: "12.0"), ""),
        (each("annotations", "area", lambda v, n: -1), kinds.AREA_MADE),
        (each("annotations", "area", lambda v, n: "large"), kinds.AREA_MADE),
        (each("annotations", "bbox", lambda v, n: [str(side) for side in v]), ""),
        (each("annotations", "bbox", lambda v, n: str(v)), ""),
        (each("annotations", "bbox", lambda v, n: "1 2;3,4"), ""),
        (each("annotations", "bbox", lambda v, n: None), ""),
        (each("annotations", "segmentation", lambda v, n: v[0]), ""),
        (each("annotations", "segmentation", lambda v, n: [v[0][:2], v[0][2:4], v[0][4:]]), ""),
        (each("images", "width", lambda v, n: "40"), ""),
        (each("images", "file_name", lambda v, n: f"C:\\Users\\x\\train\\{v}"), ""),
        (each("images", "file_name", lambda v, n: f"/data/upload/1/{v}"), ""),
        (each("images", "file_name", lambda v, n: f"..\\images\\{v}"), ""),
    ],
)
def test_no_object_is_lost(tmp_path: Path, change: Callable[[Content], None], remark: str) -> None:
    raw = changed(tmp_path / "raw", change)
    rows = prepared(raw, tmp_path / "out")["val"]
    assert [row["path"] for row in rows] == [f"val2017/{n}.jpg" for n in range(4)]
    assert [row["boxes"] for row in rows] == [[[1.0, 2.0, 4.0, 6.0]] * 2] * 4
    assert [row["classes"] for row in rows] == [[0, 1]] * 4
    assert [row["areas"] for row in rows] == [[12.0] * 2] * 4
    assert [row["crowds"] for row in rows] == [[False] * 2] * 4
    assert [row["polygons"] for row in rows] == [[[[1.0, 2.0, 4.0, 2.0, 4.0, 6.0]]] * 2] * 4
    assert len({number for row in rows for number in row["object_ids"]}) == 8
    assert len({row["image_id"] for row in rows}) == 4
    assert read_manifest(str(tmp_path / "out")).quarantined == 0
    source = annotated(str(raw))
    assert source is not None
    with FaultList(tmp_path / "list.csv") as faults:
        assert source_doctor(source, faults).sound
    told = {row["kind"] for row in csv.DictReader((tmp_path / "list.csv").open())}
    assert told == ({remark} if remark else set())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_annotations_in_any_unicode(tmp_path: Path, encoding: str) -> None:
    raw = changed(tmp_path / "raw", lambda content: None, encoding)
    assert [len(row["boxes"]) for row in prepared(raw, tmp_path / "out")["val"]] == [2] * 4


def test_annotations_in_another_encoding_are_refused(tmp_path: Path) -> None:
    raw = write_coco(tmp_path / "raw", [item(1)])
    path = raw / "annotations/instances_train2017.json"
    path.write_bytes(path.read_bytes().replace(b"Wild", b"W\xedld"))
    with pytest.raises(DataError, match="Write it as JSON in UTF-8"):
        prepare(config(raw, tmp_path / "out"))


def test_a_number_and_its_text_are_one_id() -> None:
    assert read_id({"id": 7}, "id") == read_id({"id": "7"}, "id") == read_id({"id": 7.0}, "id") == 7
    assert read_id({"id": "007"}, "id") == "007"
    assert read_id({"id": FRESH}, "id") == str(FRESH)
    for wrong in (None, True, "", " ", float("nan"), [1], {}):
        with pytest.raises(FaultError, match="as its id"):
            read_id({"id": wrong}, "id")


def test_a_box_around_run_lengths() -> None:
    # 4 rows and 5 columns; pixels (1, 2), (1, 3), (2, 0) in x, y, then (3, 1) to (3, 2).
    entry = {"category_id": 7, "segmentation": {"size": [4, 5], "counts": [6, 3, 4, 2, 5]}}
    assert parse_object(entry, {7: 0}, None)[0]["boxes"] == [1.0, 0.0, 4.0, 4.0]
    entry["segmentation"] = {"size": [4, 5], "counts": [6, 1, 3, 1, 9]}
    assert parse_object(entry, {7: 0}, None)[0]["boxes"] == [1.0, 2.0, 3.0, 3.0]


FAULTY = {"bbox": [1, 2, 0, 4]}


def test_each_object_left_out_is_a_row(tmp_path: Path) -> None:
    """Though they have one id; and once, though the split that is held out has the same file."""
    items = [item(1, **FAULTY) for _ in range(5)] + [item(9, image_id=10 + n) for n in range(4)]
    raw = write_coco(tmp_path / "raw", items)
    (raw / "annotations/instances_val2017.json").unlink()
    prepare(config(raw, tmp_path / "out", max_broken=1.0))
    rows = list(csv.DictReader((tmp_path / "out/quarantine.csv").open()))
    assert read_manifest(str(tmp_path / "out")).quarantined == len(rows) == 5
    assert len({row["path"] for row in rows}) == 5


@pytest.mark.parametrize(
    ("faulty", "options", "refused"),
    [
        (1, {}, ""),
        (
            2,
            {},
            "2 of 12 objects cannot be used and 1 are allowed; one is .*#annotation 100: has a",
        ),
        (2, {"max_broken": 0.2}, ""),
        (1, {"strict": True}, "1 of 11 objects cannot be used and --strict allows none"),
    ],
)
def test_too_many_objects_that_cannot_be_used(
    tmp_path: Path, faulty: int, options: dict[str, Any], refused: str
) -> None:
    items = [item(n, image_id=10 + n % 4) for n in range(5)]
    raw = write_coco(tmp_path / "raw", items)
    path = raw / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"] += [item(100 + n, **FAULTY) for n in range(faulty)]
    path.write_text(json.dumps(content))
    if not refused:
        prepare(config(raw, tmp_path / "out", **options))
        return
    with pytest.raises(DataError, match=refused):
        prepare(config(raw, tmp_path / "out", **options))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("left", ["none", "faulty"])
def test_a_split_without_objects_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str, left: str
) -> None:
    raw = write_coco(tmp_path / "raw", [item(1)])
    path = raw / f"annotations/instances_{split}2017.json"
    content = json.loads(path.read_text())
    content["annotations"] = [] if left == "none" else [item(1, **FAULTY)]
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=f"{split} has not one usable object"):
        prepare(config(raw, tmp_path / "out", max_broken=1.0))
    assert run(["doctor", str(raw), "--out", str(tmp_path / "list.csv")]) == 1
    assert f"{split} has not one usable object" in capsys.readouterr().out


def test_a_split_whose_images_show_no_object_is_refused(tmp_path: Path) -> None:
    """Only the images tell that the boxes lie outside of them."""
    listed = [{"id": 10 + n, "file_name": f"{n}.jpg"} for n in range(4)]
    raw = write_coco(tmp_path / "raw", [item(1, bbox=[500, 500, 9, 9])], listed=listed)
    with pytest.raises(DataError, match=r"train has not one usable object; .*#annotation 1 has a"):
        prepare(config(raw, tmp_path / "out", max_broken=1.0))
