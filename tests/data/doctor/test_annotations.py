"""Every kind of fault is planted, found by doctor, left out by prepare, and refused in training."""

from __future__ import annotations

import csv
import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from itpn_ray.cli import run
from itpn_ray.data.annotations.id_set import IdBook
from itpn_ray.data.config import DetectionAugmentConfig, LoaderConfig
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.annotations import SourceHealth, annotated, source_doctor
from itpn_ray.data.doctor.fault_list import REMARKS, FaultList
from itpn_ray.data.doctor.prepared import Health, doctor
from itpn_ray.data.loading.detection_loader import DetectionTrainLoader
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.schema import shard_schema
from itpn_ray.data.store.manifest import MANIFEST, read_manifest
from itpn_ray.data.store.shards import Shard, ShardWriter, open_dataset
from itpn_ray.errors import ConfigError, DataError
from tests.data.made import write_dataset
from tests.data.made_coco import item, write_coco
from tests.data.made_files import config, image_bytes, prepared

NAN, INF = float("nan"), float("inf")
LINE = [[1.0, 1.0, 3.0, 3.0, 9.0, 9.0]]
FULL = {"counts": [0, 1280], "size": [32, 40]}

# What is wrong with an annotation -> its kind.
OBJECTS: dict[int, tuple[dict[str, Any], str]] = {
    1: ({"image_id": 99}, kinds.UNKNOWN_IMAGE),
    2: ({"category_id": 5}, kinds.CATEGORY),
    3: ({"bbox": [1, 2, NAN, 4]}, kinds.BOX_NOT_FINITE),
    4: ({"bbox": [1, INF, 3, 4]}, kinds.BOX_NOT_FINITE),
    5: ({"bbox": [1, 2, -3, 4]}, kinds.BOX_WITHOUT_AREA),
    6: ({"bbox": [1, 2, 3, 0]}, kinds.BOX_WITHOUT_AREA),
    7: ({"bbox": [40, 2, 3, 4]}, kinds.BOX_OUTSIDE),
    8: ({"bbox": [-9, -9, 5, 5]}, kinds.BOX_OUTSIDE),
    23: ({"bbox": [1, 2, 3]}, kinds.ENTRY),
    24: ({"bbox": None, "segmentation": None}, kinds.ENTRY),
    25: ({"image_id": "ten"}, kinds.UNKNOWN_IMAGE),
    26: ({"iscrowd": "perhaps"}, kinds.ENTRY),
    # The image alone tells its size.
    27: ({"image_id": 16, "bbox": [40, 2, 3, 4]}, kinds.BOX_OUTSIDE),
}
IMAGES = {
    11: kinds.FILE_MISSING,
    12: kinds.UNREADABLE,
    13: kinds.WRONG_SIZE,
    14: kinds.IMAGE_TWICE,
    15: kinds.ENTRY,
    17: kinds.WRONG_SIZE,
}
SOUND = (29, 30, 31)


def plant(root: Path) -> Path:
    """A data set with every fault, in both splits alike."""
    named = [
        {"id": number, "file_name": f"{number - 10}.jpg", "width": 40, "height": 32}
        for number in (*range(10, 17), 18)
    ]
    named[3]["width"] = 41
    del named[5]["file_name"], named[6]["width"], named[6]["height"]
    named.append({"id": 14, "file_name": "8.jpg", "width": 40, "height": 32})
    named.append({"id": 17, "file_name": "7.jpg", "width": -40, "height": 32})
    items = [item(29), item(30), item(31, segmentation=FULL, iscrowd=1)]
    items += [item(number, **fields) for number, (fields, _) in OBJECTS.items()]
    # Objects of images that cannot be used go with them.
    items += [item(50 + number, image_id=number) for number in IMAGES]
    raw = write_coco(root, items, images=9, listed=named)
    for split in ("train", "val"):
        (raw / f"{split}2017/1.jpg").unlink()
        (raw / f"{split}2017/2.jpg").write_bytes(image_bytes(2)[:300])
    return raw


def examined(uri: Path, out: Path) -> tuple[SourceHealth, set[tuple[str, str]]]:
    """What doctor says of a source, and the (entry, kind) of each fault of val."""
    with FaultList(out) as faults:
        source = annotated(str(uri))
        assert source is not None
        health = source_doctor(source, faults)
    rows = list(csv.DictReader(out.open()))
    assert all(row["file"] and row["reason"] for row in rows)
    return health, {(row["entry"], row["kind"]) for row in rows if row["split"] == "val"}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plant(tmp_path_factory.mktemp("planted") / "raw")


def test_doctor_finds_every_fault(planted: Path, tmp_path: Path) -> None:
    health, found = examined(planted, tmp_path / "list.csv")
    assert found == {
        *((f"annotation {number}", kind) for number, (_, kind) in OBJECTS.items()),
        *((f"image {number}", kind) for number, kind in IMAGES.items()),
    }
    assert not health.sound
    # A number that two images have is a fault of both.
    assert health.faults.faults == 2 * (len(OBJECTS) + len(IMAGES) + 1)
    assert health.splits["val"].images == 6
    assert health.splits["val"].objects == len(OBJECTS) + len(SOUND) + len(IMAGES)
    text = "\n".join(health.lines())
    assert "2 classes, 9 with masks" in text
    for kind in {*IMAGES.values(), *(kind for _, kind in OBJECTS.values())}:
        assert f"\n{kind} " in text
    assert f"{planted}/annotations/instances_train2017.json#annotation 1 is of image 99" in text
    assert str(tmp_path / "list.csv") in text


