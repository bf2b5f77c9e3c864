"""ImageNet as it is downloaded: a tar of a tar a class, and a tar of validation images.

ImageNet-22K is such a tar too, of 21,841 classes and without validation images.

The labels of the validation images come from a list or from the development kit
(`itpn_ray.data.sources.lists.read_labels`), which is found by its name beside the tars.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import basename

import pyarrow as pa
from pyarrow.fs import FileSystem

from itpn_ray.data.sources.base import (
    Listing,
    Rows,
    Source,
    check_classes,
    with_labels,
)
from itpn_ray.data.sources.labels import label_numbers
from itpn_ray.data.sources.lists import read_classes, read_labels
from itpn_ray.data.sources.tars import Member, members
from itpn_ray.data.sources.walk import children
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem, join

TRAIN = "ILSVRC2012_img_train.tar"
TRAIN_22K = ("fall11_whole.tar", "winter21_whole.tar")
"""ImageNet-22K's, of both releases; the second is unpacked from its .tar.gz first."""
VAL = "ILSVRC2012_img_val.tar"
DEVKIT = "ILSVRC2012_devkit_t12.tar.gz"


@dataclass(frozen=True)
class ImageNetTars(Source):
    """The official tars in one folder; without the validation tar, images of train are held out.

    Attributes:
        uri: the folder.
        classes: URI of a list of classes in the order of the labels; empty: sorted WordNet ids.
        labels: URI of the labels of the validation images; empty: the development kit.
    """

    uri: str
    classes: str = ""
    labels: str = ""

    def listing(self) -> Listing:
        """See `Source.listing`; train by class and file, val by file.

        Raises:
            DataError: there is no tar of training images, or what `Source.listing` refuses.
        """
        fs, root = filesystem(self.uri)
        names = {entry.name for entry in children(fs, root)}
        skipped: list[tuple[str, str]] = []
        tar = next((name for name in (TRAIN, *TRAIN_22K) if name in names), None)
        # The format may have been named for a folder that has another.
        if tar is None:
            raise DataError(
                "prepare.source",
                self.uri,
                f"holds none of {', '.join((TRAIN, *TRAIN_22K))}",
                "Give the folder with the official tars, or leave out --format",
            )
        train, classes = self._train(fs, f"{root}/{tar}", skipped)
        splits, origins = {"train": train}, {"train": tar}
        if VAL in names:
            labels = self.labels or (join(self.uri, DEVKIT) if DEVKIT in names else "")
            splits["val"] = self._val(fs, f"{root}/{VAL}", labels, classes, skipped)
            origins["val"] = VAL
        return Listing(
            kind="classification",
            classes=classes,
            splits=splits,
            origins=origins,
            skipped=tuple(skipped),
        )

    def _train(
        self, fs: FileSystem, path: str, skipped: list[tuple[str, str]]
    ) -> tuple[pa.Table, tuple[str, ...]]:
        rows, wnids = Rows(), []
        for member in _files(fs, path, skipped):
            if "/" not in member.name:
                raise DataError(
                    path, member.name, "lies in no tar or folder of a class", "Download it again"
                )
            rows.add(member.name, path, offset=member.offset, size=member.size)
            # The inner tar, or the folder, that the image lies in is its class.
            wnids.append(basename(member.name.split("/")[-2]).removesuffix(".tar"))
        classes = read_classes(self.classes) if self.classes else tuple(sorted(set(wnids)))
        check_classes(classes, self.uri)
        table = with_labels(rows.table(), label_numbers(wnids, classes, self.uri)[1])
        # A tar's own order is nobody's: sorted, the listing depends on names alone.
        return table.sort_by([("label", "ascending"), ("path", "ascending")]), classes

    def _val(
        self,
        fs: FileSystem,
        path: str,
        labels: str,
        classes: tuple[str, ...],
        skipped: list[tuple[str, str]],
    ) -> pa.Table:
        if not labels:
            raise DataError(
                "prepare.source",
                self.uri,
                f"has {VAL} but no labels for it",
                f"Put {DEVKIT} beside it, or name a list with --labels",
            )
        rows = Rows()
        for member in _files(fs, path, skipped):
            rows.add(member.name, path, offset=member.offset, size=member.size)
        # By name, the order in which lists give the labels.
        table = rows.table().sort_by("path")
        found = read_labels(labels, table.column("path").to_pylist())
        return with_labels(table, label_numbers(found, classes, labels)[1])


def _files(fs: FileSystem, path: str, skipped: list[tuple[str, str]]) -> Iterator[Member]:
    """The plain files of a tar; what else is in it is added to ``skipped``."""
    for member in members(fs, path):
        if member.problem:
            skipped.append((f"{basename(path)}/{member.name}", member.problem))
        else:
            yield member
