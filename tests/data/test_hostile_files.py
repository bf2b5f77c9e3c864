"""Damaged files of every kind: each is read, or told as one `DataError`, never otherwise."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itpn_ray.data.annotations.objects import read_objects
from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.doctor.fault_list import FaultList
from itpn_ray.data.doctor.prepared import doctor
from itpn_ray.data.loading.crop_loader import EvalLoader
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.prepare.reencode import ImageRules, RejectedError, reencode
from itpn_ray.data.prepare.teacher_features import write_features
from itpn_ray.data.sources.annotated.coco import CocoSource
from itpn_ray.data.sources.base import Source
from itpn_ray.data.sources.csv_list import CsvList
from itpn_ray.data.sources.folders import FolderSource
from itpn_ray.data.sources.imagenet_tars import DEVKIT, TRAIN, VAL, ImageNetTars
from itpn_ray.data.sources.lists import read_classes, read_labels
from itpn_ray.data.sources.parquet.source import ParquetSource
from itpn_ray.data.sources.webdataset import WebDataset
from itpn_ray.data.store.manifest import INDEX, MANIFEST, QUARANTINE
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.store.teacher_features import Features, read_features
from itpn_ray.errors import DataError
from tests.data.made import write_dataset
from tests.data.made_coco import item, write_coco
from tests.data.made_files import config, image_bytes, write_folders
from tests.data.sources.test_source_tables import parquet, write_list
from tests.data.sources.test_sources import LISTS, devkit, flat_val, official, tar
from tests.data.store.test_teacher_features import make_job

RULES = ImageRules(max_side=None, quality=90, max_pixels=2**20)
LOADER = LoaderConfig(transport="threads", threads=1, prefetch=4)

Edit = tuple[float, str, bytes]
"""Where in a file (share of its length), what is done there, and with which bytes."""
TOKENS = [
    b"null",
    b"-1",
    b'"',
    b"{",
    b"[" * 20_000,
    b"1e999",
    b"\\ud800",
    b"\xff\xfe",
    b"\0",
    b"9" * 30,
]
EDITS = st.tuples(
    st.floats(0, 1),
    st.sampled_from(["replace", "insert", "remove", "cut", "repeat"]),
    st.binary(min_size=1, max_size=8) | st.sampled_from(TOKENS),
)


def edited(data: bytes, edits: list[Edit]) -> bytes:
    for share, how, piece in edits:
        at = round(share * len(data))
        before, after = data[:at], data[at:]
        data = {
            "replace": before + piece + after[len(piece) :],
            "insert": before + piece + after,
            "remove": before + after[len(piece) :],
            "cut": before,
            "repeat": before + after[:512] + after,
        }[how]
    return data


def read_source(source: Source) -> None:
    """List a source, and read and decode its images, as preparation does."""
    listing = source.listing()
    for split, table in listing.splits.items():
        edges = [0, table.num_rows]
        if split in listing.annotations:
            list(listing.annotations[split].join(table, edges, Path(tempfile.gettempdir())))
        for data in source.read(table):
            if isinstance(data, bytes):
                try:
                    reencode(data, RULES)
                except RejectedError:
                    continue


def read_prepared(folder: Path) -> None:
    """Read everything that training reads."""
    for split in ("train", "val"):
        dataset = open_dataset(str(folder), split)
        loader = EvalLoader(dataset, LOADER, image_size=32, batch=4, pin=False)
        list(loader)
        for row in range(len(dataset)):
            shard, inside = dataset.locate(row)
            if dataset.manifest.kind == "detection":
                read_objects(dataset.shard(shard), inside)


def read_doctor(folder: Path) -> None:
    with FaultList(folder / "doctor.csv") as faults:
        health = doctor(str(folder), faults, threads=1)
    assert list(health.lines())


def read_teacher(folder: Path) -> None:
    read_features(str(folder / "features"))
    dataset = open_dataset(str(folder / "set"), "val")
    features = Features(str(folder / "features"), dataset, LOADER)
    for view in range(features.views):
        out = features.empty(len(dataset), pin=False)
        features.read(view, torch.arange(len(dataset)).numpy(), out)


def make_webdataset(root: Path) -> None:
    files: dict[str, bytes] = {}
    for n in range(4):
        files[f"{n}.jpg"] = image_bytes(n)
        files[f"{n}.cls"] = str(n % 2).encode()
    for n in range(4, 8):
        files[f"a/caf\u00e9{n}.0.jpg"] = image_bytes(n)
        files[f"a/caf\u00e9{n}.0.json"] = json.dumps({"label": n % 2, "w": 1.5}).encode()
    (root / "train.tar").write_bytes(tar(files))


def make_prepared(root: Path) -> None:
    write_dataset(root, {"train": [5, 4], "val": [3]})


def make_detection(root: Path) -> None:
    raw = write_coco(root.parent / f"{root.name}-raw", [item(n, image_id=10 + n) for n in range(3)])
    prepare(config(raw, root))


def make_teacher(root: Path) -> None:
    data = write_dataset(root / "set", {"train": [3], "val": [3]})
    write_features(make_job(data, root / "features"), workers=0, gpus=False)


def make_csv(root: Path) -> None:
    lines = [f"{path},{'cd'[n % 2]},train" for n, path in enumerate(write_folders(root, {"a": 4}))]
    write_list(root, "path,label,split", lines)


def make_lists(root: Path) -> None:
    flat_val(root)
    (root / "labels.txt").write_text(LISTS["LOC_val_solution.csv"])
    (root / "pairs.txt").write_text(LISTS["pairs.txt"])
    (root / "classes.txt").write_text("0 n01440764 tench\n1 n01443537\n2 n01484850\n")


def read_lists(root: Path) -> None:
    names = sorted(path.name for path in (root / "val").iterdir())
    read_classes(str(root / "classes.txt"))
    read_labels(str(root / "pairs.txt"), names)
    read_source(FolderSource(str(root), False, "", str(root / "labels.txt")))


def make_official(root: Path) -> None:
    root.rmdir()
    official(root)
    devkit(root / DEVKIT)


CASES: dict[str, tuple[Callable[[Path], Any], list[str], Callable[[Path], Any]]] = {
    "webdataset": (make_webdataset, ["train.tar"], lambda r: read_source(WebDataset(str(r)))),
    "parquet": (
        lambda r: parquet(r / "train.parquet", 8, 0),
        ["train.parquet"],
        lambda r: read_source(ParquetSource(str(r))),
    ),
    "imagenet": (make_official, [TRAIN, VAL, DEVKIT], lambda r: read_source(ImageNetTars(str(r)))),
    "csv": (make_csv, ["list.csv"], lambda r: read_source(CsvList(str(r / "list.csv")))),
    "lists": (make_lists, ["labels.txt", "pairs.txt", "classes.txt"], read_lists),
    "coco": (
        lambda r: write_coco(r, [item(1), item(2, image_id=11)]),
        ["annotations/instances_train2017.json"],
        lambda r: read_source(CocoSource(str(r))),
    ),
    "prepared": (make_prepared, [MANIFEST, f"val/{INDEX}", "val/shard-00000.arrow"], read_prepared),
    "detection": (make_detection, [MANIFEST, "train/shard-00000.arrow"], read_prepared),
    "doctor": (
        make_detection,
        [MANIFEST, QUARANTINE, f"val/{INDEX}", "train/shard-00000.arrow"],
        read_doctor,
    ),
    "features": (
        make_teacher,
        [f"features/{MANIFEST}", "features/val/view-0/shard-00000.arrow"],
        read_teacher,
    ),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Gives the folder of a case, whose sound files are written once."""

    @functools.cache
    def make(name: str) -> Path:
        root = tmp_path_factory.mktemp(name)
        CASES[name][0](root)
        return root

    return make


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=25)
@given(data=st.data(), edits=st.lists(EDITS, min_size=1, max_size=3))
def test_damage_is_told_in_one_way(
    made: Callable[[str], Path], name: str, data: st.DataObject, edits: list[Edit]
) -> None:
    _, files, read = CASES[name]
    root = made(name)
    path = root / data.draw(st.sampled_from(files))
    whole, told = path.read_bytes(), ""
    try:
        path.write_bytes(edited(whole, edits))
        read(root)
    except DataError as error:
        told = str(error)
    finally:
        path.write_bytes(whole)
    assert "\n" not in told


@pytest.mark.parametrize("name", CASES)
def test_what_is_sound_is_read(made: Callable[[str], Path], name: str) -> None:
    CASES[name][2](made(name))
