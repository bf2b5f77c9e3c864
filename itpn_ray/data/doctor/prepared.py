"""Looks a prepared data set over: is it whole, sound, balanced, free of duplicates?"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.balance import balance
from itpn_ray.data.doctor.fault_list import Count, Fault, FaultList
from itpn_ray.data.doctor.images import check_shard
from itpn_ray.data.doctor.masks import check_masks_of
from itpn_ray.data.doctor.objects import Numbers, Repeats, check_objects_of
from itpn_ray.data.store.manifest import QUARANTINE, Manifest, ShardInfo, read_manifest
from itpn_ray.data.store.shards import Shard, ShardedDataset
from itpn_ray.errors import DataError
from itpn_ray.storage import ObjectStore, open_store

_SHOWN = 10
_CHANGED = "its content has changed since it was written"

Digests = NDArray[np.uint64]
"""The first 8 bytes of each image's SHA-256."""


@dataclass(frozen=True, kw_only=True)
class SplitHealth:
    """One split.

    Attributes:
        count: images by the manifest.
        bytes: of its shards.
        sides: (smallest, median, largest) of the longer side, pixels.
        class_counts: images, objects or pixels of each class.
        broken: (shard, reason) of shards that are not as they were written.
    """

    count: int
    bytes: int
    sides: tuple[int, int, int]
    class_counts: tuple[int, ...]
    broken: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Health:
    """A prepared data set.

    Attributes:
        uri: where it is.
        manifest: its manifest.
        splits: by name.
        duplicates: groups of images with the same bytes, as ``split/path``; the first ten.
        duplicate_images: images in such groups, beyond the first of each.
        leaked: images of other splits that are in train too.
        quarantine: reason -> images and objects.
        faults: images and objects that cannot be used.
    """

    uri: str
    manifest: Manifest
    splits: dict[str, SplitHealth]
    duplicates: tuple[tuple[str, ...], ...]
    duplicate_images: int
    leaked: int
    quarantine: dict[str, int]
    faults: FaultList

    @property
    def sound(self) -> bool:
        """Whether it is whole and everything in it can be used."""
        return self.whole and not self.faults.faults

    @property
    def whole(self) -> bool:
        """Whether every shard is as it was written."""
        return not any(split.broken for split in self.splits.values())

    def lines(self) -> Iterator[str]:
        """The findings in words."""
        classes = self.manifest.classes
        yield f"{self.uri}: {self.manifest.kind}, {len(classes)} classes"
        for name, split in self.splits.items():
            low, middle, high = split.sides
            yield (
                f"{name}: {split.count} images, {split.bytes / 1e6:.1f} MB, "
                f"longer side {low} to {high} px (median {middle})"
            )
            if classes:
                pixels = "of pixels " if self.manifest.kind == "segmentation" else ""
                yield f"  {pixels}{balance(classes, split.class_counts)}"
            for shard, reason in split.broken:
                yield f"  BROKEN {name}/{shard}: {reason}"
        yield f"quarantine: {sum(self.quarantine.values())}"
        for reason, count in Counter(self.quarantine).most_common(_SHOWN):
            yield f"  {count} x {reason}"
        yield f"there more than once: {self.duplicate_images} images"
        for group in self.duplicates:
            yield f"  {' = '.join(group)}"
        if self.leaked:
            yield f"LEAK: {self.leaked} images of other splits are in train too"
        yield from self.faults.table()
        if not self.whole:
            yield "NOT WHOLE: remove the folder and prepare the data again"
        elif not self.sound:
            yield f"{self.faults.faults:,} FAULTS: fix them and prepare the data again"
        else:
            yield "whole"


def doctor(
    uri: str, faults: FaultList, *, threads: int = 4, count: Count = lambda done, total: None
) -> Health:
    """Read every shard of a prepared data set, compare it with its manifest, decode its images.

    Args:
        uri: the data set, local or remote; remote shards are fetched one by one.
        faults: takes what cannot be used.
        threads: shards looked at at once.
        count: told how many images are done, and how many there are.

    Raises:
        DataError: there is no prepared data set.
    """
    manifest = read_manifest(uri)
    store = open_store(uri)
    splits: dict[str, SplitHealth] = {}
    digests: dict[str, Digests] = {}
    total = sum(split.count for split in manifest.splits.values())
    done = 0
    with ThreadPoolExecutor(threads) as pool:
        for name, split in manifest.splits.items():
            parts: list[Digests] = []
            broken: list[tuple[str, str]] = []
            repeats = Repeats()
            examined = pool.map(partial(_examine, store, name, manifest), split.shards)
            for shard, found in zip(split.shards, examined, strict=True):
                parts.append(found.digests)
                broken += [(shard.file, found.broken)] if found.broken else []
                for fault in found.all_faults(repeats):
                    faults.add(name, fault)
                done += shard.rows
                count(done, total)
            digests[name] = np.concatenate(parts)
            splits[name] = SplitHealth(
                count=split.count,
                bytes=sum(shard.bytes for shard in split.shards),
                sides=_sides(ShardedDataset(uri, name, manifest)),
                class_counts=split.class_counts,
                broken=tuple(broken),
            )
    groups, duplicates, leaked = _duplicates(digests)
    return Health(
        uri=uri,
        manifest=manifest,
        splits=splits,
        duplicates=tuple(_named(store, manifest, group) for group in groups),
        duplicate_images=duplicates,
        leaked=leaked,
        quarantine=_quarantine(store),
        faults=faults,
    )


