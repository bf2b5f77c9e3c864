from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from itpn_ray.cli import run
from itpn_ray.data.sources.detect import open_source
from itpn_ray.data.sources.splits import SplitNames, split_of_file, split_of_name
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import ConfigError, DataError
from tests.data.made_coco import item, write_coco
from tests.data.made_files import config, image_bytes, write_folders

NAMES = {
    "train": "train Train TRAIN Training training_set TrainSet train2017 trainval "
    "train-images TrainPictures",
    "val": "val Val valid Validation validation_set VALSET dev Dev devset eval evaluation val2017 "
    "val_picture",
    "test": "test Testing TEST testset test_data imgs-test test-dev2017",
}


@pytest.mark.parametrize(("split", "names"), NAMES.items())
def test_a_whole_name_means_a_split(split: str, names: str) -> None:
    assert {name: split_of_name(name) for name in names.split()} == dict.fromkeys(
        names.split(), split
    )


@pytest.mark.parametrize(
    "name", ["test tube", "train_station", "bus", "valley", "latest", "devil", "contest", "", "12"]
)
def test_other_names_mean_none(name: str) -> None:
    assert split_of_name(name) is None


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("imagenet-train-000001.tar", "train"),
        ("data/validation-00000-of-00014.parquet", "val"),
        ("default/test/0000.parquet", "test"),
        ("train/val-000.tar", "val"),
        ("instances_train2017.json", "train"),
        ("zhiyuan_objv2_val.json", "val"),
        ("image_info_test-dev2017.json", "test"),
        ("imagenetTrain-0.tar", "train"),
        ("Eval-000000.TAR", "val"),
        ("train-test-0.tar", None),
        ("data-0.tar", None),
        ("latest/protests-0.tar", None),
    ],
)
def test_a_file_tells_its_split(path: str, split: str | None) -> None:
    assert split_of_file(path) == split


def test_files_are_sorted_and_those_that_tell_nothing_are_refused() -> None:
    names = SplitNames()
    files = ["dev-0.tar", "train-0.tar", "train-1.tar"]
    expected = {"train": files[1:], "val": files[:1]}
    assert names.sort_files(files, "raw") == (expected, [])
    assert names.sort_files(["a.tar", "b.tar"], "raw") == ({"train": ["a.tar", "b.tar"]}, [])
    for stranger in ("extra-0.tar", "train-test-0.tar"):
        with pytest.raises(DataError, match=f"{stranger} .no split.*--splits train=NAME"):
            names.sort_files([*files, stranger], "raw")


def test_given_names_hold_alone() -> None:
    names = SplitNames.parse(["train=part", "train=more/", "val=data/test*"])
    files = ["part-0.tar", "more/a.tar", "data/test-0.tar", "data/train-0.tar"]
    found, skipped = names.sort_files(files, "raw")
    assert found == {"train": files[:2], "val": files[2:3]}
    assert [path for path, _ in skipped] == files[3:]
    assert names.of_name("MORE") == "train"
    assert names.of_name("train") is None
    with pytest.raises(DataError, match=r"nothing in raw is called so; there are a.tar"):
        SplitNames.parse(["train=b"]).sort_files(["a.tar"], "raw")


@pytest.mark.parametrize("pairs", [["train"], ["train="], ["dev=x"], ["train=x", "val=x"]])
def test_what_names_no_split_is_refused(pairs: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"prepare\.splits"):
        SplitNames.parse(pairs)


