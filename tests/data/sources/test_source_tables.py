from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources.detect import detect
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import DataError
from tests.data.made_files import config, image_bytes, prepared, write_folders

WNIDS = ("n01440764", "n01443537", "n01484850")


def labels_of(rows: dict[str, list[dict[str, Any]]], split: str) -> dict[str, int]:
    return {row["path"]: row["label"] for row in rows[split]}


# Parquet


def parquet(
    path: Path,
    count: int,
    first: int,
    *,
    form: str = "hugging face",
    group: int = 4,
    column: str = "image",
) -> None:
    data = [image_bytes(first + number) for number in range(count)]
    labels: list[Any] = [number % 3 for number in range(count)]
    metadata = {}
    images: list[Any] = list(data)
    if form == "hugging face":
        images = [{"bytes": value, "path": None} for value in data]
        features = {"label": {"names": ["tench", "goldfish", "shark"], "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    if form == "words":
        labels = [("tench", "goldfish", "shark")[label] for label in labels]
    table = pa.table({column: images, "label": labels}).replace_schema_metadata(metadata)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)


@pytest.mark.parametrize(
    ("form", "classes"),
    [
        ("hugging face", ("tench", "goldfish", "shark")),
        ("numbers", ("0", "1", "2")),
        ("words", ("goldfish", "shark", "tench")),
    ],
)
def test_parquet(tmp_path: Path, form: str, classes: tuple[str, ...]) -> None:
    raw = tmp_path / "raw"
    parquet(raw / "data/train-00000-of-00002.parquet", 10, 0, form=form)
    parquet(raw / "data/train-00001-of-00002.parquet", 7, 20, form=form)
    parquet(raw / "data/validation-00000-of-00001.parquet", 5, 40, form=form)
    assert detect(str(raw)) == "parquet"
    rows = prepared(raw, tmp_path / "out")
    assert read_manifest(str(tmp_path / "out")).classes == classes
    assert [row["image"] for row in rows["val"]] == [image_bytes(40 + n) for n in range(5)]
    expected = {image_bytes(n): n % 3 for n in range(10)}
    expected |= {image_bytes(20 + n): n % 3 for n in range(7)}
    names = ("tench", "goldfish", "shark") if form != "numbers" else ("0", "1", "2")
    assert {row["image"]: classes[row["label"]] for row in rows["train"]} == {
        image: names[label] for image, label in expected.items()
    }


@pytest.mark.parametrize("column", ["img", "jpg", "picture", "bytes"])
def test_the_images_of_parquet_lie_in_a_column_of_any_usual_name(
    tmp_path: Path, column: str
) -> None:
    parquet(tmp_path / "raw/train.parquet", 4, 0, column=column)
    parquet(tmp_path / "raw/val.parquet", 2, 9, column=column)
    rows = prepared(tmp_path / "raw", tmp_path / "out")
    assert {split: len(found) for split, found in rows.items()} == {"train": 4, "val": 2}


def test_parquet_holds_out_and_lists_empty_rows(tmp_path: Path) -> None:
    path = tmp_path / "raw/all.parquet"
    parquet(path, 30, 0, form="numbers", group=30)
    table = pq.read_table(path)
    images = table.column("image").to_pylist()
    images[7] = None
    pq.write_table(table.set_column(0, "image", pa.array(images)), path)
    rows = prepared(path, tmp_path / "out", holdout=0.2)
    assert sum(map(len, rows.values())) == 29
    assert len({row["image"] for part in rows.values() for row in part}) == 29
    assert "all.parquet#0.7,the row has no image" in (tmp_path / "out/quarantine.csv").read_text()


def test_parquet_test_rows_without_labels_are_left_out(tmp_path: Path) -> None:
    raw = tmp_path / "raw/default"
    parquet(raw / "train/0000.parquet", 6, 0)
    parquet(raw / "test/0000.parquet", 4, 10)
    table = pq.read_table(raw / "test/0000.parquet")
    nothing = table.set_column(1, "label", pa.array([-1] * 4))
    pq.write_table(nothing, raw / "test/0000.parquet")
    assert detect(str(tmp_path / "raw")) == "parquet"
    manifest = prepare(config(tmp_path / "raw", tmp_path / "out"))
    assert set(manifest.splits) == {"train", "val"}
    assert "4 images without labels" in (tmp_path / "out/quarantine.csv").read_text()
    nothing = table.set_column(1, "label", pa.array([None] * 4, pa.int64()))
    pq.write_table(nothing, raw / "train/0000.parquet")
    with pytest.raises(DataError, match="4 of 4 images have no label"):
        prepare(config(tmp_path / "raw", tmp_path / "other"))


def test_parquet_of_another_kind_is_told(tmp_path: Path) -> None:
    path = tmp_path / "raw/all.parquet"
    path.parent.mkdir()
    pq.write_table(pa.table({"text": ["a", "b"], "label": [0, 1]}), path)
    with pytest.raises(DataError, match="no column named image"):
        prepare(config(path, tmp_path / "out"))
    path.write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match="not a whole Parquet file"):
        prepare(config(path, tmp_path / "out"))


