from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from itpn_ray.data.schema import KINDS, shard_schema
from itpn_ray.data.store.manifest import MANIFEST, read_manifest
from itpn_ray.data.store.shards import (
    BATCH_ROWS,
    Shard,
    ShardWriter,
    open_dataset,
    open_train_and_val,
)
from itpn_ray.errors import DataError
from tests.data.made import write_dataset

SCHEMA = shard_schema("classification")


def row(number: int, size: int = 50) -> dict[str, Any]:
    data = bytes([number % 256]) * (size + number % 7)
    return {"image": data, "label": number, "width": 4, "height": 3, "path": f"{number}.jpg"}


def write(path: Path, rows: list[dict[str, Any]]) -> ShardWriter:
    with path.open("wb") as out, ShardWriter(out, SCHEMA) as writer:
        for item in rows:
            writer.append(item)
    return writer


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [row(number) for number in range(2 * BATCH_ROWS + 5)]
    writer = write(tmp_path / "s.arrow", rows)
    shard = Shard(tmp_path / "s.arrow")
    assert len(shard) == writer.rows == len(rows)
    for number, item in enumerate(rows):
        assert shard.row(number) == item
        assert shard.image(number).tobytes() == item["image"]
    assert shard.table(["label"]).column("label").to_pylist() == list(range(len(rows)))


