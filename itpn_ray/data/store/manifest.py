"""The manifest of a prepared data set: what there is, and how to tell that it is whole."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from itpn_ray.data.schema import KINDS, SCHEMA_VERSION
from itpn_ray.errors import DataError
from itpn_ray.storage import join, open_store

MANIFEST = "manifest.json"
QUARANTINE = "quarantine.csv"
INDEX = "index.arrow"


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """One shard: its file in the split's folder, images, size and SHA-256."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class SplitInfo:
    """One split.

    Attributes:
        count: images.
        class_counts: images (classification), objects (detection) or pixels (segmentation) of each
            class.
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
        channel_mean: mean of R, G, B over a sample of the training images, 0..1.
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

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(dataclasses.asdict(self), indent=1, ensure_ascii=False) + "\n"


def read_manifest(uri: str) -> Manifest:
    """Read and check the manifest of the prepared data set at ``uri``.

    Raises:
        DataError: there is none, it is of another version, or it contradicts itself.
    """
    try:
        text = open_store(uri).read_bytes(MANIFEST)
    except FileNotFoundError as error:
        raise DataError(
            "data",
            uri,
            f"there is no {MANIFEST}, so this is not a finished prepared data set",
            f"Prepare it: `itpn-ray prepare --source IMAGES --out {uri}`",
        ) from error
    except OSError as error:
        raise DataError(
            "data", uri, f"cannot be read: {error}", "Check the address and your rights"
        ) from error
    try:
        manifest = _parse(json.loads(text))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(uri, f"{type(error).__name__}: {error}") from error
    _check(manifest, uri)
    return manifest


def _parse(found: Any) -> Manifest:
    if not isinstance(found, dict):
        raise TypeError("it is not an object")
    version = found.get("schema_version")
    if version != SCHEMA_VERSION:
        raise DataError(
            "schema_version",
            version,
            f"this program reads version {SCHEMA_VERSION}",
            "Prepare the data again",
        )
    splits = {
        name: SplitInfo(
            count=split["count"],
            class_counts=tuple(split["class_counts"]),
            shards=tuple(ShardInfo(**shard) for shard in split["shards"]),
            origin=split["origin"],
        )
        for name, split in found["splits"].items()
    }
    tuples = {
        name: tuple(found[name]) for name in ("classes", "class_ids", "channel_mean", "channel_std")
    }
    return Manifest(**{**found, **tuples, "splits": splits})


def _check(manifest: Manifest, uri: str) -> None:
    if manifest.kind not in KINDS:
        raise _damaged(uri, f"unknown kind {manifest.kind!r}")
    for name, split in manifest.splits.items():
        if sum(shard.rows for shard in split.shards) != split.count:
            raise _damaged(uri, f"the shards of {name} do not add up to {split.count} images")
        if len(split.class_counts) != len(manifest.classes):
            raise _damaged(uri, f"{name} counts {len(split.class_counts)} classes")
        if any("/" in shard.file or shard.file.startswith(".") for shard in split.shards):
            raise _damaged(uri, f"a shard of {name} lies outside its folder")


def _damaged(uri: str, cause: str) -> DataError:
    return DataError(join(uri, MANIFEST), None, f"damaged: {cause}", "Prepare the data again")
