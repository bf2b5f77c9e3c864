"""The same encoded images in the format that each input pipeline reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa

from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.schema import INDEX_SCHEMA, shard_schema
from itpn_ray.data.store.manifest import INDEX, MANIFEST, Manifest, ShardInfo, SplitInfo
from itpn_ray.data.store.shards import ShardedDataset, ShardWriter, open_dataset
from itpn_ray.data.synthetic.layouts import generate

SHARD_ROWS = 512
MAX_SIDE = 512
Row = tuple[bytes, int, int, int]
"""Encoded image, label, width, height."""


def write_formats(folder: Path, source: Path | None, count: int, formats: list[str]) -> None:
    """Write ``count`` images in each format that is not there yet.

    Args:
        folder: a subfolder is made for each format.
        source: a folder of JPEGs in ImageNet layout, repeated as often as needed; None: images
            drawn by this project.
        count: images.
        formats: names in ``WRITERS``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seed = folder / "seed"
    if not (seed / MANIFEST).exists():
        if source is None:
            source = folder / "drawn"
            generate(SynthesizeConfig(out=str(source), train=min(count, 512), val=2, side=440))
        prepare(PrepareConfig(source=str(source), out=str(seed), max_side=MAX_SIDE, num_workers=0))
    dataset = open_dataset(str(seed), "train")
    for name in formats:
        out = folder / f"{name}-{count}"
        if out.exists():
            continue
        shutil.rmtree(folder / "part", ignore_errors=True)
        (folder / "part").mkdir()
        WRITERS[name](folder / "part", dataset, count)
        (folder / "part").rename(out)


def rows(dataset: ShardedDataset, count: int) -> Iterator[Row]:
    """``count`` rows, from the beginning again where there are fewer."""
    for position in range(count):
        row = dataset[position % len(dataset)]
        yield row["image"], row["label"], row["width"], row["height"]


def write_files(out: Path, dataset: ShardedDataset, count: int) -> None:
    """One file an image, a folder a class."""
    for number, (image, label, _, _) in enumerate(rows(dataset, count)):
        folder = out / f"{label:05d}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:08d}.jpg").write_bytes(image)


def write_arrow(out: Path, dataset: ShardedDataset, count: int) -> None:
    """The shards of this project."""
    (out / "train").mkdir()
    shards, index = [], []
    source = rows(dataset, count)
    for number in range(-(-count // SHARD_ROWS)):
        path = out / "train" / f"shard-{number:05d}.arrow"
        with path.open("wb") as file, ShardWriter(file, shard_schema("classification")) as writer:
            for _ in range(min(SHARD_ROWS, count - number * SHARD_ROWS)):
                image, label, width, height = next(source)
                known = {"label": label, "width": width, "height": height}
                writer.append({"image": image, "path": str(len(index)), **known})
                index.append(known)
        shards.append(
            ShardInfo(file=path.name, rows=writer.rows, bytes=writer.bytes, sha256=writer.sha256)
        )
    with pa.ipc.new_file(out / "train" / INDEX, INDEX_SCHEMA) as file:
        file.write_table(pa.Table.from_pylist(index, INDEX_SCHEMA))
    counts = np.bincount([row["label"] for row in index], minlength=len(dataset.classes))
    split = SplitInfo(
        count=count, class_counts=tuple(counts.tolist()), shards=tuple(shards), origin="benchmark"
    )
    manifest = Manifest(
        kind="classification",
        classes=dataset.classes,
        splits={"train": split},
        channel_mean=(0.0,) * 3,
        channel_std=(1.0,) * 3,
        quarantined=0,
        settings={},
        plan="",
    )
    (out / MANIFEST).write_text(manifest.to_json())


def write_tars(out: Path, dataset: ShardedDataset, count: int) -> None:
    """Tar shards as webdataset reads them."""
    source = enumerate(rows(dataset, count))
    for number in range(-(-count // SHARD_ROWS)):
        with tarfile.open(out / f"shard-{number:05d}.tar", "w") as tar:
            for _ in range(min(SHARD_ROWS, count - number * SHARD_ROWS)):
                key, (image, label, _, _) = next(source)
                for suffix, data in (("jpg", image), ("cls", str(label).encode())):
                    info = tarfile.TarInfo(f"{key:08d}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))


def write_mds(out: Path, dataset: ShardedDataset, count: int) -> None:
    """Shards of MosaicML Streaming."""
    from streaming import MDSWriter

    with MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}) as writer:
        for image, label, _, _ in rows(dataset, count):
            writer.write({"image": image, "label": label})


def write_litdata(out: Path, dataset: ShardedDataset, count: int) -> None:
    """Chunks of LitData, written by a process of its own: its workers import the main module."""
    code = "import sys; from benchmarks.lib.input_formats import optimise; optimise(*sys.argv[1:])"
    arguments = [str(out), dataset.uri, str(count)]
    subprocess.run([sys.executable, "-c", code, *arguments], check=True)


def optimise(out: str, uri: str, count: str) -> None:
    """Write LitData's chunks."""
    import litdata

    dataset = open_dataset(uri, "train")
    litdata.optimize(
        fn=_Sample(dataset.uri),
        inputs=[position % len(dataset) for position in range(int(count))],
        output_dir=out,
        chunk_bytes="64MB",
        num_workers=1,
    )


class _Sample:
    """From a row's number to what LitData stores."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __call__(self, row: int) -> dict[str, object]:
        found = open_dataset(self.uri, "train")[row]
        return {"image": found["image"], "label": found["label"]}


WRITERS = {
    "arrow": write_arrow,
    "files": write_files,
    "tars": write_tars,
    "mds": write_mds,
    "litdata": write_litdata,
}
