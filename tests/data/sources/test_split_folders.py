"""Which folders of a source become which split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources.base import Listing
from itpn_ray.data.sources.detect import open_source
from itpn_ray.errors import DataError
from tests.data.made_files import config, write_folders


def listed(root: Path, folders: Sequence[str], **fields: object) -> Listing:
    """What is found where two images lie in each of some folders."""
    write_folders(root, dict.fromkeys(folders, 2))
    return open_source(config(root, root.parent / "out", **fields))[1].listing()


def counts(listing: Listing) -> dict[str, int]:
    return {split: table.num_rows for split, table in listing.splits.items()}


PAIRS = [("Train", "Val"), ("Training", "validation_set"), ("TRAIN", "dev"), ("train2017", "Eval")]


@pytest.mark.parametrize(("train", "val"), PAIRS)
def test_split_folders_of_any_wording(tmp_path: Path, train: str, val: str) -> None:
    found = listed(tmp_path / "raw", [f"{s}/{c}" for s in (train, val) for c in ("cat", "dog")])
    assert found.classes == ("cat", "dog")
    assert counts(found) == {"train": 4, "val": 4}
    assert found.origins == {"train": train, "val": val}


def test_a_test_folder_stays_a_test_split(tmp_path: Path) -> None:
    found = listed(tmp_path / "raw", ["training/a", "training/b", "testing/a", "testing/b"])
    assert counts(found) == {"train": 4, "test": 4}


def test_given_names_hold_alone_and_the_rest_is_listed(tmp_path: Path) -> None:
    folders = ["Training/a", "Training/b", "Testing/a", "Testing/b", "Extra/a", "more/new/a"]
    given = ("train=Training", "train=more/new", "val=testing/")
    write_folders(tmp_path / "raw", {"more/new/b": 1, "": 1})
    found = listed(tmp_path / "raw", folders, splits=given)
    assert counts(found) == {"train": 7, "val": 4}
    assert found.origins["train"] == "Training, more/new"
    assert [path for path, _ in found.skipped] == ["000.jpg", "Extra"]
    with pytest.raises(DataError, match=r"no such folder .* there are Extra, Testing, Training"):
        listed(tmp_path / "raw", [], splits=("train=Trainings",))


@pytest.mark.parametrize(
    ("folders", "cause"),
    [
        (["train/a", "train/b", "Extra/a"], r"Extra is no split.*train \(train\), Extra \(no"),
        (["train/a", "train/b", "dev/a", "eval/a"], "two folders are val"),
        (["train", "val", "extra"], "extra is no split"),
        (["a/train", "a/val", "b/train", "b"], "there are .*a/train"),
        (
            ["lot 1/cat", "lot 1/dog", "lot 2/cat", "lot 2/dog"],
            "same folders .cat, dog.*lot 1, lot",
        ),
    ],
)
def test_what_the_names_do_not_tell_is_refused(
    tmp_path: Path, folders: list[str], cause: str
) -> None:
    with pytest.raises(DataError, match=f"{cause}.*--splits train=NAME"):
        listed(tmp_path / "raw", folders)


def test_folders_of_a_heap_may_look_alike(tmp_path: Path) -> None:
    found = listed(tmp_path / "raw", ["2023/may", "2023/june", "2024/may"], unlabelled=True)
    assert (found.kind, counts(found)) == ("unlabelled", {"train": 6})


def test_a_train_among_other_classes_is_a_class(tmp_path: Path) -> None:
    found = listed(tmp_path / "raw", ["bus", "car", "train"])
    assert found.classes == ("bus", "car", "train")
    assert "train is taken for a class" in found.notes[0]
    found = listed(tmp_path / "all", ["bus", "train", "val"], splits=("train=.",))
    assert found.classes == ("bus", "train", "val")
    found = listed(tmp_path / "tubes", ["test tube", "evaluations", "trained"])
    assert (len(found.classes), counts(found), found.notes) == (3, {"train": 6}, ())


def test_other_places_of_splits(tmp_path: Path) -> None:
    """Splits inside class folders, a folder around everything, images in ``images``."""
    inside = [f"{c}/{s}" for c in ("a", "b") for s in ("Train", "Test")]
    found = listed(tmp_path / "inside", inside)
    assert (found.classes, counts(found)) == (("a", "b"), {"train": 4, "test": 4})
    wrapped = [f"x/y/{s}/{c}" for c in ("a", "b") for s in ("train", "val")]
    found = listed(tmp_path / "wrapped", wrapped)
    assert (found.classes, counts(found)) == (("a", "b"), {"train": 4, "val": 4})
    assert "x/y" in found.notes[0]
    for name in ("images", "pictures", "JPEGImages"):
        images = [f"{s}/{name}/{c}" for c in ("a", "b") for s in ("train", "val")]
        found = listed(tmp_path / name, images)
        assert (found.classes, counts(found)) == (("a", "b"), {"train": 4, "val": 4})


@pytest.mark.parametrize("splits", [("train", "val"), (".",)])
def test_folders_without_images_do_not_matter(tmp_path: Path, splits: tuple[str, ...]) -> None:
    raw = tmp_path / "raw"
    (raw / "code").mkdir(parents=True)
    (raw / "code/run.py").write_text("")
    found = listed(raw, [f"{split}/{name}" for split in splits for name in ("a", "emu")])
    assert (found.classes, counts(found)) == (("a", "emu"), dict.fromkeys(found.splits, 4))
    assert found.splits["train"].column("label").to_pylist() == [0, 0, 1, 1]
    assert found.notes == (("there are no images in code: no class",) if splits == (".",) else ())


def test_tiny_imagenet_as_it_is_unpacked(tmp_path: Path) -> None:
    raw = tmp_path / "tiny-imagenet-200"
    wnids = ("n01443537", "n01629819")
    folders = dict.fromkeys([f"train/{wnid}/images" for wnid in wnids], 3)
    write_folders(raw, {**folders, "val/images": 4, "test/images": 2})
    lines = [f"{n:03d}.jpg\t{wnids[n % 2]}\t0\t32\t44\t62\n" for n in range(4)]
    (raw / "val/val_annotations.txt").write_text("".join(reversed(lines)))
    (raw / "train" / wnids[0] / f"{wnids[0]}_boxes.txt").write_text("000.jpg\t0\t0\t3\t3\n")
    (raw / "wnids.txt").write_text("\n".join(wnids))
    found = open_source(config(raw, tmp_path / "out"))[1].listing()
    assert (found.classes, counts(found)) == (wnids, {"train": 6, "val": 4})
    assert found.splits["val"].column("label").to_pylist() == [0, 1, 0, 1]
    assert "val/val_annotations.txt" in found.notes[0]
    assert ("test", "left out: 2 images without labels") in found.skipped


def test_a_table_beside_images_without_labels_is_named(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {"train_images": 2, "test_images": 2})
    (tmp_path / "raw/train.csv").write_text("image,label\n")
    found = listed(tmp_path / "raw", [])
    assert (found.kind, counts(found)) == ("unlabelled", {"train": 2, "test": 2})
    assert "train.csv" in found.notes[0]
    write_folders(tmp_path / "one", {"images": 2})
    (tmp_path / "one/labels.csv").write_text("image,label\n")
    with pytest.raises(DataError, match=r"one class .images.*--source .*one/labels.csv"):
        listed(tmp_path / "one", [])


def test_images_beside_label_files(tmp_path: Path) -> None:
    (tmp_path / "raw/train/labels").mkdir(parents=True)
    (tmp_path / "raw/train/labels/000.txt").write_text("0 0.5 0.5 0.1 0.1")
    found = listed(tmp_path / "raw", ["train/images", "valid/images"], format="folders")
    assert (found.kind, counts(found)) == ("unlabelled", {"train": 2, "val": 2})


def test_preparation_says_what_became_of_what(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {"Train/a": 2, "Train/b": 2, "Val/a": 2, "Val/b": 1})
    said: list[str] = []
    prepare(config(tmp_path / "raw", tmp_path / "out"), say=said.append)
    assert said == [
        "read as folders, classification",
        "train: 4 images from Train",
        "val: 3 images from Val",
    ]


@pytest.mark.parametrize(
    ("archive", "images", "form"),
    [("backup.tar", 4, "folders"), ("a.tar", 1, "webdataset"), ("old.parquet", 5, "folders")],
)
def test_a_stray_archive_does_not_decide(
    tmp_path: Path, archive: str, images: int, form: str
) -> None:
    write_folders(tmp_path / "raw", {"cat": images})
    (tmp_path / "raw" / archive).write_bytes(b"")
    said: list[str] = []
    assert open_source(config(tmp_path / "raw", tmp_path / "out"), said.append)[0] == form
    assert archive in said[0]
    assert "--format" in said[0]
