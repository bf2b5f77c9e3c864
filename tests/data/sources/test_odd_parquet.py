"""Parquet columns of unexpected types, and files that contradict each other."""

from __future__ import annotations

import csv
import datetime
import decimal
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from itpn_ray.cli import run
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources.label_values import as_label
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import DataError
from tests.data.made_files import config, image_bytes, prepared

IMAGES = [image_bytes(number) for number in range(6)]


def write_parquet(path: Path, *, label: Any = None, image: Any = None, **metadata: str) -> Path:
    """Six rows; labels 0, 1, 0, ... and images as bytes unless others are given."""
    columns = {
        "image": pa.array(IMAGES) if image is None else image,
        "label": pa.array([n % 2 for n in range(6)]) if label is None else label,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), path)
    return path


def quarantine(out: Path) -> dict[str, str]:
    with (out / "quarantine.csv").open() as stream:
        return {row["path"]: row["reason"] for row in csv.DictReader(stream)}


WORDS = ["cat", "dog"] * 3
UNDERSTOOD: dict[str, tuple[Any, tuple[str, ...]]] = {
    "whole floats": (pa.array([0.0, 1.0] * 3, pa.float32()), ("0", "1")),
    "halves": (pa.array(np.array([0, 1] * 3, np.float16)), ("0", "1")),
    "truth": (pa.array([True, False] * 3), ("false", "true")),
    "dictionary": (pa.array(WORDS).dictionary_encode(), ("cat", "dog")),
    "dictionary of numbers": (pa.array([0, 1] * 3).dictionary_encode(), ("0", "1")),
    "text as bytes": (pa.array([word.encode() for word in WORDS]), ("cat", "dog")),
    "large text": (pa.array(WORDS, pa.large_string()), ("cat", "dog")),
    "small numbers": (pa.array([0, 1] * 3, pa.uint8()), ("0", "1")),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_labels_of_many_types(tmp_path: Path, name: str) -> None:
    label, classes = UNDERSTOOD[name]
    path = write_parquet(tmp_path / "raw/all.parquet", label=label)
    rows = prepared(path, tmp_path / "out")
    assert read_manifest(str(tmp_path / "out")).classes == classes
    found = {row["image"]: classes[row["label"]] for part in rows.values() for row in part}
    first = "true" if name == "truth" else classes[0]
    assert [found[image] == first for image in IMAGES] == [True, False] * 3


DAY = datetime.date(2020, 1, 1)
REFUSED = {
    "parts": (pa.array([0.5, 1.5] * 3), "0.5"),
    "infinite": (pa.array([0.0, np.inf] * 3), "inf"),
    "missing": (pa.array([0.0, np.nan] * 3), "3 of 6 images have no label"),
    "null": (pa.nulls(6), "6 of 6 images have no label"),
    "blank": (pa.array(["a", " "] * 3), "3 of 6 images have no label"),
    "negative": (pa.array([0, -2] * 3), "-2"),
    "huge": (pa.array([0, 2**64 - 1] * 3, pa.uint64()), "18446744073709551615"),
    "long text": (pa.array(["0", "9" * 5000] * 3), "too large for a class number"),
    "no text": (pa.array([b"\x80\x04K\x01.", b"a"] * 3), "no text"),
    "lists of lists": (pa.array([[[0]], [[1, 0]]] * 3), "neither a class number"),
    "missing lists": (pa.array([[0], None] * 3), "3 of 6 images have no label"),
    "structs": (pa.array([{"id": 0}, {"id": 1}] * 3), "struct"),
    "maps": (pa.array([[("a", 1)]] * 6, pa.map_(pa.string(), pa.int8())), "map"),
    "decimals": (pa.array([decimal.Decimal("1.5")] * 6), "decimal"),
    "days": (pa.array([DAY] * 6), "date32"),
    "moments": (pa.array([datetime.datetime(2020, 1, 1)] * 6), "timestamp"),
    "bytes in a dictionary": (pa.array([b"\xff"] * 6).dictionary_encode(), "no text"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_labels_of_other_types_are_told_in_one_line(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    label, told = REFUSED[name]
    path = write_parquet(tmp_path / "raw/all.parquet", label=label)
    options = ["--out", str(tmp_path / "out"), "--num-workers", "0"]
    assert run(["prepare", "--source", str(path), *options]) == 2
    line = capsys.readouterr().err.strip()
    assert told in line
    assert "\n" not in line
    manifest = prepare(config(path, tmp_path / "out", unlabelled=True))
    assert sum(split.count for split in manifest.splits.values()) == 6


NESTED = {
    "lists": pa.array([[image] for image in IMAGES]),
    "lists of structs": pa.array([[{"bytes": image, "path": ""}] for image in IMAGES]),
    "deeper": pa.array([{"image": {"bytes": image}} for image in IMAGES]),
    "paths": pa.array(["a.jpg"] * 6),
    "numbers": pa.array([[1, 2, 3]] * 6),
    "text in bytes": pa.array([{"bytes": "text", "path": ""}] * 6),
}


@pytest.mark.parametrize("name", NESTED)
def test_images_in_other_columns_are_told_before_work_begins(tmp_path: Path, name: str) -> None:
    path = write_parquet(tmp_path / "raw/all.parquet", image=NESTED[name])
    with pytest.raises(DataError, match="not of one encoded image a row") as caught:
        prepare(config(path, tmp_path / "out"))
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "image",
    [
        pa.array(IMAGES, pa.large_binary()),
        pa.array(IMAGES).dictionary_encode(),
        pa.array([{"path": "a.jpg", "bytes": image} for image in IMAGES]),
        pa.array([{"bytes": image} for image in IMAGES]),
    ],
)
def test_images_in_columns_of_bytes(tmp_path: Path, image: Any) -> None:
    path = write_parquet(tmp_path / "raw/all.parquet", image=image)
    rows = prepared(path, tmp_path / "out")
    assert {row["image"] for part in rows.values() for row in part} == set(IMAGES)


def test_images_that_are_not_in_the_file_are_listed(tmp_path: Path) -> None:
    image = [{"bytes": image, "path": None} for image in IMAGES]
    image[2] = {"bytes": None, "path": "train/2.jpg"}  # type: ignore[dict-item]
    path = write_parquet(tmp_path / "raw/all.parquet", image=pa.array(image))
    prepare(config(path, tmp_path / "out", max_broken=0.5))
    assert "only the path train/2.jpg" in quarantine(tmp_path / "out")["all.parquet#0.2"]


def features(names: Any) -> str:
    return json.dumps({"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}})


@pytest.mark.parametrize(
    "written",
    [
        "no JSON",
        "[]",
        "null",
        "[" * 100_000,
        '{"info": null}',
        '{"info": {"features": ["label"]}}',
        features(None),
        features(5),
        features([0, 1]),
        features(["a", "a"]),
    ],
)
def test_metadata_without_names_leave_numbers(tmp_path: Path, written: str) -> None:
    path = write_parquet(tmp_path / "raw/all.parquet", huggingface=written)
    assert prepare(config(path, tmp_path / "out")).classes == ("0", "1")


def test_files_that_contradict_each_other_are_told(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_parquet(raw / "train-0.parquet", huggingface=features(["cat", "dog"]))
    write_parquet(raw / "train-1.parquet", huggingface=features(["dog", "cat"]))
    with pytest.raises(DataError, match="other classes than the files before"):
        prepare(config(raw, tmp_path / "out"))
    write_parquet(raw / "train-1.parquet", label=pa.array(WORDS))
    with pytest.raises(DataError, match="class numbers as labels, others class names"):
        prepare(config(raw, tmp_path / "out"))


def test_a_damaged_row_group_stops_with_its_file(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "raw/all.parquet")
    data = bytearray(path.read_bytes())
    at = data.find(IMAGES[0][:20]) - 40  # the page's header
    data[at : at + 30] = b"\xff" * 30
    path.write_bytes(data)
    with pytest.raises(DataError, match="not a whole Parquet file") as caught:
        prepare(config(path, tmp_path / "out"))
    assert "all.parquet" in str(caught.value)


def test_other_files_beside_the_shards_are_listed(tmp_path: Path) -> None:
    write_parquet(tmp_path / "raw/all.parquet")
    (tmp_path / "raw/more.parquet.gz").write_bytes(b"")
    prepare(config(tmp_path / "raw", tmp_path / "out"))
    assert quarantine(tmp_path / "out") == {"more.parquet.gz": "not Parquet, by its name"}


def test_labels_as_programs_write_them() -> None:
    values: list[Any] = [None, float("nan"), "", " dog ", "7", True, 3, 3.0]
    assert [as_label(value, "x", "y") for value in values] == [
        *(None, None, None, "dog", "7", "true", 3, 3),
    ]


def test_files_without_rows_are_listed(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    empty = pa.array([], pa.int64())
    write_parquet(raw / "val.parquet", label=empty, image=pa.array([], pa.binary()))
    with pytest.raises(DataError, match="no Parquet files with rows"):
        prepare(config(raw, tmp_path / "out", unlabelled=True))
    write_parquet(raw / "train.parquet")
    manifest = prepare(config(raw, tmp_path / "out"))
    assert "held out" in manifest.splits["val"].origin
    assert quarantine(tmp_path / "out") == {"val.parquet": "holds no rows"}


def test_a_test_split_is_left_out_where_none_of_its_rows_has_a_label(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    write_parquet(raw / "train-0.parquet")
    for label in ([-1] * 6, [None] * 6):
        write_parquet(raw / "test-0.parquet", label=pa.array(label, pa.int64()))
        out = tmp_path / f"out{label[0]}"
        assert "test" not in prepared(raw, out)
        assert quarantine(out)["test"] == "left out: 6 images without labels"
    for label, told in (([0, 1, 0, 1, 0, None], "1 of 12 images"), ([0, 1, 0, 1, 0, -1], "'-1'")):
        write_parquet(raw / "test-0.parquet", label=pa.array(label, pa.int64()))
        with pytest.raises(DataError, match=told):
            prepare(config(raw, tmp_path / "none"))
