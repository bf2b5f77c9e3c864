"""Small files that come with data sets: class names, and labels of images."""

from __future__ import annotations

import io
import re
import tarfile
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from posixpath import basename, splitext

from itpn_ray.data.sources.tables import (
    LABEL_COLUMNS,
    PATH_COLUMNS,
    Table,
    is_image_name,
    read_table,
)
from itpn_ray.data.sources.text import read_bytes, read_lines
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
_NUMBER_FIRST = re.compile(r"(?P<number>\d+)\s*[\s,;:|]\s*(?P<name>.+)")
_NUMBER_LAST = re.compile(r"(?P<name>.+?)\s*[\t,;|]\s*(?P<number>\d+)")
_SYNSET = re.compile(r"(n\d{8})\b.*")


def read_classes(uri: str) -> tuple[str, ...]:
    """Class names, one a line.

    Lines may hold their number, from 0 or 1, before or after the name, and a WordNet id stands for
    the words behind it: ``0 n01440764 tench``.

    Raises:
        DataError: the file cannot be read, is empty, or names a class twice.
    """
    classes = [name.strip().strip('"').strip() for name in _without_numbers(read_lines(uri))]
    synsets = [match[1] for match in map(_SYNSET.fullmatch, classes) if match]
    if len(synsets) == len(classes):
        classes = synsets
    twice = [name for name, count in Counter(classes).items() if count > 1]
    if twice or not classes:
        cause = f"names {twice[0]!r} twice" if twice else "names no class"
        raise DataError(uri, None, cause, "Give one class a line")
    return tuple(classes)


def _without_numbers(lines: list[str]) -> list[str]:
    """The names, in the order of the numbers beside them; the lines where there are none."""
    for form in (_NUMBER_FIRST, _NUMBER_LAST):
        for first in (0, 1):  # a header is no class
            found = [form.fullmatch(line) for line in lines[first:]]
            names = {int(match["number"]): match["name"] for match in found if match}
            numbers = sorted(names)
            # Only a whole count is a numbering: "7 dwarfs" begins with a number too.
            if len(names) == len(found) and numbers in _counts(len(found)):
                return [names[number] for number in numbers]
    return lines


def _counts(length: int) -> tuple[list[int], ...]:
    """0, 1, ... and 1, 2, ...; nothing for nothing."""
    return (list(range(length)), list(range(1, length + 1))) if length else ()


def read_labels(uri: str, names: Sequence[str]) -> list[str]:
    """The class name of each image in ``names`` (file names, sorted).

    Forms of the file:

    - one class a line, in the order of the names;
    - a table with file names and classes (`itpn_ray.data.sources.tables`); without a header, the
      class stands behind the file name and further columns do not count;
    - Kaggle's ``LOC_val_solution.csv``;
    - ImageNet's development kit (``ILSVRC2012_devkit_t12.tar.gz``), whose class numbers are its own
      and not the usual ones: its table translates them.

    Raises:
        DataError: the file is in none of these forms, or an image has no label in it.
    """
    if uri.endswith((".tar.gz", ".tgz", ".tar")):
        return _check_count(_devkit_labels(uri), names, uri)
    lines = read_lines(uri)
    if _name_images(lines, names):
        return _by_name(read_table(uri, blanks=True), names, uri)
    if lines and all(line.isdecimal() for line in lines):
        raise DataError(
            "prepare.labels",
            uri,
            "holds numbers of ImageNet's development kit, which are not the usual class numbers",
            "Give ILSVRC2012_devkit_t12.tar.gz itself, which holds the translation",
        )
    return _check_count(lines, names, uri)


def find_labels(
    uris: Sequence[str], names: Sequence[str], classes: Sequence[str]
) -> tuple[str, list[str]] | None:
    """The first of some text files that gives all of these images one of the classes."""
    for uri in uris:
        with suppress(DataError):  # not a list of labels, then
            if _name_images(read_lines(uri), names):
                labels = _by_name(read_table(uri, blanks=True), names, uri)
                if set(labels) <= set(classes):
                    return uri, labels
    return None


def _name_images(lines: Sequence[str], names: Sequence[str]) -> bool:
    """Whether lines name images, by a look at the first two."""
    keys = {_key(name) for name in names}
    # Two, as the first may be a header.
    words = [word for line in lines[:2] for word in re.split(r"[\s,;|\"]+", line)]
    return any(is_image_name(word) or _key(word) in keys for word in words)


def _by_name(table: Table, names: Sequence[str], uri: str) -> list[str]:
    keys = [_key(name) for name in names]
    path, label = _columns(table, set(keys))
    labels = {_key(row.cells[path]): row.cells[label] for row in table.rows}
    if table.header and table.header[label].casefold() == "predictionstring":
        # Kaggle's cells have the class first and boxes behind it.
        labels = {key: value.split(maxsplit=1)[0] for key, value in labels.items() if value}
    missing = [key for key in keys if not labels.get(key)]
    if missing:
        raise DataError(
            "prepare.labels",
            uri,
            f"has no label for {missing[0]} ({len(missing)} of {len(names)} images)",
            "Give the list that belongs to these images",
        )
    return [labels[key] for key in keys]


def _columns(table: Table, keys: set[str]) -> tuple[int, int]:
    """The columns of the images' names and of the labels."""
    path, label = table.find(PATH_COLUMNS), table.find(LABEL_COLUMNS)
    if path is None:
        cells = table.rows[0].cells
        path = next((at for at, cell in enumerate(cells) if _key(cell) in keys), 0)
    if label is None:
        # Without a header the class stands behind the file name; where that comes last, in front.
        label = path + 1 if path + 1 < table.width else 0
    if label == path:
        raise DataError(table.uri, None, "holds no labels", "Give lines of file name and class")
    return path, label


def _key(name: str) -> str:
    """What the name of an image has in common in all lists: no folder, no suffix of an image."""
    name = basename(name.replace("\\", "/"))
    return splitext(name)[0] if is_image_name(name) else name


def _check_count(labels: list[str], names: Sequence[str], uri: str) -> list[str]:
    if len(labels) != len(names):
        raise DataError(
            "prepare.labels",
            uri,
            f"holds {number_of(len(labels), 'label')} for {number_of(len(names), 'image')}",
            "Give the list that belongs to these images",
        )
    return labels


def _devkit_labels(uri: str) -> list[str]:
    """The WordNet id of each validation image, from ImageNet's development kit."""
    from scipy.io import loadmat

    try:
        with tarfile.open(fileobj=io.BytesIO(read_bytes(uri))) as kit:
            files = {basename(member.name): member for member in kit if member.isfile()}
            table = kit.extractfile(files["meta.mat"])
            truth = kit.extractfile(files[_GROUND_TRUTH])
            assert table is not None
            assert truth is not None
            # squeeze_me: else every field would be an array in an array.
            synsets = loadmat(io.BytesIO(table.read()), squeeze_me=True)["synsets"]
            numbers = truth.read().split()
        wnid = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        return [wnid[int(number)] for number in numbers]
    except (tarfile.TarError, KeyError, ValueError) as error:
        raise DataError(
            "prepare.labels",
            uri,
            f"is not ImageNet's development kit: {error}",
            "Give ILSVRC2012_devkit_t12.tar.gz as it was downloaded",
        ) from error
