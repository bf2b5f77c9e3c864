"""What a manifest may say, and shards that are not what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.data.store.manifest import MANIFEST, read_manifest
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import DataError
from tests.data.made import write_dataset


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return Path(write_dataset(tmp_path / "set", {"train": [5, 5], "val": [3]}))


def changed(data: Path, change: Callable[[dict[str, Any]], object]) -> str:
    path = data / MANIFEST
    found = json.loads(path.read_text())
    change(found)
    path.write_text(json.dumps(found))
    return str(data)


def shard(found: dict[str, Any]) -> dict[str, Any]:
    return found["splits"]["train"]["shards"][0]


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "kind": (lambda m: m.update(kind=5), "kind is of the type int"),
    "unknown kind": (lambda m: m.update(kind="cats"), "unknown kind 'cats'"),
    "class": (
        lambda m: m.update(classes=["a", None, "c"]),
        r"classes\[1\] is of the type Non",
    ),
    "half a character": (lambda m: m.update(classes=["a", "\ud800", "c"]), "surrogates"),
    "field": (lambda m: m.update(extra=1), "extra is no field"),
    "missing": (lambda m: m.pop("plan"), "plan"),
    "count": (lambda m: m["splits"]["val"].update(count="3"), "count is of the type str"),
    "sum": (lambda m: m["splits"]["val"].update(count=4), "do not add up to 4"),
    "rows": (lambda m: shard(m).update(rows=-5), "do not add up"),
    "bytes": (lambda m: shard(m).update(bytes=-1), "no possible size"),
    "truth": (lambda m: shard(m).update(bytes=True), "bytes is of the type bool"),
    "digest": (lambda m: shard(m).update(sha256="../../x"), "no possible size or digest"),
    "place": (lambda m: shard(m).update(file="../x"), "outside its folder"),
    "split": (lambda m: m["splits"].update({"../x": m["splits"]["val"]}), "outside its folder"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_manifest_that_cannot_be_is_told_with_its_field(data: Path, name: str) -> None:
    change, told = CHANGES[name]
    with pytest.raises(DataError, match=told):
        read_manifest(changed(data, change))


@pytest.mark.parametrize("text", ["", "[", "[]", "null", "[" * 100_000])
def test_a_manifest_that_is_none(data: Path, text: str) -> None:
    (data / MANIFEST).write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_manifest(str(data))


def test_a_shard_with_other_rows_or_columns_is_refused(data: Path) -> None:
    def swap(found: dict[str, Any]) -> None:
        found["splits"]["train"]["shards"][0]["rows"] = 4
        found["splits"]["train"]["shards"][1]["rows"] = 6

    dataset = open_dataset(changed(data, swap), "train")
    with pytest.raises(DataError, match="should have 4 rows"):
        dataset.shard(0)
    index = (data / "train/index.arrow").read_bytes()
    (data / "train/shard-00001.arrow").write_bytes(index)
    with pytest.raises(DataError, match="its columns are label, width, height"):
        dataset.shard(1)
