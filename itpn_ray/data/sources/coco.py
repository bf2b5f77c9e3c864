"""COCO and Objects365: images in folders, objects in one JSON file a split.

- COCO: ``annotations/instances_train2017.json``, images in ``train2017/``.
- Objects365 v2: ``annotations/zhiyuan_objv2_train.json`` names
  ``images/v1/patch8/objects365_v1_00420917.jpg``, the image is
  ``train/patch8/objects365_v1_00420917.jpg``.

Any COCO-like set is understood whose annotation files lie in ``annotations/``, begin with
``instances_`` or ``zhiyuan_objv2_`` (or are the only ones) and name their split.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from posixpath import relpath

from pyarrow.fs import FileSystem

from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.sources.base import Listing, Source
from itpn_ray.data.sources.coco_file import CocoFile, read_coco_file
from itpn_ray.data.sources.splits import USUAL_NAMES, SplitNames
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem, join

_PREFIXES = ("instances_", "zhiyuan_objv2_")


@dataclass(frozen=True)
class CocoSource(Source):
    """A data set with COCO annotations.

    Attributes:
        uri: the folder with ``annotations/``.
        splits: names of the splits.
    """

    uri: str
    splits: SplitNames = USUAL_NAMES

    def listing(self) -> Listing:
        """See `Source.listing`; images in the order of the annotation file."""
        files = dict(self.files())
        classes = next(iter(files.values())).categories
        for file in files.values():
            for fault in file.faults:
                if fault.kind == kinds.CATEGORY_TWICE:
                    raise DataError(fault.place, None, fault.reason, "Make ids unique")
        return Listing(
            kind="detection",
            classes=tuple(classes.values()),
            class_ids=tuple(classes),
            splits={split: file.rows for split, file in files.items()},
            origins={split: file.name for split, file in files.items()},
            skipped=tuple((f.place, f.reason) for file in files.values() for f in file.faults),
            annotations={split: file.objects for split, file in files.items()},
        )

    def files(self) -> Iterator[tuple[str, CocoFile]]:
        """Each split with its annotation file, read but for the objects; train first.

        Raises:
            DataError: there is none, or one is not understood.
        """
        fs, root = filesystem(self.uri)
        classes: dict[int, str] = {}
        for split, name in self._annotation_files(fs, root).items():
            uri = join(self.uri, name)
            file = read_coco_file(fs, root, name, uri)
            classes = classes or file.categories
            if file.categories != classes:
                raise DataError(uri, None, "lists other categories than train", "Make them equal")
            yield split, file

    def _annotation_files(self, fs: FileSystem, root: str) -> dict[str, str]:
        """Split -> annotation file, relative to the root; train first."""
        below = files_below(fs, f"{root}/annotations")
        files = [entry for entry in below if not entry.problem and entry.name.endswith(".json")]
        files = [entry for entry in files if entry.name.startswith(_PREFIXES)] or files
        found: dict[str, str] = {}
        for entry in files:
            name = relpath(entry.path, root)
            split = self.splits.of_file(entry.name)
            if split in found:
                raise DataError(
                    "prepare.source",
                    self.uri,
                    f"{found[split]} and {name} are both {split}",
                    "Leave one of them in annotations/",
                )
            if split is not None:
                found[split] = name
        if not found:
            raise DataError(
                "prepare.source",
                self.uri,
                "has no annotations/*.json that names its split (instances_train2017.json)",
                "Check the folder",
            )
        return {split: found[split] for split in ("train", "val", "test") if split in found}
