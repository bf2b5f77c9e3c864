"""The plan of a preparation: which pictures go into which shard, in which order.

The plan depends on the listing and the settings alone, never on the machine. It is written out as
one small Arrow file a shard, so that a worker reads its own part only, and its digest tells whether
a shard that is there already is the one that would be made now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data.prepare_config import PrepareConfig
from itpn_ray.data.schema import SCHEMA_VERSION
from itpn_ray.data.sources.base import Listing

_SHAPING = ("max_side", "quality", "max_pixels", "shard_rows", "shard_mb", "seed", "holdout")


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """One shard to be made: its rows of the listing, and a digest of them and the settings."""

    split: str
    index: int
    rows: pa.Table
    digest: str

    @property
    def name(self) -> str:
        """Name of the shard, without suffix."""
        return f"shard-{self.index:05d}"


def settings_of(config: PrepareConfig) -> dict[str, object]:
    """The settings that shape shards."""
    return {name: getattr(config, name) for name in _SHAPING}


def hold_out(listing: Listing, share: float, seed: int) -> Listing:
    """The listing with a ``val`` split: set aside from train, class by class, where there is none.

    A class of one picture stays in train whole.
    """
    if "val" in listing.splits or "train" not in listing.splits:
        return listing
    train = listing.splits["train"]
    labels = train.column("label").to_numpy()
    rng = np.random.default_rng([seed, 0])
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(share * len(members))), len(members) - 1)
        held[members[:count]] = True
    splits = {**listing.splits, "train": train.filter(~held), "val": train.filter(held)}
    origin = f"{share:.3g} of each class of {listing.origins['train']}, by seed {seed}"
    origins = {**listing.origins, "val": origin}
    return Listing(
        kind=listing.kind,
        classes=listing.classes,
        class_ids=listing.class_ids,
        splits={name: splits[name] for name in ("train", "val", "test") if name in splits},
        origins=origins,
        skipped=listing.skipped,
    )


def plan_shards(listing: Listing, config: PrepareConfig) -> Iterator[ShardPlan]:
    """Cut every split into shards of about equal rows; train in random order, others as listed."""
    settings = json.dumps([SCHEMA_VERSION, listing.kind, listing.classes, settings_of(config)])
    for split, table in listing.splits.items():
        if split == "train":
            rng = np.random.default_rng([config.seed, 1])
            table = table.take(pa.array(rng.permutation(table.num_rows)))
        for index, (start, stop) in enumerate(_cuts(table, config)):
            rows = table.slice(start, stop - start).combine_chunks()
            digest = hashlib.sha256(settings.encode())
            digest.update(f"{split} {index}".encode())
            digest.update(to_bytes(rows))
            yield ShardPlan(split=split, index=index, rows=rows, digest=digest.hexdigest())


def to_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow IPC file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_bytes(data: bytes) -> pa.Table:
    """The inverse of `to_bytes`."""
    return pa.ipc.open_file(pa.BufferReader(data)).read_all()


def _cuts(table: pa.Table, config: PrepareConfig) -> Iterator[tuple[int, int]]:
    """Row ranges of the shards: as many as rows and bytes demand, of equal length."""
    rows = table.num_rows
    total = int(np.sum(table.column("size").to_numpy()))
    count = max(-(-rows // config.shard_rows), -(-total // (config.shard_mb << 20)))
    edges: NDArray[np.int64] = np.linspace(0, rows, min(count, rows) + 1).astype(np.int64)
    yield from zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
