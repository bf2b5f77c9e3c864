"""Prepared data sets of images that the tests make themselves."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from itpn_ray.data.schema import INDEX_SCHEMA, shard_schema
from itpn_ray.data.store.manifest import INDEX, MANIFEST, Manifest, ShardInfo, SplitInfo
from itpn_ray.data.store.shards import ShardWriter


def make_image(row: int, width: int, height: int) -> Image.Image:
    """Smooth colours that differ from row to row and from corner to corner."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(x / (7 + row % 5) + row), np.cos(y / (9 + row % 3) + row), np.sin((x + y) / 23)]
    return Image.fromarray(((np.stack(waves, axis=-1) + 1) * 127.5).astype(np.uint8))


def jpeg(image: Image.Image, quality: int = 92, **options: Any) -> bytes:
    """The image as JPEG bytes; ``options`` are those of Pillow's writer."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality, **options)
    return out.getvalue()


def write_split(
    folder: Path, split: str, counts: list[int], classes: int = 3, broken: int | None = None
) -> SplitInfo:
    """Write shards of ``counts`` rows; row ``broken`` holds bytes that are no image."""
    (folder / split).mkdir(parents=True)
    shards, index, row = [], [], 0
    for number, count in enumerate(counts):
        path = folder / split / f"shard-{number:05d}.arrow"
        with path.open("wb") as out, ShardWriter(out, shard_schema("classification")) as writer:
            for _ in range(count):
                width, height = 40 + 7 * (row % 9), 36 + 5 * (row % 7)
                image = b"no image" if row == broken else jpeg(make_image(row, width, height))
                fields = {"label": row % classes, "width": width, "height": height}
                writer.append({"image": image, "path": f"{row % classes}/{row}.jpg", **fields})
                index.append(fields)
                row += 1
        shards.append(
            ShardInfo(file=path.name, rows=count, bytes=writer.bytes, sha256=writer.sha256)
        )
    table = pa.Table.from_pylist(index, INDEX_SCHEMA)
    with pa.ipc.new_file(folder / split / INDEX, INDEX_SCHEMA) as out:
        out.write_table(table)
    labels = np.array([fields["label"] for fields in index])
    return SplitInfo(
        count=row,
        class_counts=tuple(np.bincount(labels, minlength=classes).tolist()),
        shards=tuple(shards),
        origin="made by the test",
    )


def write_dataset(folder: Path, splits: dict[str, list[int]], broken: int | None = None) -> str:
    """Write a prepared data set with the given rows a shard; returns its path."""
    manifest = Manifest(
        kind="classification",
        classes=("a", "b", "c"),
        splits={name: write_split(folder, name, n, broken=broken) for name, n in splits.items()},
        channel_mean=(0.5, 0.5, 0.5),
        channel_std=(0.25, 0.25, 0.25),
        quarantined=0,
        settings={},
        plan="0" * 64,
    )
    (folder / MANIFEST).write_text(manifest.to_json())
    return str(folder)
