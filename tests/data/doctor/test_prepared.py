from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from itpn_ray.cli import run
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import FaultList
from itpn_ray.data.doctor.prepared import Health
from itpn_ray.data.doctor.prepared import doctor as examine
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.store.manifest import WORK
from itpn_ray.errors import DataError
from tests.data.made_files import config, image_bytes, write_folders


def doctor(uri: str) -> Health:
    with FaultList(Path(uri).parent / "doctor.csv") as faults:
        return examine(uri, faults)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Prepared images with a duplicate inside train, one from train in val, one broken."""
    raw = tmp_path / "raw"
    write_folders(raw, {"train/cat": 12, "train/dog": 4, "val/cat": 3, "val/dog": 2})
    shutil.copy(raw / "train/cat/000.jpg", raw / "train/cat/copy.jpg")
    shutil.copy(raw / "train/dog/000.jpg", raw / "val/dog/leak.jpg")
    (raw / "val/cat/zero.jpg").write_bytes(b"")
    prepare(config(raw, tmp_path / "out"))
    return tmp_path / "out"


def test_counts_duplicates_and_leaks(data: Path) -> None:
    found = doctor(str(data))
    assert found.whole
    assert not found.sound
    assert {name: split.count for name, split in found.splits.items()} == {"train": 17, "val": 6}
    assert found.splits["train"].class_counts == (13, 4)
    assert found.splits["val"].sides == (40, 40, 40)
    assert found.duplicate_images == 2
    assert {tuple(sorted(group)) for group in found.duplicates} == {
        ("train: train/cat/000.jpg", "train: train/cat/copy.jpg"),
        ("train: train/dog/000.jpg", "val: val/dog/leak.jpg"),
    }
    assert found.leaked == 1
    rows = list(csv.DictReader((data.parent / "doctor.csv").open()))
    assert [(row["split"], row["file"], row["kind"]) for row in rows] == [
        ("val", "val/dog/leak.jpg", kinds.LEAK)
    ]
    assert rows[0]["reason"] == "is train/dog/000.jpg of train too"
    assert found.quarantine == {"the file is empty": 1}


def test_the_findings_in_words(data: Path) -> None:
    text = "\n".join(doctor(str(data)).lines())
    for words in (
        "classification, 2 classes",
        "train: 17 images",
        "a class has 4 (dog) to 13 (cat)",
        "the largest is 76.5%",
        "1 x the file is empty",
        "there more than once: 2 images",
        "LEAK: 1 image of other splits",
    ):
        assert words in text
    assert "whole" not in text
    assert text.endswith("1 FAULT: fix what is listed and prepare the data again")


def test_a_leak_between_val_and_test_is_a_fault_too(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_folders(
        raw, {f"{split}/{name}": 2 for split in ("train", "val", "test") for name in "ab"}
    )
    prepare(config(raw, tmp_path / "sound"))
    out = ["--out", str(tmp_path / "doctor.csv")]
    assert run(["doctor", str(tmp_path / "sound"), *out]) == 0
    shutil.copy(raw / "val/a/000.jpg", raw / "test/a/leak.jpg")
    prepare(config(raw, tmp_path / "leaking"))
    assert run(["doctor", str(tmp_path / "leaking"), *out]) == 1


def test_a_changed_byte_is_found(data: Path) -> None:
    shard = data / "train/shard-00001.arrow"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    found = doctor(str(data))
    assert not found.whole
    assert found.splits["train"].broken == (
        ("shard-00001.arrow", "its content has changed since it was written"),
    )
    assert "BROKEN train/shard-00001.arrow" in "\n".join(found.lines())


def test_a_missing_shard_is_found(data: Path) -> None:
    (data / "val/shard-00000.arrow").unlink()
    found = doctor(str(data))
    assert [shard for shard, _ in found.splits["val"].broken] == ["shard-00000.arrow"]
    assert "NOT WHOLE" in "\n".join(found.lines())


def test_images_without_labels(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {"": 6})
    prepare(config(tmp_path / "raw", tmp_path / "out"))
    text = "\n".join(doctor(str(tmp_path / "out")).lines())
    assert "unlabelled, 0 classes" in text
    assert "there more than once: 0 images" in text


def test_raw_images_are_not_prepared_ones(tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(image_bytes(0))
    with pytest.raises(DataError, match=f"`itpn-ray prepare --source {tmp_path} --out data/"):
        doctor(str(tmp_path))
    (tmp_path / WORK).mkdir()  # a preparation that was interrupted
    with pytest.raises(DataError, match=f"Prepare it: .* --out {tmp_path}`"):
        doctor(str(tmp_path))


def test_classes_that_nothing_was_learned_of_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folders(tmp_path / "raw", {f"class_{n}": 1 for n in range(12)})
    words = ["--source", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert run(["prepare", *words, "--num-workers", "0"]) == 0
    told = "1 of 12 classes are in other splits and not in train, such as class_"
    said = capsys.readouterr()
    assert told in said.out + said.err
    assert "0.1 of the images, one a class, of the whole folder" in said.out
    assert told in "\n".join(doctor(str(tmp_path / "out")).lines())
