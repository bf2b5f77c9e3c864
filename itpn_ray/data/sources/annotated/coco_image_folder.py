"""Where the files of a COCO data set lie: annotation files, and the images that they name.

COCO keeps ``annotations/instances_train2017.json`` beside ``train2017/``; programs that annotate
write ``train/_annotations.coco.json`` among the images (Roboflow), ``instances_default.json``
beside ``images/`` (CVAT), ``result.json`` above it (Label Studio), or ``train_annotations.json``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from posixpath import basename, dirname, splitext

from pyarrow.fs import FileSystem, FileType

from itpn_ray.data.annotations.json_stream import stream_object
from itpn_ray.data.sources.splits import split_of_name
from itpn_ray.data.sources.walk import children
from itpn_ray.errors import DataError
from itpn_ray.storage import join

_FOLDERS = ("images", "JPEGImages", "data", "image", "imgs", "img")
_KEYS = ("images", "annotations")
# Entries looked at for one of the keys.
_LOOKED_AT = 1000


def is_coco(fs: FileSystem, path: str) -> bool:
    """Whether a JSON file lists images or annotations as COCO does."""
    try:
        with fs.open_input_stream(path) as stream:
            for _, (key, value) in zip(range(_LOOKED_AT), stream_object(stream), strict=False):
                if key in _KEYS:
                    return isinstance(value, dict) and bool({"file_name", "image_id"} & set(value))
    except (OSError, ValueError, RecursionError):
        return False
    return False


@dataclass(frozen=True)
class ImageFolder:
    """Where the images of an annotation file lie.

    Attributes:
        folder: relative to the source.
        tail: how many last parts of their names count (0: all).
    """

    folder: str
    tail: int

    def path(self, file_name: str) -> str:
        """An image's path relative to the source, from its name in any system's form."""
        # Names written on Windows have backslashes; ".." must not lead out of the source.
        parts = [p for p in file_name.replace("\\", "/").split("/") if p not in ("", ".", "..")]
        # [-0:] is the whole list, so a tail of 0 keeps all parts.
        return "/".join([*filter(None, [self.folder]), *parts[-self.tail :]])


def find_image_folder(
    fs: FileSystem, root: str, name: str, split: str, file_names: Sequence[str]
) -> ImageFolder:
    """Where the images of an annotation file lie.

    Args:
        fs: where the source lies.
        root: the source in it.
        name: the annotation file, relative to the source.
        split: which it is.
        file_names: of some images, as the file has them.

    Raises:
        DataError: none of the images is in any of the usual folders.
    """
    folders = list(dict.fromkeys(_folders(fs, root, name, split)))
    # The whole name before its last two parts before the last: patch8/1.jpg is not patch9/1.jpg.
    for file_name, folder, tail in product(file_names, folders, (0, 2, 1)):
        place = ImageFolder(folder, tail)
        if fs.get_file_info(f"{root}/{place.path(file_name)}").type == FileType.File:
            return place
    raise DataError(
        join(root, name),
        file_names[0],
        f"is in none of the usual folders (beside the file, images/, {split}/, images/{split}/)",
        "Put the images beside the annotation file or into images/",
    )


def _folders(fs: FileSystem, root: str, name: str, split: str) -> Iterator[str]:
    """Folders that may hold the images, the likeliest first."""
    stem = splitext(basename(name))[0].rpartition("_")[2]  # train2017, train
    here = dirname(name)
    yield from dict.fromkeys((here, dirname(here)))
    for above in dict.fromkeys((here, dirname(here), "")):
        known = [above, *(f"{above}/{folder}".strip("/") for folder in _FOLDERS)]
        for place in known:
            yield f"{place}/{stem}".strip("/")
            yield from _folders_of(fs, root, place, split)
        yield f"{above}/{stem}/images".strip("/")
        yield from known[1:]


def _folders_of(fs: FileSystem, root: str, place: str, split: str) -> Iterator[str]:
    """The folders in a place whose names say the split, and the images' folders in them."""
    where = f"{root}/{place}".rstrip("/")
    if fs.get_file_info(where).type != FileType.Directory:
        return
    for entry in children(fs, where):
        if entry.is_folder and split_of_name(entry.name) == split:
            found = f"{place}/{entry.name}".strip("/")
            yield found
            yield from (f"{found}/{folder}" for folder in _FOLDERS)