@dataclass(frozen=True, kw_only=True)
class _ShardFindings:
    """One shard: digests of its images (0 if it is broken), and what is wrong with it."""

    digests: Digests
    broken: str = ""
    faults: Sequence[Fault] = ()
    numbers: Sequence[Numbers] = ()

    def all_faults(self, repeats: Repeats) -> Iterator[Fault]:
        """Its own, and numbers that earlier shards of the split had."""
        yield from self.faults
        for numbers in self.numbers:
            yield from repeats.find(numbers)


def _examine(store: ObjectStore, split: str, manifest: Manifest, info: ShardInfo) -> _ShardFindings:
    key = f"{split}/{info.file}"
    try:
        with _local(store, key) as path:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
            if found != info.sha256:
                raise DataError(key, None, _CHANGED, "Prepare the data again")
            return _examine_rows(Shard(path), manifest)
    except (OSError, DataError) as error:
        reason = error.cause if isinstance(error, DataError) else str(error)
        return _ShardFindings(
            digests=np.zeros(info.rows, dtype=np.uint64),
            broken=reason,
            faults=[Fault(file=key, entry="", kind=kinds.SHARD, reason=reason)],
        )


def _examine_rows(shard: Shard, manifest: Manifest) -> _ShardFindings:
    images = (shard.image(row) for row in range(len(shard)))
    heads = b"".join(hashlib.sha256(image.data).digest()[:8] for image in images)
    numbers: list[Numbers] = []
    faults = list(check_shard(shard))
    if manifest.kind == "detection":
        numbers, faulty = check_objects_of(shard, len(manifest.classes))
        faults += faulty
    if manifest.kind == "segmentation":
        faults += check_masks_of(shard, len(manifest.classes))
    digests = np.frombuffer(heads, dtype=np.uint64)
    return _ShardFindings(digests=digests, faults=faults, numbers=numbers)


@contextmanager
def _local(store: ObjectStore, key: str) -> Iterator[Path]:
    """An object as a file on this machine, fetched where it is remote."""
    path = store.local_path(key)
    if path is not None:
        yield path
        return
    handle, name = tempfile.mkstemp(prefix="itpn_ray-")
    os.close(handle)
    try:
        store.get_file(key, Path(name))
        yield Path(name)
    finally:
        os.unlink(name)


def _duplicates(digests: dict[str, Digests]) -> tuple[list[list[tuple[str, int]]], int, int]:
    """Groups of equal images as (split, sample id), images too many, images leaked."""
    names = list(digests)
    every = np.concatenate(list(digests.values()))
    split = np.repeat(np.arange(len(names)), [len(part) for part in digests.values()])
    row = np.concatenate([np.arange(len(part)) for part in digests.values()])
    order = np.argsort(every, kind="stable")
    order = order[every[order] > 0]
    edges = np.flatnonzero(np.diff(every[order])) + 1
    groups = [group for group in np.split(order, edges) if len(group) > 1]
    train = names.index("train") if "train" in names else -1
    leaked = sum(
        int((split[group] != train).sum()) for group in groups if (split[group] == train).any()
    )
    shown = [[(names[split[at]], int(row[at])) for at in group] for group in groups[:_SHOWN]]
    return shown, sum(len(group) - 1 for group in groups), leaked


def _named(store: ObjectStore, manifest: Manifest, group: list[tuple[str, int]]) -> tuple[str, ...]:
    """The paths of a group of samples, as ``split/path``."""
    names = []
    for split, sample_id in group[:_SHOWN]:
        dataset = ShardedDataset(store.uri, split, manifest)
        shard, row = dataset.locate(sample_id)
        with _local(store, f"{split}/{dataset.shards[shard].file}") as path:
            names.append(f"{split}: {Shard(path).row(row)['path']}")
    return tuple(names)


def _sides(dataset: ShardedDataset) -> tuple[int, int, int]:
    columns = (dataset.index.column(name).to_numpy() for name in ("width", "height"))
    longer = np.maximum(*columns)
    return int(longer.min()), int(np.median(longer)), int(longer.max())


def _quarantine(store: ObjectStore) -> dict[str, int]:
    text = store.read_bytes(QUARANTINE).decode()
    return dict(Counter(row["reason"] for row in csv.DictReader(io.StringIO(text, newline=""))))