def test_prepare_leaves_out_what_doctor_finds(planted: Path, tmp_path: Path) -> None:
    rows = prepared(planted, tmp_path / "out", max_broken=1.0)
    for split in ("train", "val"):
        assert sorted(row["image_id"] for row in rows[split]) == [10, 16, 18]
        left = sorted(number for row in rows[split] for number in row["object_ids"])
        assert left == list(SOUND)
    listed = [row["path"] for row in csv.DictReader((tmp_path / "out/quarantine.csv").open())]
    for number in OBJECTS:
        assert sum(path.endswith(f"#annotation {number}") for path in listed) == 2
    for number in (14, 15, 17):
        assert sum(path.endswith(f"#image {number}") for path in listed) >= 2
    for name in ("1.jpg", "2.jpg", "3.jpg"):
        assert f"train2017/{name}" in listed
    assert not any(f"annotation {50 + number}" in path for number in IMAGES for path in listed)
    with FaultList(tmp_path / "list.csv") as faults:
        assert doctor(str(tmp_path / "out"), faults).sound


def test_the_exit_code_tells(
    planted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "list.csv")]
    assert run(["doctor", str(planted), *out]) == 1
    assert "FAULTS: prepare leaves out what is listed" in capsys.readouterr().out
    clean = write_coco(tmp_path / "clean", [item(1)])
    assert run(["doctor", str(clean), *out]) == 0
    assert capsys.readouterr().out.endswith("sound\n")
    assert (tmp_path / "list.csv").read_text() == "split,file,entry,kind,reason\n"
    prepare(config(clean, tmp_path / "set"))
    assert run(["doctor", str(tmp_path / "set"), *out]) == 0


def test_remarks_are_no_faults(tmp_path: Path) -> None:
    items = [
        item(1, bbox=[-4.0, 2.0, 9.0, 4.0]),
        item(2, bbox=[36.0, 2.0, 4.9, 4.0]),  # beyond by less than a pixel
        item(3, segmentation=[[1.0, 2.0, 4.0, 2.0, 4.0, 6.0], [1.0, 1.0, 2.0, 2.0]]),
    ]
    raw = write_coco(tmp_path / "raw", items)
    health, found = examined(raw, tmp_path / "list.csv")
    assert found == {("annotation 1", REMARKS[0]), ("annotation 3", REMARKS[1])}
    assert health.sound
    row = prepared(raw, tmp_path / "out")["val"][0]
    assert row["object_ids"] == [1, 2, 3]
    assert row["boxes"][0] == [-4.0, 2.0, 5.0, 6.0]
    assert row["polygons"][2] == [[1.0, 2.0, 4.0, 2.0, 4.0, 6.0]]


# Masks that cannot be used, in images of 40 x 32 pixels, beside a box that can.
MASKS: list[Any] = [
    None,
    [],
    [[]],
    [[1, 2, 3, 4]],
    LINE,
    [[1, 2, NAN, 2, 4, 6]],
    [[41, 2, 44, 2, 44, 6]],
    {"counts": [1280], "size": [32, 40]},
    {"counts": [5, 5], "size": [32, 40]},
    {"counts": [0, 1280], "size": [40, 32]},
    {"counts": "P", "size": [32, 40]},
    {"counts": [-5, 1285], "size": [32, 40]},
    {"counts": [1.5, 2.5], "size": [2, 2]},
    {"size": [32, 40]},
    "none",
]


def test_an_object_without_a_usable_mask_keeps_its_box(tmp_path: Path) -> None:
    items = [item(number, segmentation=mask) for number, mask in enumerate(MASKS)]
    items += [item(50), item(51, image_id=16, segmentation={"counts": [0, 4], "size": [2, 2]})]
    listed = [{"id": 10, "file_name": "0.jpg", "width": 40, "height": 32}]
    raw = write_coco(tmp_path / "raw", items, listed=[*listed, {"id": 16, "file_name": "1.jpg"}])
    health, found = examined(raw, tmp_path / "list.csv")
    told = (*range(3, len(MASKS)), 51)
    assert found == {(f"annotation {number}", kinds.MASK_IGNORED) for number in told}
    assert health.sound
    assert health.splits["val"].masks == 1
    rows = prepared(raw, tmp_path / "out")["val"]
    assert [row["object_ids"] for row in rows] == [[*range(len(MASKS)), 50], [51]]
    usable = [
        number
        for row in rows
        for number, *mask in zip(row["object_ids"], row["polygons"], row["runs"], strict=True)
        if any(mask)
    ]
    assert usable == [50]


