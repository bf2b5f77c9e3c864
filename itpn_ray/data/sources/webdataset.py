"""Tar shards in the manner of webdataset: files of one sample share a name up to the first dot.

Only images, ``.cls`` (a class number or name) and ``.json`` (with the key ``label``) are read;
nothing is unpickled or unpacked. The tar's name says the split (``imagenet-train-000001.tar``).

Names with further dots are read by what lies there, see `_samples_of`. What is not used is told.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
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
)
from itpn_ray.data.sources.label_values import Label, as_label, text_label
from itpn_ray.data.sources.labels import label_splits
from itpn_ray.data.sources.leftovers import LEFTOVER, lies_in_leftover
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.splits import (
    SPLITS,
    USUAL_NAMES,
    SplitNames,
    splits_of_folders,
)
from itpn_ray.data.sources.tars import Member, members
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError
from itpn_ray.formatting import show_names
from itpn_ray.storage import filesystem

# Reading headers is waiting, most of all in S3.
_THREADS = 8
_LABELS = (".cls", ".json")
_NOT_PLAIN = "refused: its name leads outside the tar"
_HINT = "Write a class number or name, or pass --unlabelled"


@dataclass
class _Samples:
    """What one tar holds: images in its order, their labels, and files that are not used."""

    images: list[Member] = field(default_factory=list)
    labels: list[Label | None] = field(default_factory=list)
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
        tars, skipped = _tars(fs, root)
        named, left_out = self.splits.sort_files(tars, self.uri)
        skipped += left_out
        split_of = {name: split for split, names in named.items() for name in names}
        tars = [tar for tar in tars if tar in split_of]
        rows: dict[str, Rows] = {}
        labels: dict[str, list[Label | None]] = {}
        read = partial(_samples, fs, labelled=not self.unlabelled)
        with ThreadPoolExecutor(_THREADS) as pool:
            samples = pool.map(read, [f"{root}/{tar}" for tar in tars])
            for name, found in zip(tars, samples, strict=True):
                parts = self._parts(name, found.images, split_of[name])
                for member, label, split in zip(found.images, found.labels, parts, strict=True):
                    path, tar = f"{name}/{member.name}", f"{root}/{name}"
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
            classes, tables = label_splits(tables, every, given, self.uri)
        return Listing(
            kind="classification" if classes else "unlabelled",
            classes=classes,
            splits=tables,
            origins={split: show_names(named.get(split, list(split_of)), 4) for split in tables},
            skipped=tuple(skipped),
        )

    def _parts(self, tar: str, images: Sequence[Member], split: str) -> Sequence[str]:
        """The split of each image: by the tar's name, or by the folders inside."""
        inside = None
        # The tar's own name comes first: shards of one split often repeat its folder inside.
        if not self.splits.of_file(tar):
            inside = splits_of_folders([dirname(member.name) for member in images], tar)
        return inside or [split] * len(images)

    def _labelled(self, labels: list[Label | None]) -> list[Label]:
        known = [label for label in labels if label is not None]
        if len(known) < len(labels):
            raise DataError(
                "prepare.source",
                self.uri,
                f"{len(labels) - len(known)} of {len(labels)} images have no .cls or .json label",
                "Put an image's files one after another under one name (tar --sort=name), or pass "
                "--unlabelled to prepare them without labels",
            )
        return known


def _tars(fs: FileSystem, root: str) -> tuple[list[str], list[tuple[str, str]]]:
    """Paths of the tars below a folder, and (path, reason) of other files; relative to it."""
    tars, others = [], []
    for entry in files_below(fs, root):
        path = relpath(entry.path, root)
        if not entry.problem and entry.name.lower().endswith(".tar"):
            tars.append(path)
        else:
            others.append((path, entry.problem or "not a plain tar, by its name"))
    return tars, others


def _samples(fs: FileSystem, tar: str, *, labelled: bool) -> _Samples:
    found = _Samples()
    plain = _plain(members(fs, tar, read=_LABELS if labelled else ()), found)
    # Only neighbours are grouped, as webdataset's own reader does.
    for key, group in groupby(plain, key=_key):
        for sample in _samples_of(key, list(group)):
            images = [member for member in sample if _is_image(member)]
            if not images:
                reason = "no image among the files of this name"
                found.refused.append((sample[0].name, reason))
                continue
            # Of a.depth.png and a.jpg the latter has the sample's own name.
            chosen = min(images, key=lambda member: _stem(member) != key)
            found.images.append(chosen)
            files = _nearest_first(sample, _stem(chosen), key) if labelled else []
            found.labels.append(_label(tar, files))
            reason = f"not used: {chosen.name} is the image of the sample {key}"
            found.refused += [(other.name, reason) for other in images if other is not chosen]
    return found


def _plain(found: Iterator[Member], samples: _Samples) -> Iterator[Member]:
    """The members that are plain files; others are noted as refused."""
    for member in found:
        outside = member.name.startswith("/") or ".." in member.name.split("/")
        leftover = LEFTOVER if lies_in_leftover(member.name) else ""
        problem = _NOT_PLAIN if outside else leftover or member.problem
        # A name that leads outside is never unpacked here, but its tar was made by mistake or in
        # bad faith.
        if problem:
            samples.refused.append((member.name, problem))
        else:
            yield member


def _samples_of(key: str, group: list[Member]) -> Iterator[Sequence[Member]]:
    """The samples among neighbouring files that share a name up to the first dot.

    That is one by webdataset's convention, which ``a.0.jpg``, ``a.0.cls``, ``a.1.jpg``, ``a.1.cls``
    do not follow: where there are several images, and one has a label of its own or no file has
    the bare name ``a``, names count up to their last dot.
    """
    stems: dict[str, list[Member]] = {}
    for member in group:
        stems.setdefault(_stem(member), []).append(member)
    several = sum(map(_is_image, group)) > 1
    own = any(
        stem != key and any(map(_is_image, files)) and any(map(_is_label, files))
        for stem, files in stems.items()
    )
    if several and (own or key not in stems):
        yield from stems.values()
    else:
        yield group


def _key(member: Member) -> str:
    """The sample's name: the path up to the first dot of the file's name."""
    name = basename(member.name)
    return member.name[: len(member.name) - len(name)] + name.split(".")[0]


def _stem(member: Member) -> str:
    return splitext(member.name)[0]


def _is_image(member: Member) -> bool:
    return splitext(member.name)[1].lower() in IMAGE_SUFFIXES


def _is_label(member: Member) -> bool:
    return member.name.endswith(_LABELS)


def _nearest_first(sample: Sequence[Member], stem: str, key: str) -> list[Member]:
    """The label files of a sample: those with the image's name, the sample's name, others."""
    files = [member for member in sample if _is_label(member)]
    return sorted(files, key=lambda member: (_stem(member) != stem, _stem(member) != key))


def _label(tar: str, files: Sequence[Member]) -> Label | None:
    """The first label that one of the files gives.

    Raises:
        DataError: a file is not what its suffix says.
    """
    for member in files:
        where = f"{tar}/{member.name}"
        if member.name.endswith(".cls"):
            found = text_label(member.content, where, _HINT)
        else:
            found = as_label(_json(member.content, where), where, _HINT)
        if found is not None:
            return found
    return None


def _json(content: bytes, where: str) -> object:
    """The value of ``label`` in a JSON object; None where it has none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        cause = f"is no JSON: {error}"
        raise DataError(where, content, cause, _HINT) from error
    if not isinstance(found, dict):
        cause = 'is no JSON object with the key "label"'
        raise DataError(where, found, cause, _HINT)
    return found.get("label")
