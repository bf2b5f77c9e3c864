"""The plan of a preparation: which images go into which shard, in which order.

The plan depends on the listing and the settings alone, never on the machine. It is written out as
one small Arrow file a shard, so that a worker reads its own part only, and its digest tells whether
a shard that is there already is the one that would be made now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.schema import SCHEMA_VERSION
from itpn_ray.data.sources.base import Annotations, Listing

# Bytes taken for an image whose size the listing does not know.
_USUAL_SIZE = 200_000
_SHAPING = ("max_side", "quality", "max_pixels", "shard_rows", "shard_mb", "seed", "holdout")
_TILING = ("tile", "tile_gap")


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to be made.

    Attributes:
        split: its split.
        index: its number in the split.
        images: rows of the listing in it.
        path: file with these rows.
        digest: SHA-256 of the rows and the settings.
        objects: in its images.
        problems: (path, reason) of objects that were left out.
    """

    split: str
    index: int
    images: int
    path: Path
    digest: str
    objects: int
    problems: tuple[tuple[str, str], ...]


def settings_of(config: PrepareConfig, kind: str) -> dict[str, object]:
    """The settings that shape shards of a kind."""
    names = (*_SHAPING, *(_TILING if kind == "rotated" else ()))
    return {name: getattr(config, name) for name in names}


def plan_shards(listing: Listing, config: PrepareConfig, scratch: Path) -> Iterator[ShardPlan]:
    """Cut every split into shards of about equal rows; train in random order, others as listed.

    Args:
        listing: all images.
        config: the settings.
        scratch: a folder for the plans, one small file a shard.
    """
    # All that shapes a shard: a change of any makes it anew.
    shaping = [SCHEMA_VERSION, listing.kind, listing.classes, settings_of(config, listing.kind)]
    settings = json.dumps(shaping + ([asdict(listing.masks)] if listing.masks else []))
    listed: list[Annotations] = []
    for split, table in listing.splits.items():
        # Shuffled once here, so that every window of shards holds images of all classes.
        if split == "train":
            table = table.take(pa.array(_random_order(table, config.seed)))
        edges = _edges(table, config)
        # What is held out shares the annotations of train, whose problems are listed once.
        annotations = listing.annotations.get(split)
        again = any(annotations is other for other in listed)
        listed += [annotations] if annotations is not None else []
        for index, (rows, problems) in enumerate(_pieces(listing, split, table, edges, scratch)):
            # One chunk: how the table was cut must not change its bytes, and so the digest.
            data = to_bytes(rows.combine_chunks())
            path = scratch / f"{split}-{index:05d}.arrow"
            path.write_bytes(data)
            # The settings in front: the same rows under other rules are another shard.
            digest = hashlib.sha256(f"{settings} {split} {index}".encode() + data)
            yield ShardPlan(
                split=split,
                index=index,
                images=rows.num_rows,
                path=path,
                digest=digest.hexdigest(),
                objects=_count_objects(rows),
                problems=() if again else tuple(problems),
            )


def to_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(data: bytes) -> pa.Table:
    """The inverse of `to_bytes`."""
    return pa.ipc.open_file(pa.BufferReader(data)).read_all()


def _pieces(
    listing: Listing, split: str, table: pa.Table, edges: Sequence[int], scratch: Path
) -> Iterator[tuple[pa.Table, list[tuple[str, str]]]]:
    """The rows of each shard, with the columns of their objects, and objects left out."""
    if split in listing.annotations:
        yield from listing.annotations[split].join(table, edges, scratch)
    else:
        for start, stop in pairwise(edges):
            yield table.slice(start, stop - start), []


def _count_objects(rows: pa.Table) -> int:
    if "classes" not in rows.column_names:
        return 0
    # `flatten` respects the offsets of a slice, so only this shard's objects count.
    return sum(len(chunk.flatten()) for chunk in rows.column("classes").chunks)


def _random_order(table: pa.Table, seed: int) -> NDArray[np.int64]:
    """A permutation of the rows; rows of a group stay together, in their order."""
    # Apart from the held-out images, whose draws are seeded [seed, 0].
    rng = np.random.default_rng([seed, 1])
    if "group" not in table.column_names:
        return rng.permutation(table.num_rows)
    # Rows of a tar or a row group are read together, see `sources.base`: they stay together.
    groups = table.column("group").to_numpy()
    # Whole groups change places; argsort by their new places keeps the rows inside in order.
    place = rng.permutation(int(groups.max()) + 1)
    return np.argsort(place[groups], kind="stable")


def _edges(table: pa.Table, config: PrepareConfig) -> list[int]:
    """First row of each shard, and the end: as many as rows and bytes demand, of equal length."""
    rows = table.num_rows
    sizes = table.column("size").to_numpy()
    # A size below zero is unknown until the file is read.
    total = int(np.where(sizes < 0, _USUAL_SIZE, sizes).sum())
    # Rounded up by both limits, so that neither is passed.
    count = max(-(-rows // config.shard_rows), -(-total // (config.shard_mb << 20)))
    # No more shards than rows: none would be empty.
    edges: list[int] = np.linspace(0, rows, min(count, rows) + 1).astype(int).tolist()
    return edges
