"""Images with several labels: every form in which they are written gives the same data."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from itpn_ray.data.config import LoaderConfig, PreviewConfig
from itpn_ray.data.doctor.fault_list import FaultList
from itpn_ray.data.doctor.prepared import doctor
from itpn_ray.data.loading.crop_loader import EvalLoader
from itpn_ray.data.loading.preview import preview_images
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.store.manifest import INDEX
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError, DataError
from tests.data.made_files import config
from tests.data.made_labels import COLOURS, write_labelled, write_multilabel

COUNT = 10
Rows = list[tuple[str, list[str]]]


def separated(root: Path, rows: Rows) -> tuple[Path, dict[str, Any]]:
    """A column of labels, separated."""
    lines = [f"{name};{' | '.join([*labels, *labels[:1]])}" for name, labels in rows]
    (root / "list.csv").write_text("\n".join(["file name;Tags", *lines]))
    return root / "list.csv", {"label_separator": "|"}


def named_column(root: Path, rows: Rows) -> tuple[Path, dict[str, Any]]:
    """A column of another name, in quotes as its separator delimits the table too."""
    lines = [f'{name},"{",".join(labels)}",x' for name, labels in rows]
    (root / "list.csv").write_text("\n".join(["image,Finding,other", *lines]))
    return root / "list.csv", {"label_separator": ",", "label_columns": ("Finding",)}


def flags(root: Path, rows: Rows) -> tuple[Path, dict[str, Any]]:
    """A column a class."""
    lines = [
        "\t".join([name, *(str(int(colour in labels)) for colour in COLOURS)])
        for name, labels in rows
    ]
    (root / "list.tsv").write_text("\n".join(["\t".join(["path", *COLOURS]), *lines]))
    return root / "list.tsv", {"label_columns": COLOURS}


def metadata(root: Path, rows: Rows) -> tuple[Path, dict[str, Any]]:
    """Hugging Face's folder of images."""
    lines = [json.dumps({"file_name": name, "labels": labels}) for name, labels in rows]
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return root, {}


def parquet(root: Path, columns: dict[str, Any], rows: Rows, **metadata: str) -> Path:
    """A Parquet file of the images, in a folder of its own."""
    images = [(root / name).read_bytes() for name, _ in rows]
    folder = root.parent / "parquet"
    folder.mkdir()
    table = pa.table({"image": images, **columns}).replace_schema_metadata(metadata)
    pq.write_table(table, folder / "all.parquet", row_group_size=4)
    return folder


def parquet_lists(root: Path, rows: Rows) -> tuple[Path, dict[str, Any]]:
    """Lists of words."""
    column = pa.array([labels for _, labels in rows], pa.list_(pa.string()))
    return parquet(root, {"labels": column}, rows), {}


def parquet_numbers(root: Path, rows: Rows) -> tuple[Path, dict[str, Any]]:
    """Lists of numbers, whose names Hugging Face's library wrote."""
    numbers = [[COLOURS.index(label) for label in labels] for _, labels in rows]
    feature = {"feature": {"names": list(COLOURS), "_type": "ClassLabel"}, "_type": "List"}
    written = json.dumps({"info": {"features": {"labels": feature}}})
    columns = {"labels": pa.array(numbers, pa.list_(pa.int64()))}
    return parquet(root, columns, rows, huggingface=written), {}


def parquet_flags(root: Path, rows: Rows) -> tuple[Path, dict[str, Any]]:
    """A column a class."""
    columns = {colour: [colour in labels for _, labels in rows] for colour in COLOURS}
    return parquet(root, columns, rows), {"label_columns": COLOURS}


def parquet_text(root: Path, rows: Rows) -> tuple[Path, dict[str, Any]]:
    """Text with a separator."""
    return parquet(root, {"tags": [" ".join(labels) for _, labels in rows]}, rows), {
        "label_separator": " "
    }


