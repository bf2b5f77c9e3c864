"""``data.yaml`` of YOLO: the names of the classes, and where the images of each split lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from posixpath import basename
from typing import Any

import yaml
from pyarrow.fs import FileSystem

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.sources.annotated.ids import Id, is_text, read_id
from itpn_ray.data.sources.annotated.pairs import read_files
from itpn_ray.data.sources.splits import split_of_name
from itpn_ray.data.sources.text import decode
from itpn_ray.data.sources.walk import children
from itpn_ray.errors import DataError

_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, kw_only=True)
class YoloYaml:
    """What the file says.

    Attributes:
        name: of the file.
        names: of the classes by number; empty where it names none.
        splits: folders and lists of images of each split, as written, with ``path`` before them.
    """

    name: str
    names: dict[Id, str]
    splits: dict[str, list[str]]


def find_yaml(fs: FileSystem, root: str) -> YoloYaml | None:
    """The file that describes a source; ``None`` if there is none.

    Raises:
        DataError: there are several, or it is damaged.
    """
    there = [entry for entry in children(fs, root) if not entry.problem]
    paths = [entry.path for entry in there if entry.name.lower().endswith(_SUFFIXES)]
    found = [read for path in paths if (read := _read(fs, path)) is not None]
    # Training settings are kept as YAML beside it, with names and train too.
    usual = [read for read in found if read.name.startswith("data")] or found
    if len(usual) > 1:
        names = ", ".join(read.name for read in usual)
        raise DataError(root, None, f"has several descriptions ({names})", "Leave one there")
    return usual[0] if usual else None


def _read(fs: FileSystem, path: str) -> YoloYaml | None:
    """The description in a YAML file; ``None`` if it is about something else.

    Every scalar is read as text: a class may be called ``no``, ``1`` or ``3.10``.
    """
    (data,) = read_files(fs, [path])
    try:
        if isinstance(data, OSError):
            raise data
        found = yaml.load(decode(data), Loader=yaml.BaseLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        cause = " ".join(str(error).split())
        raise DataError(path, None, f"cannot be read: {cause}", "Fix it or remove it") from error
    if not isinstance(found, dict) or not {"names", "train", "val"} & set(found):
        return None
    try:
        return YoloYaml(
            name=basename(path),
            names=dict(_names(found.get("names"))),
            splits=dict(_splits(found)),
        )
    except (FaultError, TypeError) as error:
        cause = error.reason if isinstance(error, FaultError) else str(error)
        raise DataError(path, None, cause, "Write names as a list and splits as folders") from error


def _names(found: Any) -> Iterator[tuple[Id, str]]:
    """Classes by number, from a list or from a mapping of numbers."""
    if isinstance(found, list):
        found = {str(number): name for number, name in enumerate(found)}
    if found in (None, ""):
        return
    if not isinstance(found, dict) or not all(map(is_text, found.values())):
        raise TypeError("names is neither a list of names nor names by number")
    for number, name in found.items():
        yield read_id({"names": number}, "names"), name.strip()


def _splits(found: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    above = found.get("path") or ""
    if not is_text(above):
        raise TypeError("path is no folder")
    for key in ("train", "val", "valid", "validation", "test"):
        entries = found.get(key) or []
        entries = [entries] if isinstance(entries, str) else entries
        if not isinstance(entries, list) or not all(map(is_text, entries)):
            raise TypeError(f"{key} is neither a folder nor a list of folders")
        split = split_of_name(key)
        if entries and split is not None:
            yield split, [f"{above}/{entry}" for entry in entries]
