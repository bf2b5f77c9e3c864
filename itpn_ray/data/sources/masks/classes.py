"""The classes of masks: of published data sets, of ADE20K's table, and of a palette of colours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from itpn_ray.data.annotations.class_masks import IGNORED, MOST_CLASSES, MaskValues
from itpn_ray.data.sources.text import read_lines
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of

VOC = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat"),
    *("chair", "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant"),
    *("sheep", "sofa", "train", "tvmonitor"),
)
CITYSCAPES = {
    **{"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17},
    **{"traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23},
    **{"person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31},
    **{"motorcycle": 32, "bicycle": 33},
}
"""The 19 classes that are evaluated -> their label ids; the other ids are ignored."""
_CITYSCAPES_IDS = range(34)
_COLOUR = r"(?P<r>\d+)[\s,;]+(?P<g>\d+)[\s,;]+(?P<b>\d+)"
_LINES = (
    re.compile(rf"{_COLOUR}[\s,;]+(?P<name>.+)"),
    re.compile(rf"(?P<name>.+?)[\s,;]+{_COLOUR}"),
)
_IGNORED_NAMES = ("ignore", "ignored", "void", "unlabeled", "unlabelled")


def numbered(count: int, *, first: int, ignored: Sequence[int]) -> MaskValues:
    """Masks whose values are class numbers.

    Args:
        count: classes.
        first: value of the first class.
        ignored: values of pixels that count as no class, where no class has them.
    """
    classes = {first + label: label for label in range(count)}
    return _values({**dict.fromkeys(ignored, IGNORED), **classes})


def void_of(count: int) -> int:
    """The value of ignored pixels beside classes from 0: the largest that 8 or 16 bits have."""
    return 255 if count <= 255 else 65_535


def cityscapes(*, train_ids: bool) -> MaskValues:
    """Masks of Cityscapes: label ids, or train ids from 0 with 255 for what is ignored."""
    if train_ids:
        return numbered(len(CITYSCAPES), first=0, ignored=(255,))
    # Every id is ignored but those that the next line gives a class.
    ignored = dict.fromkeys((*_CITYSCAPES_IDS, 255), IGNORED)
    return _values({**ignored, **{id_: n for n, id_ in enumerate(CITYSCAPES.values())}})


def read_object_info(uri: str) -> tuple[str, ...]:
    """Class names in ADE20K's table: tab-separated, with a column Name, in the order of Idx.

    Raises:
        DataError: the file is no such table.
    """
    # An empty file has an empty head, in which the columns are not found.
    head, *rows = [line.split("\t") for line in read_lines(uri)] or [[]]
    try:
        number, name = head.index("Idx"), head.index("Name")
        named = {int(row[number]): row[name].strip() for row in rows}
    except (ValueError, IndexError) as error:
        raise DataError(
            uri, None, f"is no table of classes with Idx and Name ({error})", "Give --classes"
        ) from error
    if sorted(named) != list(range(1, len(rows) + 1)):
        raise DataError(uri, None, "does not number its classes 1, 2, 3, ...", "Correct Idx")
    return tuple(named[number] for number in sorted(named))


def read_palette(uri: str) -> tuple[tuple[str, ...], MaskValues]:
    """Classes and colours, one a line: ``R G B NAME`` or ``NAME,R,G,B``, perhaps below a header.

    The colour of a line named ignore, void or unlabelled stands for pixels of no class.

    Raises:
        DataError: a line is neither, a number exceeds 255, or a colour comes twice.
    """
    names: list[str] = []
    values: dict[int, int] = {}
    for line, name, colour in _palette_lines(uri):
        if max(colour) > 255:
            raise DataError(uri, line, "has a number above 255", "Give R, G and B from 0 to 255")
        packed = colour[0] << 16 | colour[1] << 8 | colour[2]
        if packed in values:
            raise DataError(uri, line, "has the colour of an earlier line", "Give each its own")
        ignored = name.lower() in _IGNORED_NAMES
        # Labels count only the colours that are not ignored.
        values[packed] = IGNORED if ignored else len(names)
        names += [] if ignored else [name]
    return tuple(names), _values(values, coding="colours")


def check_count(classes: Sequence[str], uri: str) -> None:
    """Refuse a number of classes that masks cannot tell apart.

    Raises:
        DataError: fewer than two, or more than 32,767.
    """
    if not 2 <= len(classes) <= MOST_CLASSES:
        cause = f"names {number_of(len(classes), 'class', 'classes')}"
        raise DataError(uri, None, cause, f"Give 2 to {MOST_CLASSES:,} classes")


def _palette_lines(uri: str) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Each line with the name and the colour in it."""
    for number, line in enumerate(read_lines(uri)):
        match = next(filter(None, (form.fullmatch(line) for form in _LINES)), None)
        if match is not None:
            yield line, match["name"].strip(), tuple(int(match[part]) for part in "rgb")
        elif number:  # the first may be a header
            raise DataError(uri, line, "is no colour with a class", "Write R G B NAME")


def _values(meaning: Mapping[int, int], *, coding: str = "numbers") -> MaskValues:
    values = sorted(meaning)
    classes = tuple(meaning[value] for value in values)
    return MaskValues(values=tuple(values), classes=classes, coding=coding)