FORMS = (
    *(separated, named_column, flags, metadata),
    *(parquet_lists, parquet_numbers, parquet_flags, parquet_text),
)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_every_form_gives_the_same_labels(
    form: Callable[[Path, Rows], tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    rows = write_labelled(tmp_path / "raw", COUNT)
    source, options = form(tmp_path / "raw", rows)
    said: list[str] = []
    manifest = prepare(config(source, tmp_path / "out", **options), say=said.append)
    assert (manifest.kind, manifest.classes) == ("multilabel", COLOURS)
    assert sum(split.count for split in manifest.splits.values()) == COUNT
    assert any("2 of 10 images have no label" in line for line in said)
    for name, split in manifest.splits.items():
        dataset = open_dataset(str(tmp_path / "out"), name)
        shown = dataset.multi_hot(np.arange(len(dataset)))
        assert split.class_counts == tuple(shown.sum(0).tolist())
        for number in range(len(dataset)):
            row = dataset[number]
            bright = np.asarray(Image.open(io.BytesIO(row["image"]))).mean((0, 1)) > 120  # R, G, B
            assert shown[number].tolist() == bright[::-1].astype(int).tolist()
            assert np.flatnonzero(shown[number]).tolist() == row["labels"]
            assert row["label"] == -1


def test_a_list_of_classes_gives_the_order(tmp_path: Path) -> None:
    source, options = separated(tmp_path / "raw", write_labelled(tmp_path / "raw", COUNT))
    (tmp_path / "classes.txt").write_text("red\npurple\ngreen\nblue\n")
    classes = str(tmp_path / "classes.txt")
    manifest = prepare(config(source, tmp_path / "out", classes=classes, **options))
    assert manifest.classes == ("red", "purple", "green", "blue")
    assert sum(split.class_counts[1] for split in manifest.splits.values()) == 0
    (tmp_path / "classes.txt").write_text("red\ngreen\n")
    with pytest.raises(DataError, match=r"line 3: .*'blue' is none of the 2 classes"):
        prepare(config(source, tmp_path / "other", classes=classes, **options))


def test_batches_carry_the_labels(tmp_path: Path) -> None:
    data = open_dataset(write_multilabel(tmp_path, train=11, val=5), "val")
    loader = EvalLoader(
        data, LoaderConfig(transport="threads", threads=1), image_size=32, batch=4, world=2, rank=1
    )
    batches = list(loader)
    loader.close()
    ids = np.concatenate([batch["sample_id"].numpy() for batch in batches])
    labels = np.concatenate([batch["labels"].numpy() for batch in batches])
    assert labels.dtype == np.uint8
    assert labels.tolist() == data.multi_hot(ids).tolist()
    assert all((batch["label"] == -1).all() for batch in batches)


def test_doctor_and_preview_know_them(tmp_path: Path) -> None:
    shards = write_multilabel(tmp_path, train=11, val=5)
    with FaultList(tmp_path / "faults.csv") as faults:
        health = doctor(shards, faults)
    assert health.sound
    assert any("multilabel, 3 classes" in line for line in health.lines())
    few = PreviewConfig(images=8, image_size=32)
    captions = [image.caption for image in preview_images(shards, few, None)]
    assert any(caption.startswith("blue, green, ") for caption in captions)


def test_an_index_that_names_unknown_classes_is_damaged(tmp_path: Path) -> None:
    shards = Path(write_multilabel(tmp_path, train=11, val=5))
    path = shards / "val" / INDEX
    table = pa.ipc.open_file(path).read_all()
    wrong = pa.array([[7]] * len(table), pa.list_(pa.int32()))
    table = table.set_column(3, table.schema.field("labels"), wrong)
    with pa.ipc.new_file(path, table.schema) as out:
        out.write_table(table)
    with pytest.raises(DataError, match="names unknown classes"):
        open_dataset(str(shards), "val").multi_hot(np.arange(2))


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"label_columns": ("cat",)}, "is one class alone"),
        ({"label_columns": ("cat", "cat")}, "names a column twice"),
        ({"label_columns": ("a", "b"), "label_separator": "|"}, "several columns are named"),
        ({"label_columns": ("a", "b"), "classes": "c.txt"}, "are the classes"),
        ({"label_separator": "|", "unlabelled": True}, "leaves no labels"),
    ],
)
def test_settings_that_contradict_each_other(fields: dict[str, Any], cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        PrepareConfig(source="a", out="b", **fields)


@pytest.mark.parametrize(
    ("text", "fields", "cause"),
    [
        ("path,dog,cat\n000.jpg,1,0\n001.jpg,0,-1", {"label_columns": ("dog", "cat")}, "line 3"),
        ("path,dog\n000.jpg,1", {"label_columns": ("dog", "cat")}, "one column called 'cat'"),
        ("path,breed\n000.jpg,a", {"label_separator": "|"}, "one column called label"),
        ("path,label\n000.jpg,\n001.jpg,", {"label_separator": "|"}, "gives no image a label"),
    ],
)
def test_lists_that_cannot_be_understood(
    text: str, fields: dict[str, Any], cause: str, tmp_path: Path
) -> None:
    write_labelled(tmp_path / "raw", 2)
    (tmp_path / "raw/list.csv").write_text(text)
    with pytest.raises(DataError, match=cause):
        prepare(config(tmp_path / "raw/list.csv", tmp_path / "out", **fields))
    assert not (tmp_path / "out").exists()


def test_lists_in_some_lines_only(tmp_path: Path) -> None:
    write_labelled(tmp_path / "raw", 2)
    lines = [{"file_name": "000.jpg", "label": ["a"]}, {"file_name": "001.jpg", "label": "b"}]
    (tmp_path / "raw/metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(DataError, match="a list of labels in some lines"):
        prepare(config(tmp_path / "raw", tmp_path / "out"))


def test_folders_have_no_columns(tmp_path: Path) -> None:
    write_labelled(tmp_path / "raw", 2)
    with pytest.raises(ConfigError, match=r"label_separator.*not used with the format folders"):
        prepare(config(tmp_path / "raw", tmp_path / "out", label_separator="|"))
