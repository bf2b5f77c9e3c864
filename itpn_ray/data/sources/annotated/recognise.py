"""Tells by a look into a few files how the objects of a source are annotated."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from posixpath import basename

from pyarrow.fs import FileSystem

from itpn_ray.data.sources.annotated.coco import annotation_files
from itpn_ray.data.sources.annotated.dota import holds_dota
from itpn_ray.data.sources.annotated.label_file import Parse
from itpn_ray.data.sources.annotated.labelme import parse_labelme
from itpn_ray.data.sources.annotated.metadata import LABELS, OBJECTS, metadata_files
from itpn_ray.data.sources.annotated.near import files_near
from itpn_ray.data.sources.annotated.pairs import is_image, pair_key, read_files
from itpn_ray.data.sources.annotated.safe_xml import parse_xml
from itpn_ray.data.sources.annotated.turned_xml import holds_turned
from itpn_ray.data.sources.annotated.voc import ROOT, parse_voc
from itpn_ray.data.sources.annotated.yolo import CLASS_LISTS
from itpn_ray.data.sources.annotated.yolo_labels import parse_yolo
from itpn_ray.data.sources.annotated.yolo_yaml import find_yaml
from itpn_ray.data.sources.walk import Entry
from itpn_ray.errors import DataError

# Label files looked into: some are empty.
_LOOKED_AT = 50
_FOREIGN = {
    "_annotations.createml.json": "CreateML",
    "_annotations.csv": "TensorFlow's CSV of boxes",
    "via_region_data.json": "the VGG Image Annotator",
    "via_project.json": "the VGG Image Annotator",
}


def annotated_format(fs: FileSystem, root: str) -> str | None:
    """The format of a source of images with objects; ``None`` if it seems to be none.

    Raises:
        DataError: annotations were recognised that cannot be read.
    """
    files = files_near(fs, root)
    names = annotation_files(fs, root, files)
    if any("zhiyuan_objv2_" in name for name in names):
        return "objects365"
    if names:
        return "coco"
    texts = _texts_of_images(files)
    # Before YOLO: a line that ends in a class's name is never one of its own.
    if any(isinstance(data, bytes) and holds_dota(data) for data in _first(fs, texts)):
        return "dota"
    if _is_yolo(fs, root, files, texts):
        return "yolo"
    xmls = list(_of_suffix(files, ".xml"))
    # Before Pascal VOC, whose root DIOR's files share.
    if any(isinstance(data, bytes) and holds_turned(data) for data in _first(fs, xmls)):
        return "turned-xml"
    if _any_reads(fs, parse_voc, xmls):
        return "voc"
    if _any_reads(fs, parse_labelme, _of_suffix(files, ".json")):
        return "labelme"
    if metadata_files(fs, root, files, OBJECTS):
        return "metadata"
    if metadata_files(fs, root, files, LABELS):
        return "metadata-labels"
    _refuse_foreign(fs, root, files)
    return None


def _texts_of_images(files: Sequence[Entry]) -> list[str]:
    """Texts that lie where the labels of an image would."""
    texts = list(_of_suffix(files, ".txt"))
    images = {pair_key(entry.path) for entry in files if texts and is_image(entry)}
    return [path for path in texts if pair_key(path) in images]


def _first(fs: FileSystem, paths: Sequence[str]) -> Iterator[bytes | OSError]:
    return read_files(fs, islice(paths, _LOOKED_AT))


def _is_yolo(fs: FileSystem, root: str, files: Sequence[Entry], texts: Sequence[str]) -> bool:
    """Whether the texts of images are of boxes, or data.yaml says it."""
    if texts and find_yaml(fs, root) is not None:
        return True
    named = any(entry.name.lower() in CLASS_LISTS for entry in files)
    for data in _first(fs, texts):
        # The first file that is not empty decides.
        if isinstance(data, bytes) and data.strip():
            return _holds_objects(data)
    return bool(texts) and named


def _holds_objects(data: bytes) -> bool:
    try:
        labels = parse_yolo(data, (1, 1)).labels
    except ValueError:
        return False
    return any(isinstance(label.fields, dict) for label in labels)


def _any_reads(fs: FileSystem, parse: Parse, paths: Iterable[str]) -> bool:
    """Whether one of the first files of a suffix is one of a format."""
    for data in read_files(fs, islice(paths, _LOOKED_AT)):
        try:
            if isinstance(data, bytes):
                parse(data, None)
                return True
        except ValueError:
            continue
    return False


def _refuse_foreign(fs: FileSystem, root: str, files: Sequence[Entry]) -> None:
    program = next((f"{_FOREIGN[e.name]} ({e.name})" for e in files if e.name in _FOREIGN), None)
    program = program or next(_other_xml(fs, files), None)
    if program is not None:
        raise DataError(
            "prepare.source",
            root,
            f"has annotations of {program}, which cannot be read",
            "Export them as COCO, YOLO or Pascal VOC",
        )


def _other_xml(fs: FileSystem, files: Sequence[Entry]) -> Iterator[str]:
    paths = list(islice(_of_suffix(files, ".xml"), 3))
    for path, data in zip(paths, read_files(fs, paths), strict=True):
        try:
            root = parse_xml(data) if isinstance(data, bytes) else None
        except ValueError:
            continue
        if root is not None and root.tag != ROOT and root.find(".//image") is not None:
            yield f"another XML form ({basename(path)})"


def _of_suffix(files: Sequence[Entry], suffix: str) -> Iterator[str]:
    return (entry.path for entry in files if entry.name.lower().endswith(suffix))