# CSV


def write_list(root: Path, header: str, lines: list[str]) -> Path:
    path = root / "list.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def test_csv_list(tmp_path: Path) -> None:
    written = write_folders(tmp_path, {"a": 4, "b": 4})
    lines = [f"{path},{('cat', 'dog')[n % 2]},train" for n, path in enumerate(written)]
    lines[-1] = f"{tmp_path}/b/003.jpg,dog,validation"
    path = write_list(tmp_path, "path,label,split", lines)
    rows = prepared(path, tmp_path.parent / f"{tmp_path.name}-out")
    assert [(row["path"], row["label"]) for row in rows["val"]] == [(f"{tmp_path}/b/003.jpg", 1)]
    assert labels_of(rows, "train") == {
        path: n % 2 for n, path in enumerate(written) if path != "b/003.jpg"
    }


@pytest.mark.parametrize(
    "column", ["Image", "img", "picture", "photo", "picture_path", "file name"]
)
def test_the_images_of_a_table_lie_in_a_column_of_any_usual_name(
    tmp_path: Path, column: str
) -> None:
    written = write_folders(tmp_path / "raw", {"a": 3, "b": 3})
    path = write_list(tmp_path / "raw", f"class,{column}", [f"{p[0]},{p}" for p in written])
    rows = prepared(path, tmp_path / "out", holdout=0.5)
    assert sorted(row["path"] for found in rows.values() for row in found) == sorted(written)


def test_csv_without_labels_and_with_missing_files(tmp_path: Path) -> None:
    written = write_folders(tmp_path, {"a": 6})
    path = write_list(tmp_path, "path", [*written, "a/missing.jpg"])
    out = tmp_path.parent / f"{tmp_path.name}-out"
    rows = prepared(path, out, max_broken=0.2)
    assert sum(map(len, rows.values())) == 6
    assert "a/missing.jpg,the file is gone" in (out / "quarantine.csv").read_text()


@pytest.mark.parametrize(
    ("header", "lines", "cause"),
    [
        ("url,class", ["a,b"], "has no column 'path'"),
        ("path,label", [], "lists no images"),
        ("path,label", ["a.jpg,0", "b.jpg"], "line 3"),
        ("path,label,split", ["a.jpg,0,train", "b.jpg,1,spare"], "is no split"),
        ("path,label", ["a.jpg,0", "b.jpg,0"], "one class"),
    ],
)
def test_a_bad_csv_is_told(tmp_path: Path, header: str, lines: list[str], cause: str) -> None:
    path = write_list(tmp_path, header, lines)
    with pytest.raises(DataError, match=cause):
        prepare(config(path, tmp_path.parent / "out"))
