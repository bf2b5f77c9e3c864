"""COCO's panoptic masks: ``annotations/panoptic_train2017.json`` beside a folder of PNG.

A pixel's colour is the number of a segment, R + 256 G + 65,536 B, which the JSON file gives a
class, image by image; 0 is ignored. Images lie in ``train2017/`` or ``images/train2017/``.
"""

from __future__ import annotations

from dataclasses import dataclass
from posixpath import splitext
from typing import Any

import pyarrow as pa
from pyarrow.fs import FileSystem, FileType

from itpn_ray.data.annotations.class_masks import MaskValues, segment_text
from itpn_ray.data.sources.annotated.objects import read_arrays
from itpn_ray.data.sources.base import Listing, Rows
from itpn_ray.data.sources.masks.source import SCHEMA, MaskSource
from itpn_ray.data.sources.splits import SPLITS, unclear
from itpn_ray.data.sources.walk import children
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem, join

_FOLDER = "annotations"
_START = "panoptic_"


@dataclass(frozen=True)
class PanopticSource(MaskSource):
    """A data set in COCO's panoptic form; see the module."""

    def listing(self) -> Listing:
        """See `Source.listing`; images are sorted by name."""
        fs, root = filesystem(self.uri)
        files = self._files(fs, root)
        if not files:
            raise DataError(
                "prepare.source",
                self.uri,
                f"holds no {_FOLDER}/{_START}NAME.json of a split",
                "Give the folder of the whole data set, or name its files with --splits",
            )
        uris = {split: join(self.uri, _FOLDER, f"{name}.json") for split, name in files.items()}
        found = {split: _read(uri) for split, uri in uris.items()}
        categories = next(iter(found.values()))[0]
        for split, (others, _) in found.items():
            if others != categories:
                cause = "names other categories than that of another split"
                raise DataError(uris[split], None, cause, "Prepare them apart")
        # Labels follow the ids, so that they do not depend on the file's order.
        numbers = {number: label for label, number in enumerate(sorted(categories))}
        rows = {
            split: self._rows(fs, root, files[split], entries, numbers)
            for split, (_, entries) in found.items()
        }
        return Listing(
            kind="segmentation",
            classes=tuple(categories[number] for number in numbers),
            splits={split: rows[split] for split in SPLITS if split in rows},
            origins={split: f"{_FOLDER}/{name}.json" for split, name in files.items()},
            # What an image's own segments mean travels in its row; only 0 is common to all.
            masks=MaskValues(values=(0,), classes=(-1,), coding="segments"),
        )

    def _files(self, fs: FileSystem, root: str) -> dict[str, str]:
        """Each split and the name of its file, without suffix.

        Raises:
            DataError: a split has two files, or the user named one that is not there.
        """
        parts = [splitext(entry.name) for entry in children(fs, f"{root}/{_FOLDER}")]
        names = [
            name.removeprefix(_START)
            for name, suffix in parts
            if name.startswith(_START) and suffix == ".json"
        ]
        self.splits.check_used(names, self.uri)
        found: dict[str, str] = {}
        for name in names:
            split = self.splits.of_name(name)
            if split in found:
                raise unclear(
                    self.uri, names, f"{found[split]}.json and {_START}{name}.json are both {split}"
                )
            if split:
                found[split] = f"{_START}{name}"
        return found

    def _rows(
        self,
        fs: FileSystem,
        root: str,
        name: str,
        entries: list[dict[str, Any]],
        numbers: dict[int, int],
    ) -> pa.Table:
        """The images of a file, with their masks and what the segments of these are."""
        usual = name.removeprefix(_START)
        nested = fs.get_file_info(f"{root}/images/{usual}").type == FileType.Directory
        folder = f"images/{usual}" if nested else usual
        rows = Rows(SCHEMA)
        for entry in sorted(entries, key=lambda entry: entry["image"]):
            path, mask = f"{folder}/{entry['image']}", f"{_FOLDER}/{name}/{entry['mask']}"
            segments = {number: numbers[category] for number, category in entry["segments"]}
            rows.add(
                path,
                f"{root}/{path}",
                mask_path=mask,
                mask_file=f"{root}/{mask}",
                mask_segments=segment_text(segments),
            )
        return rows.table()


def _read(uri: str) -> tuple[dict[int, str], list[dict[str, Any]]]:
    """Names of the categories by number; and images with mask and (segment, category) pairs.

    Raises:
        DataError: the file cannot be read, or an entry lacks a field or names nothing there is.
    """
    categories: dict[int, str] = {}
    images: dict[int, str] = {}
    entries: list[dict[str, Any]] = []
    try:
        for key, value in read_arrays(uri, ("images", "annotations", "categories")):
            if key == "categories":
                categories[int(value["id"])] = str(value["name"])
            elif key == "images":
                images[int(value["id"])] = str(value["file_name"])
            else:
                pairs = [(int(s["id"]), int(s["category_id"])) for s in value["segments_info"]]
                number, mask = int(value["image_id"]), str(value["file_name"])
                entries.append({"image": number, "mask": mask, "segments": pairs})
        # The lists may come in any order, so names are looked up at the end.
        for entry in entries:
            entry["image"] = images[entry["image"]]
            for _, category in entry["segments"]:
                categories[category]  # KeyError where it is not listed
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            uri,
            str(error),
            "is a field that an entry lacks, or an image or category that there is not",
            "Correct the file, or download it again",
        ) from error
    return categories, entries
