"""Pascal VOC and labelme: label files that name the classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from posixpath import basename, dirname, splitext

from itpn_ray.data.sources.annotated.label_file import Parse
from itpn_ray.data.sources.annotated.labelme import parse_labelme
from itpn_ray.data.sources.annotated.paired import Folder, NamedSource, Pair, Parts
from itpn_ray.data.sources.annotated.pairs import Skipped, read_files
from itpn_ray.data.sources.annotated.voc import parse_voc
from itpn_ray.data.sources.text import decode
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError

_LIST = re.compile(r"(?:(.*)/)?ImageSets/(?:Main/)?(train|val|test|trainval)\.txt")


@dataclass(frozen=True)
class VocSource(NamedSource):
    """Pascal VOC: ``JPEGImages/a.jpg`` and ``Annotations/a.xml``, or both side by side.

    Lists in ``ImageSets/Main/`` say the splits; where there are none, folders do.
    """

    def is_label(self, path: str) -> bool:
        """See `PairedSource.is_label`."""
        return path.lower().endswith(".xml")

    def parser(self) -> Parse:
        """See `PairedSource.parser`."""
        return parse_voc

    def divide(self, folder: Folder, pairs: Sequence[Pair]) -> tuple[Parts, Skipped]:
        """See `PairedSource.divide`."""
        listed = self._listed(folder)
        if self.splits.given or not listed:
            return super().divide(folder, pairs)
        parts: Parts = {}
        skipped: Skipped = []
        for image, label in pairs:
            name = splitext(basename(image))[0]
            # JPEGImages/ lies beside ImageSets/, in the folder above.
            split = listed.get((dirname(dirname(image)), name))
            if split is None:
                skipped.append((image, "in no list of ImageSets/Main"))
            else:
                parts.setdefault(split, []).append((image, label))
        return parts, skipped

    @staticmethod
    def _listed(folder: Folder) -> dict[tuple[str, str], str]:
        """(folder, name) of an image -> its split; of several lists the first of train, val, test.

        Without a list of train it is what trainval has beside val and test.

        Raises:
            DataError: a list cannot be read.
        """
        below = files_below(folder.fs, folder.root)
        paths = [entry.path for entry in below if not entry.problem]
        names = [path.removeprefix(f"{folder.root}/") for path in paths]
        lists = [found for name in names if (found := _LIST.fullmatch(name))]
        kinds = {found[2] for found in lists}
        # trainval repeats train and val: without train, what no other list has is train.
        order = ["train", "val", "test"] if "train" in kinds else ["val", "test", "trainval"]
        listed: dict[tuple[str, str], str] = {}
        for kind in order:
            chosen = [found for found in lists if found[2] == kind]
            files = read_files(folder.fs, (f"{folder.root}/{found[0]}" for found in chosen))
            for found, data in zip(chosen, files, strict=True):
                for line in _lines(found[0], data):
                    split = "train" if kind == "trainval" else kind
                    listed.setdefault((found[1] or "", line.split()[0]), split)
        return listed


@dataclass(frozen=True)
class LabelmeSource(NamedSource):
    """Labelme: ``a.json`` beside ``a.jpg``, or in a folder beside that of the images."""

    def is_label(self, path: str) -> bool:
        """See `PairedSource.is_label`."""
        return path.lower().endswith(".json")

    def parser(self) -> Parse:
        """See `PairedSource.parser`."""
        return parse_labelme


def _lines(name: str, data: bytes | OSError) -> list[str]:
    try:
        text = decode(data) if isinstance(data, bytes) else ""
    except ValueError as error:
        raise DataError(name, None, f"is no text: {error}", "Save it in UTF-8") from error
    if isinstance(data, OSError):
        raise DataError(name, None, f"cannot be read: {data}", "Check your rights")
    return [line for line in text.splitlines() if line.strip()]
