"""YOLO: ``images/train/a.jpg`` and ``labels/train/a.txt``, or ``train/images/`` and
``train/labels/``, or both files side by side; classes and splits in ``data.yaml``.

Without it the splits are those of the folders, and the classes stand in ``classes.txt`` or
``obj.names``, or are the numbers that occur. Labels are shares of the image's sides, so the
header of every image is read first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from posixpath import basename, dirname

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.sources.annotated.coco_entries import Frame
from itpn_ray.data.sources.annotated.ids import Id, read_id
from itpn_ray.data.sources.annotated.label_file import LabelFile, Parse
from itpn_ray.data.sources.annotated.paired import Folder, Pair, PairedSource, Parts, read_labels
from itpn_ray.data.sources.annotated.pairs import Skipped, read_files
from itpn_ray.data.sources.annotated.sizes import upright_sizes
from itpn_ray.data.sources.annotated.yolo_labels import parse_yolo
from itpn_ray.data.sources.annotated.yolo_yaml import YoloYaml, find_yaml
from itpn_ray.data.sources.lists import read_classes
from itpn_ray.data.sources.text import decode
from itpn_ray.errors import DataError
from itpn_ray.storage import join

CLASS_LISTS = ("classes.txt", "obj.names", "labels.txt", "predefined_classes.txt")
_NO_LABELS = (*CLASS_LISTS, "train.txt", "val.txt", "valid.txt", "test.txt", "readme.txt")
_ANY: Frame = (1, 1)


@dataclass(frozen=True)
class YoloSource(PairedSource):
    """A data set of YOLO."""

    def is_label(self, path: str) -> bool:
        """See `PairedSource.is_label`."""
        name = basename(path).lower()
        return name.endswith(".txt") and name not in _NO_LABELS and not name.startswith("readme.")

    def parser(self) -> Parse:
        """See `PairedSource.parser`."""
        return parse_yolo

    def frames(self, folder: Folder, pairs: Sequence[Pair]) -> list[Frame | None]:
        """See `PairedSource.frames`: from the headers of the images."""
        return list(upright_sizes(folder.fs, (f"{folder.root}/{path}" for path, _ in pairs)))

    def categories(self, folder: Folder, pairs: Sequence[Pair]) -> dict[Id, str]:
        """See `PairedSource.categories`."""
        found = find_yaml(folder.fs, folder.root)
        if self.classes:
            return dict(enumerate(read_classes(self.classes)))
        if found is not None and found.names:
            return found.names
        for name in CLASS_LISTS:
            (data,) = read_files(folder.fs, [f"{folder.root}/{name}"])
            if isinstance(data, bytes):
                return dict(enumerate(read_classes(join(self.uri, name))))
        names = [label for _, label in pairs if label]
        # Class numbers do not depend on the size, so any will do.
        read = read_labels(folder.fs, folder.root, names, [_ANY] * len(names), parse_yolo)
        return {number: str(number) for number in sorted({n for f in read for n in _numbers(f)})}

    def divide(self, folder: Folder, pairs: Sequence[Pair]) -> tuple[Parts, Skipped]:
        """See `PairedSource.divide`."""
        found = find_yaml(folder.fs, folder.root)
        if self.splits.given or found is None or not found.splits:
            return super().divide(folder, pairs)
        chosen = {split: self._images(folder, found, split) for split in found.splits}
        skipped: Skipped = []
        for split in [split for split in chosen if split != "train"]:
            if chosen[split] == chosen.get("train"):
                reason = f"{split} names the images of train, so it is left out"
                skipped.append((found.name, reason))
                del chosen[split]
        parts: Parts = {}
        for pair in pairs:
            # An image that several splits name goes to the first.
            named = next((name for name, images in chosen.items() if pair[0] in images), None)
            if named is None:
                skipped.append((pair[0], f"in no split of {found.name}"))
            else:
                parts.setdefault(named, []).append(pair)
        return parts, skipped

    def _images(self, folder: Folder, found: YoloYaml, split: str) -> set[str]:
        """The images that a split names.

        Raises:
            DataError: one of its folders or lists is not there, or holds no image.
        """
        inside: dict[str, list[str]] = {}
        for path in folder.sizes:
            above = dirname(path)
            # Every folder above counts it, so that a split may name any of them.
            while above:
                inside.setdefault(above, []).append(path)
                above = dirname(above)
        chosen: set[str] = set()
        for entry in found.splits[split]:
            images = set(self._resolve(folder, inside, entry))
            if not images:
                raise DataError(
                    join(self.uri, found.name),
                    None,
                    f"{split} is {entry.lstrip('/')}, where no images are",
                    "Give folders relative to this file",
                )
            chosen |= images
        return chosen

    def _resolve(self, folder: Folder, inside: dict[str, list[str]], entry: str) -> list[str]:
        """The images of a folder or list, wherever on its path the data set begins."""
        for path in _tails(entry):
            if path in inside:
                return inside[path]
            if path.endswith(".txt"):
                (data,) = read_files(folder.fs, [f"{folder.root}/{path}"])
                if isinstance(data, bytes):
                    return list(self._listed(folder, path, data))
        # The folder of the description itself ("." or the root's name) holds all.
        return list(folder.sizes) if basename(entry.rstrip("/")) in ("", ".") else []

    @staticmethod
    def _listed(folder: Folder, name: str, data: bytes) -> Iterator[str]:
        try:
            lines = decode(data).splitlines()
        except ValueError as error:
            raise DataError(name, None, f"is no text: {error}", "Save it in UTF-8") from error
        for line in filter(str.strip, lines):
            found = next((path for path in _tails(line.strip()) if path in folder.sizes), None)
            if found is None:
                raise DataError(
                    name, line.strip(), "is no image of this data set", "Correct the list"
                )
            yield found


def _tails(entry: str) -> Iterator[str]:
    """A path without more and more of its first folders: what remains may be relative."""
    parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        yield "/".join(parts[start:])


def _numbers(file: LabelFile) -> Iterator[int]:
    """The class numbers of a label file."""
    for label in file.labels:
        if not isinstance(label.fields, FaultError):
            number = read_id(label.fields, "category_id")
            if isinstance(number, int):
                yield number
