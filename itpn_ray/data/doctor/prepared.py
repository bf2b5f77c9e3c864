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
from itpn_ray.data.doctor.balance import balance, untaught
from itpn_ray.data.doctor.fault_list import Count, Fault, FaultList
from itpn_ray.data.doctor.images import check_shard
from itpn_ray.data.doctor.masks import check_masks_of
from itpn_ray.data.doctor.objects import Numbers, Repeats, check_objects_of, check_tiles_of
from itpn_ray.data.schema import WITH_OBJECTS
from itpn_ray.data.store.manifest import QUARANTINE, Manifest, ShardInfo, read_manifest
from itpn_ray.data.store.shards import Shard, ShardedDataset
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of
from itpn_ray.storage import ObjectStore, join, open_store

# Groups of duplicates that are named; thousands would hide the rest.
_SHOWN = 10
_CHANGED = "its content has changed since it was written"

Sample = tuple[str, int]
"""Split and sample id."""
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
        leaked: images of val and test that an earlier split has too; each is a fault.
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
        """Whether it is whole, everything in it can be used, and its splits share no image."""
        return self.whole and not self.faults.faults

    @property
    def whole(self) -> bool:
        """Whether every shard is as it was written."""
        return not any(split.broken for split in self.splits.values())

    def lines(self) -> Iterator[str]:
        """The findings in words."""
        classes = self.manifest.classes
        yield f"{self.uri}: {self.manifest.kind}, {number_of(len(classes), 'class', 'classes')}"
        for name, split in self.splits.items():
            low, middle, high = split.sides
            yield (
                f"{name}: {number_of(split.count, 'image')}, {split.bytes / 1e6:.1f} MB, "
                f"longer side {low} to {high} px (median {middle})"
            )
            if classes:
                pixels = "of pixels " if self.manifest.kind == "segmentation" else ""
                yield f"  {pixels}{balance(classes, split.class_counts)}"
            for shard, reason in split.broken:
                yield f"  BROKEN {name}/{shard}: {reason}"
        if missing := untaught(self.manifest):
            yield missing
        yield f"quarantine: {sum(self.quarantine.values())}"
        for reason, count in Counter(self.quarantine).most_common(_SHOWN):
            yield f"  {count} x {reason}"
        yield f"there more than once: {number_of(self.duplicate_images, 'image')}"
        for group in self.duplicates:
            yield f"  {' = '.join(group)}"
        if self.leaked:
            leaked = number_of(self.leaked, "image")
            yield f"LEAK: {leaked} of other splits, in an earlier split too"
        yield from self.faults.table()
        if not self.whole:
            yield "NOT WHOLE: remove the folder and prepare the data again"
        elif not self.sound:
            told = number_of(self.faults.faults, "FAULT", "FAULTS")
            yield f"{told}: fix what is listed and prepare the data again"
        else:
            yield "sound"