def parquet(path: Path, rows: int, **columns: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [image_bytes(number) for number in range(rows)]
    labels = [number % 2 for number in range(rows)]
    pq.write_table(pa.table({"image": images, "label": labels, **columns}), path)


def found(folder: Path, **fields: object) -> dict[str, int]:
    """Rows of each split of a source."""
    listing = open_source(config(folder, folder.parent / "out", **fields))[1].listing()
    return {split: table.num_rows for split, table in listing.splits.items()}


def test_parquet_files_tell_their_split(tmp_path: Path) -> None:
    parquet(tmp_path / "raw/Training-0.parquet", 4)
    parquet(tmp_path / "raw/data/eval-0.PARQUET", 2)
    parquet(tmp_path / "raw/Testing/0.parquet", 3)
    assert found(tmp_path / "raw") == {"train": 4, "val": 2, "test": 3}
    parquet(tmp_path / "raw/other.parquet", 5)
    with pytest.raises(DataError, match=r"other.parquet does not tell its split"):
        found(tmp_path / "raw")
    given = ("train=other", "val=Testing")
    assert found(tmp_path / "raw", splits=given) == {"train": 5, "val": 3}


def test_a_column_of_parquet_tells_the_split(tmp_path: Path) -> None:
    words = ["train", "Validation", "TRAIN", "train", "test", "dev"]
    parquet(tmp_path / "raw/all.parquet", 6, Split=words)
    assert found(tmp_path / "raw") == {"train": 3, "val": 2, "test": 1}
    assert found(tmp_path / "raw", splits=("train=train", "val=dev")) == {"train": 3, "val": 1}
    parquet(tmp_path / "raw/all.parquet", 3, subset=["train", "spare", "train"])
    with pytest.raises(
        DataError, match=r"'subset' has 'spare', which is no split; there are train"
    ):
        found(tmp_path / "raw")


def tar(path: Path, names: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as packed:
        for number, name in enumerate(names):
            for suffix, data in ((".jpg", image_bytes(number)), (".cls", b"%d" % (number % 2))):
                info = tarfile.TarInfo(name + suffix)
                info.size = len(data)
                packed.addfile(info, io.BytesIO(data))


def test_tars_tell_their_split(tmp_path: Path) -> None:
    tar(tmp_path / "raw/Train-0.tar", "abcd")
    tar(tmp_path / "raw/dev/0.tar", "ab")
    assert found(tmp_path / "raw") == {"train": 4, "val": 2}
    tar(tmp_path / "raw/x.tar", "ab")
    with pytest.raises(DataError, match=r"x.tar does not tell its split"):
        found(tmp_path / "raw")


def test_folders_inside_a_tar_tell_their_split(tmp_path: Path) -> None:
    tar(tmp_path / "raw/all.tar", ["Train/a", "Train/b", "valid/a", "valid/b"])
    assert found(tmp_path / "raw") == {"train": 2, "val": 2}
    tar(tmp_path / "raw/all.tar", ["Train/a", "Train/b", "valid/a", "b"])
    with pytest.raises(DataError, match=r"some folders of its images name a split"):
        found(tmp_path / "raw")
    tar(tmp_path / "raw/all.tar", ["train/a", "bus/b", "car/a"])
    assert found(tmp_path / "raw") == {"train": 3}


def test_annotation_files_tell_their_split(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_coco(raw, [item(1)])
    for old, new in (("train", "Training"), ("val", "valid")):
        (raw / f"{old}2017").rename(raw / new)
        (raw / f"annotations/instances_{old}2017.json").rename(
            raw / f"annotations/instances_{new}.json"
        )
    assert found(raw) == {"train": 4, "val": 4}
    assert found(raw, splits=("train=instances_valid", "test=training")) == {"train": 4, "test": 4}


def test_the_command_line_names_splits(tmp_path: Path) -> None:
    write_folders(tmp_path / "raw", {f"{s}/{c}": 2 for s in ("Training", "Testing") for c in "ab"})
    arguments = ["--source", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    names = ["--splits", "train=Training", "val=Testing", "--num-workers", "0"]
    assert run(["prepare", *arguments, *names]) == 0
    splits = read_manifest(str(tmp_path / "out")).splits
    assert {name: split.origin for name, split in splits.items()} == {
        "train": "Training",
        "val": "Testing",
    }
    assert run(["prepare", *arguments, "--splits", "train:Training"]) == 2
