"""The manifest of a prepared data set: what there is, and how to tell that it is whole."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itpn_ray.data.schema import KINDS, SCHEMA_VERSION
from itpn_ray.data.typed_json import build, read_json
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of
from itpn_ray.storage import join, open_store
from itpn_ray.storage.base import ObjectStore

WORK = "_work"
"""Folder of what a preparation needs while it runs."""
MANIFEST = "manifest.json"
QUARANTINE = "quarantine.csv"
INDEX = "index.arrow"
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard: its file in the split's folder, images, size and SHA-256."""

    file: str
    rows: int
    bytes: int
    sha256: str

    @property
    def is_possible(self) -> bool:
        """Whether the numbers and the digest can be those of a shard."""
        counted = 0 < self.rows < 2**31 and 0 < self.bytes < 2**63
        return counted and _SHA256.fullmatch(self.sha256) is not None


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split.

    Attributes:
        count: images.
        class_counts: images (classification, with one label or several), objects (detection) or
            pixels (segmentation) of each class.
        shards: in the order of the sample ids.
        origin: where its images come from, in words.
    """

    count: int
    class_counts: tuple[int, ...]
    shards: tuple[ShardInfo, ...]
    origin: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A prepared data set.

    Attributes:
        kind: one of `itpn_ray.data.schema.KINDS`.
        classes: names; a label is an index into them. Empty for unlabelled images.
        class_ids: the annotation files' own numbers of the classes; empty where they have none.
        splits: by name: ``train``, ``val``, ``test``.
        channel_mean: mean of R, G, B, 0..1, over every 32nd training image of each shard; each
            image counts the same, whatever its size, as training shows one crop of each.
        channel_std: standard deviation likewise.
        quarantined: images and objects listed in quarantine.csv.
        settings: what shaped the images (max_side, quality, ...).
        plan: SHA-256 of the list of inputs and the settings.
    """

    kind: str
    classes: tuple[str, ...]
    class_ids: tuple[int, ...] = ()
    splits: Mapping[str, SplitInfo]
    channel_mean: tuple[float, ...]
    channel_std: tuple[float, ...]
    quarantined: int
    settings: Mapping[str, Any]
    plan: str
    schema_version: int = SCHEMA_VERSION

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of kind, classes and all shards: what the data are, wherever they lie."""
        shards = {split: [s.sha256 for s in info.shards] for split, info in self.splits.items()}
        content = [self.kind, self.classes, self.class_ids, shards]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def _how_to_prepare(store: ObjectStore, uri: str) -> str:
    """What to do about a place without a manifest: it may be the images themselves."""
    place = store.local_path(MANIFEST)
    # A preparation that was interrupted has left its work there.
    begun = place is None or (place.parent / WORK).is_dir()
    if place is not None and not begun and place.parent.is_dir() and any(place.parent.iterdir()):
        name = uri.rstrip("/").rpartition("/")[2]
        return f"If these are the images: `itpn-ray prepare --source {uri} --out data/{name}`"
    return f"Prepare it: `itpn-ray prepare --source IMAGES --out {uri}`"


def read_manifest(uri: str) -> Manifest:
    """Read and check the manifest of the prepared data set at ``uri``.

    Raises:
        DataError: there is none, it is of another version, or it contradicts itself.
    """
    store = open_store(uri)
    try:
        text = store.read_bytes(MANIFEST)
    except FileNotFoundError as error:
        raise DataError(
            "data",
            uri,
            f"there is no {MANIFEST}, so this is not a finished prepared data set",
            _how_to_prepare(store, uri),
        ) from error
    except OSError as error:
        raise DataError(
            "data", uri, f"cannot be read: {error}", "Check the address and your rights"
        ) from error
    try:
        found = read_json(text)
        # Before the fields: those of another version may differ.
        if isinstance(found, dict):
            _check_version(found.get("schema_version"))
        manifest = build(Manifest, found)
    except ValueError as error:
        raise _damaged(uri, str(error)) from error
    _check(manifest, uri)
    return manifest


def _check_version(version: object) -> None:
    if version != SCHEMA_VERSION:
        raise DataError(
            "schema_version",
            version,
            f"this program reads version {SCHEMA_VERSION}",
            "Prepare the data again",
        )


def _check(manifest: Manifest, uri: str) -> None:
    if manifest.kind not in KINDS:
        raise _damaged(uri, f"unknown kind {manifest.kind!r}")
    for name, split in manifest.splits.items():
        if sum(shard.rows for shard in split.shards) != split.count:
            raise _damaged(
                uri, f"the shards of {name} do not add up to {number_of(split.count, 'image')}"
            )
        if len(split.class_counts) != len(manifest.classes):
            raise _damaged(
                uri, f"{name} counts {number_of(len(split.class_counts), 'class', 'classes')}"
            )
        # A manifest may come from elsewhere: its names must not lead out of the data set.
        if any(is_outside(part) for part in (name, *(shard.file for shard in split.shards))):
            raise _damaged(uri, f"a shard of {name} lies outside its folder")
        if not all(shard.is_possible for shard in split.shards):
            raise _damaged(uri, f"a shard of {name} has no possible size or digest")


def is_outside(name: str) -> bool:
    """Whether a file or folder of this name would not lie in the folder at hand."""
    return not name or name.startswith(".") or not set(name).isdisjoint("/\\\0")


def _damaged(uri: str, cause: str) -> DataError:
    return DataError(join(uri, MANIFEST), None, f"damaged: {cause}", "Prepare the data again")
