"""Tar shards in the manner of webdataset: files of one sample share a name up to the first dot.

Only images, ``.cls`` (a class number or name) and ``.json`` (with the key ``label``) are read;
nothing is unpickled or unpacked. The tar's name says the split (``imagenet-train-000001.tar``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from posixpath import basename, dirname, relpath, splitext

from pyarrow.fs import FileSystem

from itpn_ray.data.sources.base import (
    IMAGE_SUFFIXES,
    Listing,
    Rows,
    Source,
    check_classes,
    with_labels,
)
from itpn_ray.data.sources.labels import label_numbers
from itpn_ray.data.sources.leftovers import LEFTOVER, lies_in_leftover
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.splits import (
    SPLITS,
    USUAL_NAMES,
    SplitNames,
    shown,
    splits_of_folders,
)
from itpn_ray.data.sources.tars import Member, members
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

_THREADS = 8
_NOT_PLAIN = "refused: its name leads outside the tar"


@dataclass
class _Samples:
    """What one tar holds: images in its order, their labels, and names that were refused."""

    images: list[Member] = field(default_factory=list)
    labels: list[str | int | None] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class WebDataset(Source):
    """A folder with tars.

    Attributes:
        uri: the folder.
        unlabelled: ignore the labels.
        classes: URI of a list of class names in the order of the labels; may be empty.
        splits: names of the splits.
    """

    uri: str
    unlabelled: bool = False
    classes: str = ""
    splits: SplitNames = USUAL_NAMES

    def listing(self) -> Listing:
        """See `Source.listing`; tars sorted by path, samples in their order."""
        fs, root = filesystem(self.uri)
        found_below = files_below(fs, root)
        skipped = [(relpath(e.path, root), e.problem) for e in found_below if e.problem]
        tars = [e.path for e in found_below if not e.problem and e.name.lower().endswith(".tar")]
        named, left_out = self.splits.sort_files([relpath(tar, root) for tar in tars], self.uri)
        skipped += left_out
        split_of = {name: split for split, names in named.items() for name in names}
        tars = [tar for tar in tars if relpath(tar, root) in split_of]
        rows: dict[str, Rows] = {}
        labels: dict[str, list[str | int | None]] = {}
        with ThreadPoolExecutor(_THREADS) as pool:
            for tar, found in zip(tars, pool.map(partial(_samples, fs), tars), strict=True):
                name = relpath(tar, root)
                inside = None
                if not self.splits.of_file(name):
                    inside = splits_of_folders([dirname(m.name) for m in found.images], tar)
                parts = inside or [split_of[name]] * len(found.images)
                for member, label, split in zip(found.images, found.labels, parts, strict=True):
                    path = f"{name}/{member.name}"
                    rows.setdefault(split, Rows()).add(
                        path, tar, offset=member.offset, size=member.size
                    )
                    labels.setdefault(split, []).append(label)
                skipped += [(f"{name}/{member}", reason) for member, reason in found.refused]
        if not rows:
            raise DataError("prepare.source", self.uri, "its tars hold no images", "Check it")
        tables = {split: rows[split].table() for split in SPLITS if split in rows}
        classes: tuple[str, ...] = ()
        if not self.unlabelled:
            every = [label for split in tables for label in self._labelled(labels[split])]
            given = read_classes(self.classes) if self.classes else ()
            classes, numbers = label_numbers(every, given, self.uri)
            check_classes(classes, self.uri)
            for split, table in tables.items():
                tables[split] = with_labels(table, numbers[: table.num_rows])
                numbers = numbers[table.num_rows :]
        return Listing(
            kind="classification" if classes else "unlabelled",
            classes=classes,
            splits=tables,
            origins={split: shown(named.get(split, list(split_of)), 4) for split in tables},
            skipped=tuple(skipped),
        )

    def _labelled(self, labels: list[str | int | None]) -> list[str | int]:
        known = [label for label in labels if label is not None]
        if len(known) < len(labels):
            raise DataError(
                "prepare.source",
                self.uri,
                f"{len(labels) - len(known)} of {len(labels)} images have no .cls or .json label",
                "Pass --unlabelled to prepare them without labels",
            )
        return known


def _samples(fs: FileSystem, tar: str) -> _Samples:
    found = _Samples()
    for _, group in groupby(_plain(fs, tar, found), key=_key):
        sample = list(group)
        images = [m for m in sample if splitext(m.name)[1].lower() in IMAGE_SUFFIXES]
        if images:
            found.images.append(images[0])
            found.labels.append(_label(sample))
        else:
            found.refused.append((sample[0].name, "no image among the files of this name"))
    return found


def _plain(fs: FileSystem, path: str, found: _Samples) -> Iterator[Member]:
    for member in members(fs, path, read=(".cls", ".json")):
        if member.name.startswith("/") or ".." in member.name.split("/"):
            found.refused.append((member.name, _NOT_PLAIN))
        elif lies_in_leftover(member.name):
            found.refused.append((member.name, LEFTOVER))
        else:
            yield member


def _key(member: Member) -> str:
    """The sample's name: the path up to the first dot of the file's name."""
    name = basename(member.name)
    return member.name[: len(member.name) - len(name)] + name.split(".")[0]


def _label(sample: list[Member]) -> str | int | None:
    for member in sample:
        if member.name.endswith(".cls"):
            return member.content.decode().strip()
        if member.name.endswith(".json"):
            label = json.loads(member.content).get("label")
            if isinstance(label, str | int):
                return label
    return None
