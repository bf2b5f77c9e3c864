"""DOTA: its lines, its folders, and what is told of each fault by doctor and preparation."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.annotations import annotated, source_doctor
from itpn_ray.data.doctor.fault_list import FaultList
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources.annotated.dota import holds_dota, parse_dota
from itpn_ray.data.sources.detect import detect
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import DataError
from tests.data.made_dota import HEAD, PLANE, SHIP, prepared, write_dota
from tests.data.made_layouts import yolo

FAULTS = [
    ("1 2 3 4 5 6 7 ship 0", kinds.ENTRY, "no line of 8 coordinates"),
    ("1 2 3 4 5 6 7 x ship 0", kinds.ENTRY, "no line of 8 coordinates"),
    ("20 30 60 40 58 48 18 38", kinds.ENTRY, "no line of 8 coordinates"),
    ("20 30 60 40 58 48 18 38 ship 0 0", kinds.ENTRY, "no line of 8 coordinates"),
    ("20 30 60 40 58 48 18 38 ship hard", kinds.ENTRY, "has 'hard' as its difficulty"),
    ("20 30 60 40 58 48 18 nan ship 0", kinds.BOX_NOT_FINITE, "not finite"),
    ("20 30 inf 40 58 48 18 38 ship 0", kinds.BOX_NOT_FINITE, "not finite"),
    ("20 30 20 30 20 30 20 30 ship 0", kinds.BOX_WITHOUT_AREA, "without area: 20 30"),
    ("0 0 10 10 20 20 30 30 ship 0", kinds.BOX_WITHOUT_AREA, "without area: 0 0 10 10"),
    ("500 500 540 500 540 520 500 520 ship 0", kinds.BOX_OUTSIDE, "outside of the image"),
]


def test_lines() -> None:
    text = "\n".join([*HEAD, SHIP, "", PLANE, "1.5 2 9 2 9 7 1.5 7 tennis-court"])
    first, second, third = parse_dota(text.encode(), None).labels
    assert first.entry == "line 3"
    assert first.fields == {
        "category_id": "ship",
        "bbox": [18, 30, 42, 18],
        "segmentation": [[20, 30, 60, 40, 58, 48, 18, 38]],
        "iscrowd": False,
    }
    assert not isinstance(second.fields, FaultError)
    assert second.fields["iscrowd"] is True
    assert not isinstance(third.fields, FaultError)
    assert third.fields["iscrowd"] is False
    assert parse_dota(b"", None).labels == ()


def test_it_is_told_from_other_texts() -> None:
    assert holds_dota("\n".join([*HEAD, SHIP]).encode())
    assert not holds_dota("\n".join(HEAD).encode())
    assert not holds_dota(yolo(0).encode())
    assert not holds_dota(yolo(0, "outline").encode())
    assert not holds_dota(b"0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2")  # YOLO's oriented boxes
    assert not holds_dota(b"\xff\xfe\x00")


def test_folders_and_images_without_labels(tmp_path: Path) -> None:
    root = write_dota(
        tmp_path / "raw",
        {"train/P0": [SHIP], "train/P1": [], "train/P2": None, "val/P3": [PLANE], "test/P4": None},
    )
    (root / "train/labelTxt/P9.txt").write_text(SHIP)
    assert detect(str(root)) == "dota"
    said: list[str] = []
    config = PrepareConfig(source=str(root), out=str(tmp_path / "data"), num_workers=0)
    manifest = prepare(config, say=said.append)
    told = "train/images: 1 of 3 images have no label file and count as without objects"
    assert [line for line in said if "label file" in line] == [told]
    assert (manifest.kind, manifest.classes) == ("rotated", ("plane", "ship"))
    assert set(manifest.splits) == {"train", "val"}
    # Tiles of train without an object teach nothing.
    assert [manifest.splits[name].count for name in ("train", "val")] == [1, 1]
    left_out = (tmp_path / "data/quarantine.csv").read_text()
    assert "test/images,no image in it has labels" in left_out
    assert "train/labelTxt/P9.txt,labels of an image that is not there" in left_out


@pytest.mark.parametrize("folder", ["labelTxt-v1.0/labelTxt", "labelTxt-v1.5/DOTA-v1.5_train"])
def test_the_folders_of_the_download(folder: str, tmp_path: Path) -> None:
    root = write_dota(tmp_path / "raw", {"train/P0": [SHIP], "val/P1": [SHIP]})
    (root / "train/images/images").mkdir()
    (root / "train/images/P0.png").rename(root / "train/images/images/P0.png")
    (root / "train" / folder).parent.mkdir()
    (root / "train/labelTxt").rename(root / "train" / folder)
    assert detect(str(root)) == "dota"
    manifest = read_manifest(prepared(root, tmp_path / "data"))
    assert manifest.splits["train"].class_counts == (1,)


@pytest.mark.parametrize(("line", "kind", "reason"), FAULTS)
def test_each_fault_is_told_with_file_and_line(
    line: str, kind: str, reason: str, tmp_path: Path
) -> None:
    sound = [SHIP] * 12
    root = write_dota(tmp_path / "raw", {"train/P0": [*sound, line], "val/P1": [SHIP]})
    source = annotated(str(root))
    assert source is not None
    with FaultList(str(tmp_path / "list.csv")) as faults:
        health = source_doctor(source, faults)
    (row,) = csv.DictReader((tmp_path / "list.csv").open())
    assert (row["file"], row["kind"]) == ("train/labelTxt/P0.txt", kind)
    assert row["entry"] == f"line {3 + len(sound)}"
    assert reason in row["reason"]
    assert not health.sound
    assert "12 with turned boxes" in "\n".join(health.lines())

    data = prepared(root, tmp_path / "data")
    found = open_dataset(data, "train")[0]
    assert len(found["classes"]) == 12
    assert reason in (tmp_path / "data/quarantine.csv").read_text()
    with pytest.raises(DataError, match="--strict allows none"):
        prepared(root, tmp_path / "strict", strict=True)


def test_a_split_without_one_usable_object_is_refused(tmp_path: Path) -> None:
    root = write_dota(tmp_path / "raw", {"train/P0": [SHIP], "val/P1": [FAULTS[0][0]]})
    told = r"val has not one usable object; val/labelTxt/P1\.txt#line 3"
    with pytest.raises(DataError, match=told):
        prepared(root, tmp_path / "data", max_broken=1)