def test_a_set_of_boxes_alone_needs_no_masks(tmp_path: Path) -> None:
    items = [item(1, segmentation=None), item(2, segmentation=[])]
    raw = write_coco(tmp_path / "raw", items)
    health, found = examined(raw, tmp_path / "list.csv")
    assert health.sound
    assert not found
    assert "without masks" in "\n".join(health.lines())


def test_a_category_that_comes_twice(tmp_path: Path) -> None:
    categories = [{"id": 7, "name": "cat"}, {"id": 7, "name": "dog"}]
    raw = write_coco(tmp_path / "raw", [item(1)], categories=categories)
    assert examined(raw, tmp_path / "list.csv")[1] == {("category 7", kinds.CATEGORY_TWICE)}


def test_a_list_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        FaultList(tmp_path / "file/list.csv")


def test_a_scan_that_ends_early_leaves_no_list(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), FaultList(tmp_path / "list.csv"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


# Prepared data


@pytest.fixture(scope="module")
def sound_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    items = [item(1), item(2, image_id=11), item(3, image_id=12, segmentation=FULL, iscrowd=1)]
    raw = write_coco(folder / "raw", items)
    prepare(config(raw, folder / "set"))
    return folder / "set"


def rewritten(source: Path, target: Path, **changes: Any) -> str:
    """A copy of a prepared set with other values for image 11 of train, digests corrected."""
    shutil.copytree(source, target)
    path = target / "train/shard-00000.arrow"
    shard = Shard(path)
    rows = [shard.row(number) for number in range(len(shard))]
    with path.open("wb") as out, ShardWriter(out, shard_schema("detection")) as writer:
        for row in rows:
            writer.append({**row, **changes} if row["image_id"] == 11 else row)
    manifest = read_manifest(str(source))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    info = replace(manifest.splits["train"].shards[0], bytes=path.stat().st_size, sha256=digest)
    train = replace(manifest.splits["train"], shards=(info,))
    changed = replace(manifest, splits={**manifest.splits, "train": train})
    (target / MANIFEST).write_text(changed.to_json())
    return str(target)


def health_of(data: str, out: Path) -> tuple[Health, list[dict[str, str]]]:
    with FaultList(out) as faults:
        health = doctor(data, faults)
    return health, list(csv.DictReader(out.open()))


@pytest.mark.parametrize(
    ("changes", "kind", "refused"),
    [
        ({"boxes": [[1.0, 2.0, NAN, 6.0]]}, kinds.BOX_NOT_FINITE, "not finite"),
        ({"boxes": [[4.0, 2.0, 1.0, 6.0]]}, kinds.BOX_WITHOUT_AREA, "without area"),
        ({"boxes": [[44.0, 2.0, 48.0, 6.0]]}, kinds.BOX_OUTSIDE, "outside of the image"),
        ({"classes": [2]}, kinds.CATEGORY, "beyond the 2"),
        ({"polygons": [[]], "runs": [[7, 3]]}, kinds.RUN_LENGTHS, "of 10 pixels"),
        ({"polygons": [[[1.0, 1.0, 9.0, 9.0]]]}, kinds.NO_MASK, "mask without area"),
        ({"image": b"none"}, kinds.UNREADABLE, "cannot be decoded"),
        ({"object_ids": [1]}, kinds.OBJECT_TWICE, ""),
        ({"image_id": 12}, kinds.IMAGE_TWICE, ""),
        ({"width": 41}, kinds.WRONG_SIZE, ""),
    ],
)
def test_faults_of_prepared_data(
    sound_set: Path, tmp_path: Path, changes: dict[str, Any], kind: str, refused: str
) -> None:
    assert health_of(str(sound_set), tmp_path / "sound.csv")[0].sound
    data = rewritten(sound_set, tmp_path / "set", **changes)
    health, rows = health_of(data, tmp_path / "list.csv")
    assert [row["kind"] for row in rows] == [kind]
    assert health.whole
    assert not health.sound
    assert "FAULT" in "\n".join(health.lines())
    if kind not in (kinds.OBJECT_TWICE, kinds.IMAGE_TWICE):
        assert rows[0]["file"] == "train2017/1.jpg"
    if not refused:
        return
    loader = DetectionTrainLoader(
        open_dataset(data, "train"),
        LoaderConfig(transport="threads", threads=1, prefetch=4),
        augment=DetectionAugmentConfig(short_sides=(64,), long_side=96, crop=0.0),
        seed=0,
        global_batch=4,
        masks=True,
    )
    with pytest.raises(DataError, match=rf"train2017/1\.jpg.*{refused}"):
        list(loader.epoch(0))
    loader.close()


def test_faults_of_images_without_objects(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "set", {"train": [5]}, broken=3)
    (tmp_path / "set/quarantine.csv").write_text("path,reason\n")
    health, rows = health_of(data, tmp_path / "list.csv")
    assert [(row["file"], row["kind"]) for row in rows] == [("0/3.jpg", kinds.UNREADABLE)]
    assert not health.sound


@given(st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 5000)))
def test_numbers_that_come_again(numbers: list[int]) -> None:
    book, seen = IdBook(), set()
    for number in numbers:
        assert book.add(number) == (number not in seen)
        seen.add(number)
