"""Faults of prepared tiles: told by doctor, refused by training, both with file and value."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.data.config import LoaderConfig, RotatedAugmentConfig
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import FaultList
from itpn_ray.data.doctor.prepared import Health, doctor
from itpn_ray.data.loading.rotated_loader import RotatedTrainLoader
from itpn_ray.data.schema import shard_schema
from itpn_ray.data.store.manifest import MANIFEST
from itpn_ray.data.store.shards import ShardWriter, open_dataset
from itpn_ray.errors import DataError
from tests.data.made_dota import PLANE, SHIP, prepared, write_dota


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiles of train, and one of val."""
    folder = tmp_path_factory.mktemp("tiles")
    labels = {"train/P0": [SHIP, PLANE], "train/P1": [SHIP], "val/P2": [SHIP]}
    return Path(prepared(write_dota(folder / "raw", labels), folder / "data"))


def rewritten(sound: Path, target: Path, **changes: Any) -> str:
    """The data set with other values in the columns of the row of P0."""
    shutil.copytree(sound, target)
    manifest = json.loads((target / MANIFEST).read_text())
    (shard,) = manifest["splits"]["train"]["shards"]
    rows = [open_dataset(str(sound), "train")[n] for n in range(2)]
    path = target / "train" / shard["file"]
    with path.open("wb") as out, ShardWriter(out, shard_schema("rotated")) as writer:
        for row in rows:
            writer.append({**row, **changes} if row["path"].endswith("P0.png") else row)
    shard |= {"bytes": writer.bytes, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (target / MANIFEST).write_text(json.dumps(manifest))
    return str(target)


def health_of(data: str, listed: Path) -> tuple[Health, list[dict[str, str]]]:
    with FaultList(str(listed)) as faults:
        health = doctor(data, faults)
    return health, list(csv.DictReader(listed.open()))


def test_sound_tiles(sound: Path, tmp_path: Path) -> None:
    health, rows = health_of(str(sound), tmp_path / "list.csv")
    assert health.sound
    assert rows == []


def corners(*values: float) -> list[list[list[float]]]:
    """The outlines of two objects: these corners, and a sound one."""
    return [[list(values)], [[100.0, 80, 140, 80, 140, 120, 100, 120]]]


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        ({"polygons": corners(1, 1, 9, 9, 5, 5, 3, 3)}, kinds.BOX_WITHOUT_AREA, "area: 1 1 9 9"),
        ({"polygons": corners(1, 1, 9, 1, 9, 9)}, kinds.BOX_NOT_FINITE, "four corners"),
        ({"polygons": corners(1, 1, 9, 1, 9, 9, 1, float("nan"))}, kinds.BOX_NOT_FINITE, ""),
        ({"polygons": [[], [[100.0, 80, 140, 80, 140, 120, 100, 120]]]}, kinds.BOX_NOT_FINITE, ""),
        ({"boxes": [[400.0, 1, 500, 9], [100, 80, 140, 120]]}, kinds.BOX_OUTSIDE, "400, 1"),
        ({"classes": [0, 7]}, kinds.CATEGORY, "a class beyond the 2"),
    ],
)
def test_each_fault_is_told_and_refused(
    sound: Path, tmp_path: Path, changes: dict[str, Any], kind: str, reason: str
) -> None:
    data = rewritten(sound, tmp_path / "set", **changes)
    health, rows = health_of(data, tmp_path / "list.csv")
    assert kind in [row["kind"] for row in rows]
    assert {row["file"] for row in rows} == {"train/images/P0.png"}
    assert any(reason in row["reason"] for row in rows)
    assert health.whole
    assert not health.sound
    loader = RotatedTrainLoader(
        open_dataset(data, "train"),
        LoaderConfig(transport="threads", threads=1, prefetch=4),
        augment=RotatedAugmentConfig(side=64),
        seed=0,
        global_batch=2,
    )
    with pytest.raises(DataError, match=r"P0\.png.*its object"):
        list(loader.epoch(0))
    loader.close()
