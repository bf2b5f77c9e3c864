"""Small files that come with data sets: class names, and labels of images."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Sequence
from posixpath import basename, splitext

from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def read_bytes(uri: str) -> bytes:
    """A small file, local or remote.

    Raises:
        DataError: it cannot be read.
    """
    fs, path = filesystem(uri)
    try:
        with fs.open_input_stream(path) as stream:
            return stream.read()
    except OSError as error:
        raise DataError(uri, None, f"cannot be read: {error}", "Check the path") from error


def read_lines(uri: str) -> list[str]:
    """The lines of a small text file that are not blank, stripped.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    try:
        text = read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise DataError(uri, None, "is not a UTF-8 text file", "Check the path") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_classes(uri: str) -> tuple[str, ...]:
    """Class names, one a line; lines may begin with their number: ``0 n01440764 tench``.

    Raises:
        DataError: the file cannot be read, is empty, or names a class twice.
    """
    classes = []
    for number, line in enumerate(read_lines(uri)):
        words = line.split()
        numbered = len(words) > 1 and words[0] == str(number)
        classes.append(words[1] if numbered else line)
    if len(set(classes)) < max(len(classes), 1):
        twice = next((name for name in classes if classes.count(name) > 1), None)
        cause = f"names {twice!r} twice" if twice else "names no class"
        raise DataError(uri, None, cause, "Give one class a line")
    return tuple(classes)


def read_labels(uri: str, names: Sequence[str]) -> list[str]:
    """The class name of each image in ``names`` (file names, sorted).

    Forms of the file:

    - one class a line, in the order of the names;
    - a file name and its class a line, with a blank or comma between;
    - Kaggle's ``LOC_val_solution.csv``;
    - ImageNet's development kit (``ILSVRC2012_devkit_t12.tar.gz``), whose class numbers are its own
      and not the usual ones: its table translates them.

    Raises:
        DataError: the file is in none of these forms, or an image has no label in it.
    """
    if uri.endswith((".tar.gz", ".tgz", ".tar")):
        return _check_count(_devkit_labels(uri), names, uri)
    lines = read_lines(uri)
    if lines and lines[0].lower().startswith("imageid,"):
        return _by_stem(_kaggle_labels(lines[1:], uri), names, uri)
    pairs = [re.split(r"[\s,]+", line, maxsplit=1) for line in lines]
    if all(len(pair) == 2 for pair in pairs):
        return _by_stem({splitext(basename(a))[0]: b for a, b in pairs}, names, uri)
    if lines and all(line.isdecimal() for line in lines):
        raise DataError(
            "prepare.labels",
            uri,
            "holds numbers of ImageNet's development kit, which are not the usual class numbers",
            "Give ILSVRC2012_devkit_t12.tar.gz itself, which holds the translation",
        )
    return _check_count(lines, names, uri)


def _kaggle_labels(lines: Sequence[str], uri: str) -> dict[str, str]:
    """File name -> WordNet id, the first word of the second column."""
    labels = {}
    for line in lines:
        fields = line.split(",")
        if len(fields) != 2 or not fields[1].split():
            raise DataError("prepare.labels", uri, f"has the line {line!r}", "Download it again")
        labels[fields[0]] = fields[1].split()[0]
    return labels


def _by_stem(labels: dict[str, str], names: Sequence[str], uri: str) -> list[str]:
    stems = [splitext(basename(name))[0] for name in names]
    missing = [stem for stem in stems if stem not in labels]
    if missing:
        raise DataError(
            "prepare.labels",
            uri,
            f"has no label for {missing[0]} ({len(missing)} of {len(names)} images)",
            "Give the list that belongs to these images",
        )
    return [labels[stem] for stem in stems]


def _check_count(labels: list[str], names: Sequence[str], uri: str) -> list[str]:
    if len(labels) != len(names):
        raise DataError(
            "prepare.labels",
            uri,
            f"holds {len(labels)} labels for {len(names)} images",
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
