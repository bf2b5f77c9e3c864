"""Raw images in files and folders, as users have them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.store.shards import open_dataset
from tests.data.made import jpeg, make_image

FOLDERS = {"train/cat": 11, "train/dog": 9, "val/cat": 3, "val/dog": 4}
"""Images in each folder of the usual raw data set."""


def image_bytes(number: int, width: int = 40, height: int = 32) -> bytes:
    """A small JPEG; each number gives another one."""
    return jpeg(make_image(number, width, height))


def write_folders(root: Path, folders: Mapping[str, int], first: int = 0) -> dict[str, bytes]:
    """Write so many images into each folder; path relative to the root -> bytes."""
    written = {}
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = f"{folder}/{number:03d}.jpg" if folder else f"{number:03d}.jpg"
            written[path] = image_bytes(first + len(written))
            (root / path).write_bytes(written[path])
    return written


def config(source: Path | str, out: Path | str, **fields: Any) -> PrepareConfig:
    """A preparation in this process with small shards."""
    return PrepareConfig(
        source=str(source), out=str(out), **{"num_workers": 0, "shard_rows": 8, **fields}
    )


def prepared(source: Path | str, out: Path | str, **fields: Any) -> dict[str, list[dict[str, Any]]]:
    """Prepare and read back: all rows of each split."""
    manifest = prepare(config(source, out, **fields))
    datasets = {split: open_dataset(str(out), split) for split in manifest.splits}
    return {
        split: [dataset[number] for number in range(len(dataset))]
        for split, dataset in datasets.items()
    }


def files(folder: Path) -> dict[str, bytes]:
    """What lies below a folder: path relative to it -> bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
