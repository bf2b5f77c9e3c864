"""The full release of ADE20K: thousands of names, in folders of scenes.

``images/ADE/SPLIT/**/NAME.jpg`` with ``NAME_seg.png`` and ``NAME.json`` beside it. A pixel of the
mask has the number of an object's name, 256 (R // 10) + G, and that of the object in B; the JSON
files say which name a number stands for. 0 is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from pyarrow.fs import FileSystem

from itpn_ray.data.annotations.class_masks import IGNORED, MaskValues
from itpn_ray.data.sources.walk import files_below
from itpn_ray.errors import DataError

IMAGES = "images/ADE"
_THREADS = 16
Names = dict[int, str]


def object_names(fs: FileSystem, root: str) -> Names:
    """What each number stands for, from the JSON files of all images.

    Raises:
        DataError: a file cannot be read, or two disagree.
    """
    paths = [e.path for e in files_below(fs, f"{root}/{IMAGES}") if e.name.endswith(".json")]
    names: Names = {}
    with ThreadPoolExecutor(_THREADS) as pool:
        for path, found in zip(paths, pool.map(partial(_names_in, fs), paths), strict=True):
            for number, name in found.items():
                if names.setdefault(number, name) != name:
                    raise DataError(
                        path, name, f"is number {number}, as is {names[number]}", "Correct one"
                    )
    return names


def _names_in(fs: FileSystem, path: str) -> Names:
    """The names of an image's objects, without those of their parts."""
    try:
        with fs.open_input_stream(path) as stream:
            # The published files are not all UTF-8; what is not is in texts that nobody reads.
            whole = json.loads(stream.read().decode("utf-8", errors="replace"))
        objects = whole["annotation"]["object"]
        return {
            int(each["name_ndx"]): str(each["name"]).strip()
            for each in objects
            # Level 0 is the object itself; deeper levels are its parts, in masks of their own.
            if int(each["parts"]["part_level"]) == 0
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            path, None, f"is no list of an image's objects ({error!r})", "Download it again"
        ) from error


def full_values(
    names: Names, chosen: Sequence[str], uri: str
) -> tuple[tuple[str, ...], MaskValues]:
    """Classes, and what the masks' numbers mean.

    Args:
        names: of all numbers.
        chosen: the classes to keep, as ADE20K names objects; the other names are ignored. Empty:
            all names, in the order of their numbers.
        uri: the source, for the error.

    Raises:
        DataError: no object has any of the names.
    """
    # Several numbers can share a name: `fromkeys` makes them one class.
    classes = tuple(chosen) or tuple(dict.fromkeys(names[number] for number in sorted(names)))
    labels = {name: label for label, name in enumerate(classes)}
    if not labels.keys() & set(names.values()):
        raise DataError(
            "prepare.classes", uri, "holds no object of these classes", "Give names of ADE20K's"
        )
    # All numbers up to the largest, so that unnamed ones are known too, as ignored.
    numbers = range(max(names) + 1)
    return classes, MaskValues(
        values=tuple(numbers),
        classes=tuple(_labels(names, labels, numbers)),
        coding="objects",
    )


def _labels(names: Names, labels: dict[str, int], numbers: Iterable[int]) -> Iterable[int]:
    return (labels.get(names.get(number, ""), IGNORED) for number in numbers)
