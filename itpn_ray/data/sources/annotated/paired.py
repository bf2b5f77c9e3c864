"""Images with a label file each: YOLO, Pascal VOC, labelme.

An image without a label file, or with an empty one, is one without objects. The splits are those
that folders name, unless lists do (``data.yaml``, ``ImageSets/Main/train.txt``); images are train
where nothing names a split.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from posixpath import dirname, relpath

import numpy as np
import pyarrow as pa
from pyarrow.fs import FileSystem

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.sources.annotated.base import (
    IMAGE_SCHEMA,
    AnnotatedSource,
    AnnotatedSplit,
    frames_of,
)
from itpn_ray.data.sources.annotated.coco_entries import Frame
from itpn_ray.data.sources.annotated.ids import Id, is_text, read_id
from itpn_ray.data.sources.annotated.label_file import LabelFile, Parse, unread
from itpn_ray.data.sources.annotated.objects import Item, ObjectSet
from itpn_ray.data.sources.annotated.pairs import Skipped, is_image, pair, read_files
from itpn_ray.data.sources.base import Rows
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.splits import SPLITS, USUAL_NAMES, SplitNames
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of
from itpn_ray.storage import filesystem

Pair = tuple[str, str | None]
"""An image and its label file, relative to the source."""
Parts = dict[str, list[Pair]]
"""The images of each split."""


@dataclass(frozen=True, kw_only=True)
class Folder:
    """All files of a source.

    Attributes:
        fs: where it lies.
        root: the source in it.
        sizes: bytes of the images, by path relative to the source.
        labels: files that may be of labels.
        skipped: (path, reason) of files that are neither.
    """

    fs: FileSystem
    root: str
    sizes: dict[str, int]
    labels: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PairedObjects(ObjectSet):
    """The objects of the label files of a split.

    Attributes:
        files: label file of each of ``image_ids``, relative to the source, or null.
        parse: reads one of them.
    """

    files: pa.StringArray
    parse: Parse

    def items(self) -> Iterator[Item]:
        """See `ObjectSet.items`; a file that cannot be read is one object that cannot be used."""
        number = 0
        places = np.flatnonzero(self.files.is_valid().to_numpy(zero_copy_only=False)).tolist()
        fs, root = filesystem(self.uri)
        names = [self.files[place].as_py() for place in places]
        frames = (_known(self.frames[place].tolist()) for place in places)
        read = read_labels(fs, root, names, frames, self.parse)
        for place, name, found in zip(places, names, read, strict=True):
            for label in found.labels:
                number += 1
                fields = label.fields
                if not isinstance(fields, FaultError):
                    fields = {**fields, "image_id": int(self.image_ids[place])}
                yield Item(
                    file=name,
                    entry=label.entry,
                    number=number,
                    fields=fields,
                    remarks=label.remarks,
                )


def read_labels(
    fs: FileSystem,
    root: str,
    names: Sequence[str],
    frames: Iterable[Frame | None],
    parse: Parse,
) -> Iterator[LabelFile]:
    """Label files, in order; what cannot be read is a file with one fault."""
    files = read_files(fs, (f"{root}/{name}" for name in names))
    for data, frame in zip(files, frames, strict=True):
        try:
            if isinstance(data, OSError):
                raise ValueError(data.strerror or str(data))
            yield parse(data, frame)
        except ValueError as error:
            yield unread(str(error))


@dataclass(frozen=True)
class PairedSource(AnnotatedSource):
    """A data set with a label file an image.

    Attributes:
        uri: the folder.
        classes: URI of a list of the classes in the order of the labels; empty: those that occur.
        splits: names of the splits.
    """

    uri: str
    classes: str = ""
    splits: SplitNames = USUAL_NAMES

    @abstractmethod
    def is_label(self, path: str) -> bool:
        """Whether a file, by its path in the source, may be one of labels."""

    @abstractmethod
    def parser(self) -> Parse:
        """What reads a label file."""

    @abstractmethod
    def frames(self, folder: Folder, pairs: Sequence[Pair]) -> list[Frame | None]:
        """The size of each image, where that is known before it is decoded."""

    @abstractmethod
    def categories(self, folder: Folder, pairs: Sequence[Pair]) -> dict[Id, str]:
        """The classes, in the order of their labels."""

    def divide(self, folder: Folder, pairs: Sequence[Pair]) -> tuple[Parts, Skipped]:
        """The images of each split, and (path, reason) of folders in none."""
        folders = list(dict.fromkeys(dirname(image) for image, _ in pairs))
        by_split, skipped = self.splits.sort_files(folders, self.uri)
        split_of = {folder: split for split, inner in by_split.items() for folder in inner}
        parts: Parts = {}
        for image, label in pairs:
            if dirname(image) in split_of:
                parts.setdefault(split_of[dirname(image)], []).append((image, label))
        return parts, skipped

    def files(self) -> Iterator[tuple[str, AnnotatedSplit]]:
        """See `AnnotatedSource.files`; images are sorted by path."""
        folder = self._folder()
        pairs, left_over = pair(list(folder.sizes), folder.labels)
        if not any(label for _, label in pairs):
            raise DataError(
                "prepare.source",
                self.uri,
                f"has no image with labels ({number_of(len(pairs), 'image')}, "
                f"{number_of(len(folder.labels), 'label')})",
                "Give the folder with both, named alike",
            )
        categories = self.categories(folder, pairs)
        parts, undivided = self.divide(folder, pairs)
        skipped = [*folder.skipped, *left_over, *undivided]
        for split in SPLITS:
            if parts.get(split):
                yield split, self._split(folder, parts[split], categories, tuple(skipped))
                # What was left out belongs to no split: it is listed once, with the first.
                skipped = []

    def _folder(self) -> Folder:
        fs, root = filesystem(self.uri)
        sizes: dict[str, int] = {}
        labels: list[str] = []
        skipped: Skipped = []
        for entry in files_below(fs, root):
            path = relpath(entry.path, root)
            if self.is_label(path) and not entry.problem:
                labels.append(path)
            elif is_image(entry):
                sizes[path] = entry.size or 0
            elif entry.problem:
                skipped.append((path, entry.problem))
        return Folder(fs=fs, root=root, sizes=sizes, labels=tuple(labels), skipped=tuple(skipped))

    def _split(
        self,
        folder: Folder,
        pairs: Sequence[Pair],
        categories: dict[Id, str],
        skipped: tuple[tuple[str, str], ...],
    ) -> AnnotatedSplit:
        rows = Rows(IMAGE_SCHEMA)
        for number, ((path, _), frame) in enumerate(
            zip(pairs, self.frames(folder, pairs), strict=True), 1
        ):
            width, height = frame or (None, None)
            rows.add(
                path,
                f"{folder.root}/{path}",
                size=folder.sizes[path],
                image_id=number,
                frame_width=width,
                frame_height=height,
            )
        table = rows.table()
        bare = sum(label is None for _, label in pairs)
        told = f"{bare:,} of {len(pairs):,} images have no label file and count as without objects"
        return AnnotatedSplit(
            name=dirname(pairs[0][0]) or ".",
            categories=categories,
            rows=table,
            objects=PairedObjects(
                uri=self.uri,
                labels={found: n for n, found in enumerate(categories)},
                # From 1 on, as the rows are numbered.
                image_ids=np.arange(1, len(pairs) + 1),
                frames=frames_of(table),
                files=pa.array([label for _, label in pairs], pa.string()),
                parse=self.parser(),
            ),
            skipped=skipped,
            notes=(f"{dirname(pairs[0][0]) or '.'}: {told}",) if bare else (),
        )


@dataclass(frozen=True)
class NamedSource(PairedSource):
    """Label files that name the classes, and the size of their image."""

    def frames(self, folder: Folder, pairs: Sequence[Pair]) -> list[Frame | None]:
        """See `PairedSource.frames`: the label files say them."""
        found = _labels_of(folder, pairs, self.parser())
        # Only labelled images have a file; the files come in the order of the pairs.
        return [next(found).frame if label else None for _, label in pairs]

    def categories(self, folder: Folder, pairs: Sequence[Pair]) -> dict[Id, str]:
        """See `PairedSource.categories`: sorted names."""
        if self.classes:
            return by_id(read_classes(self.classes))
        found = _labels_of(folder, pairs, self.parser())
        return by_id(sorted({name for file in found for name in _names(file)}))


def by_id(names: Iterable[str]) -> dict[Id, str]:
    """Names of classes by what their objects call them."""
    return {read_id({"name": name}, "name"): name for name in names}


def _labels_of(folder: Folder, pairs: Sequence[Pair], parse: Parse) -> Iterator[LabelFile]:
    names = [label for _, label in pairs if label]
    return read_labels(folder.fs, folder.root, names, [None] * len(names), parse)


def _names(file: LabelFile) -> Iterator[str]:
    for label in file.labels:
        name = None if isinstance(label.fields, FaultError) else label.fields["category_id"]
        if (isinstance(name, int) or is_text(name)) and str(name).strip():
            yield str(name).strip()


def _known(frame: Sequence[int]) -> Frame | None:
    width, height = frame
    return (width, height) if width and height else None