def doctor(
    uri: str, faults: FaultList, *, threads: int = 4, count: Count = lambda done, total: None
) -> Health:
    """Read every shard of a prepared data set, compare it with its manifest, decode its images.

    Args:
        uri: the data set, local or remote; remote shards are fetched one by one.
        faults: takes what cannot be used.
        threads: shards looked at at once.
        count: called with how many images are done, and how many there are.

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
            # Anew for each split: numbers are unique within one only.
            repeats = Repeats()
            # `map` keeps the order of the shards, which the digests' rows and the repeats rely on.
            examined = pool.map(partial(_examine, store, name, manifest), split.shards)
            for shard, found in zip(split.shards, examined, strict=True):
                parts.append(found.digests)
                broken += [(shard.file, found.broken)] if found.broken else []
                for fault in found.all_faults(repeats):
                    faults.add(name, fault)
                done += shard.rows
                count(done, total)
            if manifest.kind in WITH_OBJECTS and not any(split.class_counts):
                reason = f"{name} has not one object"
                faults.add(name, Fault(file=name, entry="", kind=kinds.NO_OBJECT, reason=reason))
            # Rows of broken shards are there too, as zeros: places in this array are sample ids.
            digests[name] = np.concatenate(parts)
            splits[name] = SplitHealth(
                count=split.count,
                bytes=sum(shard.bytes for shard in split.shards),
                sides=_sides(ShardedDataset(uri, name, manifest)),
                class_counts=split.class_counts,
                broken=tuple(broken),
            )
    groups = equal_images(digests)
    paths = _Paths(uri, manifest)
    # Groups are in the order train, val, test: the first is the one training has seen.
    leaks = [(group[0], at) for group in groups for at in leaked(group)]
    # By the copy's place, so that the list of faults does not depend on hash values.
    for original, at in sorted(leaks, key=lambda leak: leak[1]):
        reason = f"is {paths[original]} of {original[0]} too"
        faults.add(at[0], Fault(file=paths[at], entry="", kind=kinds.LEAK, reason=reason))
    return Health(
        uri=uri,
        manifest=manifest,
        splits=splits,
        duplicates=tuple(
            tuple(f"{at[0]}: {paths[at]}" for at in group[:_SHOWN]) for group in groups[:_SHOWN]
        ),
        duplicate_images=sum(len(group) - 1 for group in groups),
        leaked=len(leaks),
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
            # Before the shard is opened: a changed file must not be read as if it were sound.
            if found != info.sha256:
                raise DataError(key, None, _CHANGED, "Prepare the data again")
            shard = Shard(path)
            if len(shard) != info.rows:
                cause = f"has {number_of(len(shard), 'row')}, not {info.rows}"
                raise DataError(key, None, cause, "Prepare the data again")
            return _examine_rows(shard, manifest)
    except (OSError, DataError) as error:
        reason = error.cause if isinstance(error, DataError) else str(error)
        return _ShardFindings(
            # A place for every row, so that later shards keep their sample ids.
            digests=np.zeros(info.rows, dtype=np.uint64),
            broken=reason,
            faults=[Fault(file=key, entry="", kind=kinds.SHARD, reason=reason)],
        )


def _examine_rows(shard: Shard, manifest: Manifest) -> _ShardFindings:
    images = (shard.image(row) for row in range(len(shard)))
    heads = b"".join(hashlib.sha256(image.data).digest()[:8] for image in images)
    numbers: list[Numbers] = []
    faults = list(check_shard(shard))
    if manifest.kind == "rotated":
        faults += check_tiles_of(shard, len(manifest.classes))
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
    # Shards are mapped, which needs a file.
    handle, name = tempfile.mkstemp(prefix="itpn_ray-")
    os.close(handle)
    try:
        store.get_file(key, Path(name))
        yield Path(name)
    finally:
        os.unlink(name)


def equal_images(digests: dict[str, Digests]) -> list[list[Sample]]:
    """Groups of samples with equal bytes, in the order of the splits and samples."""
    names = list(digests)
    every = np.concatenate(list(digests.values()))
    split = np.repeat(np.arange(len(names)), [len(part) for part in digests.values()])
    row = np.concatenate([np.arange(len(part)) for part in digests.values()])
    # Stable: equal digests stay in the order of the splits and samples.
    order = np.argsort(every, kind="stable")
    # 0 stands for images of broken shards: these are not equal to each other.
    order = order[every[order] > 0]
    # Within equal digests the differences are 0; an edge lies wherever they are not.
    edges = np.flatnonzero(np.diff(every[order])) + 1
    groups = [group for group in np.split(order, edges) if len(group) > 1]
    return [[(names[split[at]], int(row[at])) for at in group] for group in groups]


def leaked(group: list[Sample]) -> list[Sample]:
    """The samples of a group of equal images that are of another split than its first."""
    return [sample for sample in group if sample[0] != group[0][0]]


class _Paths:
    """Finds the paths of samples; keeps those of the shards that it was asked for."""

    def __init__(self, uri: str, manifest: Manifest) -> None:
        self._datasets = {name: ShardedDataset(uri, name, manifest) for name in manifest.splits}
        self._found: dict[tuple[str, int], list[str]] = {}

    def __getitem__(self, sample: Sample) -> str:
        split, sample_id = sample
        dataset = self._datasets[split]
        shard, row = dataset.locate(sample_id)
        if (split, shard) not in self._found:
            key = f"{split}/{dataset.shards[shard].file}"
            with _local(open_store(dataset.uri), key) as path:
                self._found[split, shard] = Shard(path).table(["path"]).column(0).to_pylist()
        return self._found[split, shard][row]


def _sides(dataset: ShardedDataset) -> tuple[int, int, int]:
    columns = (dataset.index.column(name).to_numpy() for name in ("width", "height"))
    longer = np.maximum(*columns)
    return int(longer.min()), int(np.median(longer)), int(longer.max())


def _quarantine(store: ObjectStore) -> dict[str, int]:
    try:
        # newline="" leaves line ends inside quoted fields as they were written.
        text = store.read_bytes(QUARANTINE).decode()
        rows = csv.DictReader(io.StringIO(text, newline=""))
        return dict(Counter(row["reason"] for row in rows))
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        where = join(store.uri, QUARANTINE)
        cause = f"is missing or damaged: {error}"
        raise DataError(where, None, cause, "Prepare the data again") from error
