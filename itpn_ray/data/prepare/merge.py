"""Gathers the records of all shards into the files that describe the prepared data set."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.plan import settings_of, to_bytes
from itpn_ray.data.prepare.shard_job import ShardRecord
from itpn_ray.data.schema import WITH_OBJECTS, index_schema
from itpn_ray.data.sources.base import Listing
from itpn_ray.data.store.manifest import INDEX, MANIFEST, QUARANTINE, Manifest, SplitInfo
from itpn_ray.errors import DataError
from itpn_ray.storage import ObjectStore

Records = Mapping[tuple[str, int], ShardRecord]


def write_results(
    store: ObjectStore,
    listing: Listing,
    records: Records,
    problems: list[tuple[str, str]],
    config: PrepareConfig,
    plan: str,
) -> Manifest:
    """Write the indices, the quarantine table and, last, the manifest.

    ``problems`` are objects that were left out, for the quarantine table.

    Raises:
        DataError: a split has no usable image at all, or one of detection no usable object.
    """
    ordered = {
        split: [records[key] for key in sorted(records) if key[0] == split]
        for split in listing.splits
    }
    quarantine = [*listing.skipped, *problems]
    for split, parts in ordered.items():
        left_out = [row for part in parts for row in (*part.quarantine, *part.left_out)]
        if not any(part.labels for part in parts):
            path, reason = left_out[0]
            raise DataError(
                "prepare.source",
                config.source,
                f"{split} has no usable image; {path}: {reason}",
                "Check the images",
            )
        if listing.kind in WITH_OBJECTS and not any(part.class_counts for part in parts):
            raise without_objects(config.source, split, [*problems, *left_out])
        quarantine += left_out
        store.write_bytes(f"{split}/{INDEX}", _index(parts, listing.kind))
    mean, std = _channels(ordered.get("train") or next(iter(ordered.values())))
    manifest = Manifest(
        kind=listing.kind,
        classes=listing.classes,
        class_ids=listing.class_ids,
        splits={
            split: _split_info(parts, len(listing.classes), listing.origins[split])
            for split, parts in ordered.items()
        },
        channel_mean=mean,
        channel_std=std,
        quarantined=len(quarantine),
        settings={"source": config.source, **settings_of(config, listing.kind)},
        plan=plan,
    )
    store.write_bytes(QUARANTINE, _csv(quarantine))
    # Last: with a manifest a data set is finished.
    store.write_bytes(MANIFEST, manifest.to_json().encode())
    return manifest


def without_objects(source: str, split: str, left_out: Sequence[tuple[str, str]]) -> DataError:
    """The error for a split of detection without one usable object."""
    first = f"; {left_out[0][0]} {left_out[0][1]}" if left_out else ""
    return DataError(
        "prepare.source",
        source,
        f"{split} has not one usable object{first}",
        "Check its annotations, leave this split out, or hold out more with --holdout",
    )


def _split_info(parts: list[ShardRecord], classes: int, origin: str) -> SplitInfo:
    return SplitInfo(
        count=sum(len(part.labels) for part in parts),
        class_counts=tuple(
            sum(part.class_counts.get(label, 0) for part in parts) for label in range(classes)
        ),
        shards=tuple(part.shard for part in parts if part.shard is not None),
        origin=origin,
    )


def _index(parts: list[ShardRecord], kind: str) -> bytes:
    schema = index_schema(kind)
    columns = {
        "label": [value for part in parts for value in part.labels],
        "width": [value for part in parts for value in part.widths],
        "height": [value for part in parts for value in part.heights],
        "labels": [value for part in parts for value in part.label_sets],
    }
    return to_bytes(pa.table({name: columns[name] for name in schema.names}, schema=schema))


def _channels(parts: list[ShardRecord]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of R, G, B, each measured image with equal weight."""
    measured = sum(part.measured for part in parts)
    if not measured:
        return (), ()
    mean = np.sum([part.means for part in parts], axis=0) / measured
    square = np.sum([part.squares for part in parts], axis=0) / measured
    # Rounding can take the difference of two near numbers below zero.
    std = np.sqrt(np.maximum(square - mean**2, 0))
    return tuple(mean.round(6).tolist()), tuple(std.round(6).tolist())


def _csv(rows: list[tuple[str, str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([("path", "reason"), *rows])
    return out.getvalue().encode()