@pytest.mark.parametrize(
    ("there", "told"),
    [
        ("val", r"data = .*there is no training split, only val\. .*--splits train="),
        ("train", r"data = .*there is no validation split, only train\. .*--splits val="),
    ],
)
def test_a_training_needs_two_splits(there: str, told: str, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", {there: [2, 2]})
    with pytest.raises(DataError, match=told):
        open_train_and_val(data)


def test_the_writer_tells_size_and_digest(tmp_path: Path) -> None:
    writer = write(tmp_path / "s.arrow", [row(number) for number in range(100)])
    data = (tmp_path / "s.arrow").read_bytes()
    assert writer.bytes == len(data)
    assert writer.sha256 == hashlib.sha256(data).hexdigest()


def test_the_writer_holds_a_bounded_number_of_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itpn_ray.data.store.shards.BATCH_BYTES", 1000)
    rows = [row(number, size=400) for number in range(20)]
    write(tmp_path / "s.arrow", rows)
    with pa.ipc.open_file(tmp_path / "s.arrow") as reader:
        assert [reader.get_batch(n).num_rows for n in range(reader.num_record_batches)] == [
            3
        ] * 6 + [2]
    assert [Shard(tmp_path / "s.arrow").row(n) for n in range(20)] == rows


def test_an_image_is_a_read_only_view(tmp_path: Path) -> None:
    write(tmp_path / "s.arrow", [row(1)])
    image = Shard(tmp_path / "s.arrow").image(0)
    assert image.dtype == np.uint8
    with pytest.raises(ValueError, match="read-only"):
        image[0] = 0


def test_shards_hold_no_open_files(tmp_path: Path) -> None:
    write(tmp_path / "s.arrow", [row(number) for number in range(70)])
    before = len(os.listdir("/proc/self/fd"))
    shards = [Shard(tmp_path / "s.arrow") for _ in range(50)]
    assert len(os.listdir("/proc/self/fd")) <= before + 2
    assert all(shard.row(65) == row(65) for shard in shards)


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    write(tmp_path / "s.arrow", [row(0)])
    for number in (-1, 1):
        with pytest.raises(IndexError):
            Shard(tmp_path / "s.arrow").image(number)


@pytest.mark.parametrize("content", [b"", b"ARROW1", b"x" * 1000])
def test_a_file_that_is_no_shard_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s.arrow").write_bytes(content)
    with pytest.raises(DataError, match="not a whole shard"):
        Shard(tmp_path / "s.arrow")
    with pytest.raises(DataError, match="not a whole shard"):
        Shard(tmp_path / "missing.arrow")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_an_image_and_what_belongs_to_it(kind: str) -> None:
    names = set(shard_schema(kind).names)
    assert set(SCHEMA.names) <= names
    extra = {"detection": "polygons", "rotated": "difficult", "segmentation": "mask"}
    assert kind not in extra or extra[kind] in names


def test_sample_ids_follow_the_shards(tmp_path: Path) -> None:
    uri = write_dataset(tmp_path / "data", {"train": [5, 3, 4], "val": [2]})
    dataset = open_dataset(uri, "train")
    assert len(dataset) == 12
    assert [dataset.locate(n) for n in (0, 4, 5, 7, 8, 11)] == [
        (0, 0),
        (0, 4),
        (1, 0),
        (1, 2),
        (2, 0),
        (2, 3),
    ]
    assert [dataset[n]["path"] for n in range(12)] == [f"{n % 3}/{n}.jpg" for n in range(12)]
    np.testing.assert_array_equal(dataset.labels, np.arange(12) % 3)
    for number in (-1, 12):
        with pytest.raises(IndexError):
            dataset[number]


def test_a_local_path_stands_in_for_the_shard(tmp_path: Path) -> None:
    uri = write_dataset(tmp_path / "data", {"train": [5, 3]})
    asked = []

    def fetch(shard_uri: str, info: object) -> Path:
        asked.append((shard_uri, info))
        return Path(shard_uri)

    dataset = open_dataset(uri, "train", local_path=fetch)
    assert dataset[6]["path"] == "0/6.jpg"
    assert asked == [(f"{uri}/train/shard-00001.arrow", dataset.shards[1])]


def test_a_remote_shard_needs_a_local_path(tmp_path: Path, s3_uri: str) -> None:
    from itpn_ray.storage import open_store

    folder = Path(write_dataset(tmp_path / "data", {"train": [5]}))
    store = open_store(s3_uri)
    for path in folder.rglob("*.*"):
        store.write_bytes(path.relative_to(folder).as_posix(), path.read_bytes())
    dataset = open_dataset(s3_uri, "train")
    np.testing.assert_array_equal(dataset.labels, np.arange(5) % 3)
    with pytest.raises(DataError, match="is remote"):
        dataset[0]


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ("no manifest", "not a finished prepared data set"),
        ("not JSON", "damaged"),
        ("not an object", "damaged"),
        ("another version", "reads version 1"),
        ("a key less", "damaged"),
        ("rows that do not add up", "do not add up"),
        ("another kind", "unknown kind"),
        ("a shard outside", "outside its folder"),
        ("counts of other classes", "counts 2 classes"),
        ("a shard is missing", "is missing"),
        ("a shard is cut", "should have"),
        ("another split", "has train"),
    ],
)
def test_a_damaged_data_set_is_told(tmp_path: Path, change: str, cause: str) -> None:
    folder = Path(write_dataset(tmp_path / "data", {"train": [5, 3]}))
    path = folder / MANIFEST
    found = json.loads(path.read_text())
    train, split = found["splits"]["train"], "train"
    shard = folder / "train/shard-00001.arrow"
    if change == "another version":
        found["schema_version"] = 2
    elif change == "a key less":
        del train["origin"]
    elif change == "rows that do not add up":
        train["count"] = 9
    elif change == "another kind":
        found["kind"] = "video"
    elif change == "a shard outside":
        train["shards"][0]["file"] = "../secret"
    elif change == "counts of other classes":
        train["class_counts"] = [4, 4]
    elif change == "a shard is missing":
        shard.unlink()
    elif change == "a shard is cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif change == "another split":
        split = "val"
    text = {"not JSON": "{", "not an object": "[]"}.get(change, json.dumps(found))
    path.write_text(text)
    if change == "no manifest":
        path.unlink()
    with pytest.raises(DataError, match=cause) as caught:
        open_dataset(str(folder), split)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [None, 3])
def test_a_damaged_index_is_told(tmp_path: Path, rows: int | None) -> None:
    folder = Path(write_dataset(tmp_path / "data", {"train": [5]}))
    index = folder / "train/index.arrow"
    if rows is None:
        index.write_bytes(b"")
    else:
        other = Path(write_dataset(tmp_path / "other", {"train": [rows]}))
        index.write_bytes((other / "train/index.arrow").read_bytes())
    with pytest.raises(DataError, match=r"index\.arrow"):
        _ = open_dataset(str(folder), "train").labels


def test_the_manifest_comes_back_equal(tmp_path: Path) -> None:
    uri = write_dataset(tmp_path / "data", {"train": [5], "val": [2]})
    manifest = read_manifest(uri)
    changed = dataclasses.replace(manifest, classes=("ä", "b", "日本"))
    (Path(uri) / MANIFEST).write_text(changed.to_json())
    assert read_manifest(uri) == changed
