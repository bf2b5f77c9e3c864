"""COCO, Objects365 and what other programs write in COCO's form: a JSON file a split.

- COCO: ``annotations/instances_train2017.json``, images in ``train2017/``.
- Objects365 v2: ``annotations/zhiyuan_objv2_train.json`` names
  ``images/v1/patch8/objects365_v1_00420917.jpg``, the image is
  ``train/patch8/objects365_v1_00420917.jpg``.
- Any other JSON file with COCO's lists, see `coco_image_folder` beside this module. It, or a folder
  that it lies in, names its split; a single file that names none is ``train``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from posixpath import basename, relpath, splitext

from pyarrow.fs import FileSystem

from itpn_ray.data.sources.annotated.base import AnnotatedSource, AnnotatedSplit
from itpn_ray.data.sources.annotated.coco_file import read_coco_file
from itpn_ray.data.sources.annotated.coco_image_folder import is_coco
from itpn_ray.data.sources.annotated.ids import Id
from itpn_ray.data.sources.annotated.near import files_near
from itpn_ray.data.sources.annotated.pairs import is_image, pair_key
from itpn_ray.data.sources.splits import SPLITS, USUAL_NAMES, SplitNames
from itpn_ray.data.sources.walk import Entry, files_below
from itpn_ray.errors import DataError
from itpn_ray.formatting import show_names
from itpn_ray.storage import filesystem, join

# COCO's own, and those of Objects365's second version.
_PREFIXES = ("instances_", "zhiyuan_objv2_")


@dataclass(frozen=True)
class CocoSource(AnnotatedSource):
    """A data set with COCO annotations.

    Attributes:
        uri: the folder with the annotation files, or with the folders that hold them.
        splits: names of the splits.
    """

    uri: str
    splits: SplitNames = USUAL_NAMES

    def files(self) -> Iterator[tuple[str, AnnotatedSplit]]:
        """See `AnnotatedSource.files`."""
        fs, root = filesystem(self.uri)
        classes: dict[Id, str] = {}
        found, skipped = self._annotation_files(fs, root)
        for split, name in found.items():
            uri = join(self.uri, name)
            file = read_coco_file(fs, root, name, split, uri)
            # train comes first, so the others are held against it.
            classes = classes or file.categories
            if file.categories != classes:
                raise DataError(uri, None, "lists other categories than train", "Make them equal")
            yield split, replace(file, skipped=skipped)
            # Told once, with the first split.
            skipped = ()

    def _annotation_files(
        self, fs: FileSystem, root: str
    ) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
        """Split -> annotation file, train first; and (file, reason) of those that name no split."""
        files = annotation_files(fs, root, files_near(fs, root))
        if files:
            self.splits.check_used(files, self.uri)
        found: dict[str, str] = {}
        for name in files:
            # Exports of one file name no split; with --splits the user has said which count.
            alone = "train" if len(files) == 1 and not self.splits.given else None
            split = self.splits.of_file(splitext(name)[0]) or alone
            if split in found:
                raise DataError(
                    "prepare.source",
                    self.uri,
                    f"{found[split]} and {name} are both {split}",
                    "Leave one of them there",
                )
            if split is not None:
                found[split] = name
        if not found:
            seen = show_names(files)
            cause = (
                f"has several annotation files, none of which names its split ({seen})"
                if files
                else "has no COCO annotations that name a split (instances_train2017.json)"
            )
            raise DataError("prepare.source", self.uri, cause, "Name them train.json and val.json")
        skipped = [
            (name, "left out: it names no split") for name in files if name not in found.values()
        ]
        return {split: found[split] for split in SPLITS if split in found}, tuple(skipped)


def annotation_files(fs: FileSystem, root: str, near: Sequence[Entry]) -> list[str]:
    """The COCO annotation files of a source, relative to it.

    Those with COCO's and Objects365's own names count alone where there are any: beside them lie
    captions and key points. A file that is named as an image is of that image alone.

    Args:
        fs: where the source lies.
        root: the source in it.
        near: its files, as `files_near` lists them.
    """
    below = files_below(fs, f"{root}/annotations")
    found = [*near, *(entry for entry in below if not entry.problem)]
    # `near` may have looked into annotations/ already.
    paths = list(dict.fromkeys(e.path for e in found if e.name.lower().endswith(".json")))
    named = [path for path in paths if basename(path).startswith(_PREFIXES)]
    if not named and paths:
        images = {pair_key(entry.path) for entry in near if is_image(entry)}
        named = [p for p in paths if pair_key(p) not in images and is_coco(fs, p)]
    return [relpath(path, root) for path in named]
