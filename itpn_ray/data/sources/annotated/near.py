"""The files by which a source is recognised: in its folder, and in those that may hold annotations.

Class folders are not looked into: there may be thousands.
"""

from __future__ import annotations

from collections.abc import Iterator
from posixpath import relpath

from pyarrow.fs import FileSystem

from itpn_ray.data.sources.splits import split_of_name
from itpn_ray.data.sources.walk import Entry, children

IMAGE_FOLDERS = (
    *("images", "image", "jpegimages", "imgs", "img"),
    *("jpegimages-trainval", "jpegimages-test", "allimages"),
)
ANNOTATION_FOLDERS = (
    *(
        "annotations",
        "annotation",
        "anns",
        "ann",
        "labels",
        "label",
        "labeltxt",
        "labeltxt-v1.0",
        "labeltxt-v1.5",
        "dota-v1.5_train",
        "dota-v1.5_val",
        "oriented bounding boxes",
        "xml",
        "xmls",
        "json",
    ),
    *("masks", "mask", "segmentationclass", "segmentationobject", "gt"),
)
"""How folders beside the images are called, in small letters."""
_OTHERS = (
    *("data", "dataset", "obj_train_data", "obj", "imagesets", "main", "default"),
    *("vocdevkit", "fulldataset"),
)
_FILES = (".json", ".jsonl", ".xml", ".yaml", ".yml")
_DEPTH = 3


def files_near(fs: FileSystem, folder: str, depth: int = _DEPTH) -> list[Entry]:
    """Files in a folder and in its likely subfolders, at most so deep, the upper ones first."""
    found = [entry for entry in children(fs, folder) if not entry.problem]
    files = [entry for entry in found if not entry.is_folder]
    inner = [entry for entry in found if entry.is_folder and depth and is_likely(entry.name)]
    return files + [file for entry in inner for file in files_near(fs, entry.path, depth - 1)]


def is_likely(name: str) -> bool:
    """Whether a folder of this name may hold annotations, or images beside them."""
    lower = name.lower()
    known = (*IMAGE_FOLDERS, *ANNOTATION_FOLDERS, *_OTHERS)
    return lower in known or lower.startswith("voc20") or split_of_name(name) is not None


def annotated_folders(fs: FileSystem, root: str) -> Iterator[tuple[str, str]]:
    """Folders of images with annotations beside them: in the source and in its splits."""
    inner = [e for e in children(fs, root) if e.is_folder and split_of_name(e.name) is not None]
    for place in (root, *(entry.path for entry in inner)):
        found = {entry.name.lower(): entry for entry in children(fs, place)}
        folders = {name: relpath(e.path, root) for name, e in found.items() if e.is_folder}
        images = [folders[name] for name in IMAGE_FOLDERS if name in folders]
        beside = [folders[name] for name in ANNOTATION_FOLDERS if name in folders]
        beside += [relpath(e.path, root) for name, e in found.items() if name.endswith(_FILES)]
        if images and beside:
            yield images[0], beside[0]
