"""Which split a name means: of a folder, of a file, of a cell in a table.

Names are read in any case and wording (``Training``, ``valid``, ``dev``, ``testing``, ``TrainSet``,
``validation_set``, ``val2017``), or as ``--splits train=Training val=Testing`` says, which then
holds alone: everything that it does not name is left out, and listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import splitext

from itpn_ray.errors import ConfigError, DataError
from itpn_ray.formatting import show_names

SPLITS = ("train", "val", "test")
OPTION = "--splits train=NAME val=NAME"

_WORDS = {
    "train": ("train", "training", "trainval", "trn"),
    "val": (
        *("val", "valid", "validation", "validate", "validating", "minival", "vld"),
        *("dev", "devel", "development", "eval", "evaluation", "heldout", "holdout"),
    ),
    "test": ("test", "testing", "testdev", "tst"),
}
_MEANS = {word: split for split, words in _WORDS.items() for word in words}
_FILLING = "(?:data|dataset|set|split|images?|imgs?|pictures?|photos?|folder|files?|subset|part)*"
_WHOLE = re.compile(f"{_FILLING}({'|'.join(sorted(_MEANS, key=len, reverse=True))}){_FILLING}")
# Two words that mean one split together.
_JOINED = re.compile(r"(?<![a-z])(train[^a-z]?val|test[^a-z]?dev|(?:held|hold)[^a-z]?out)(?![a-z])")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def split_of_name(name: str) -> str | None:
    """The split that a name means as a whole: "Train", "val_set", "test2017"; not "test tube"."""
    letters = re.sub(r"[\W\d_]+", "", name.lower())
    found = _WHOLE.fullmatch(letters)
    return _MEANS[found[1]] if found else None


def split_of_file(path: str) -> str | None:
    """The split that a file's name tells in one of its words, or else a folder above it.

    ``None`` where nothing does, or where one part of the path names two splits.
    """
    # The file's own name first, then the folders from the nearest up.
    for part in reversed(path.split("/")):
        found = _splits_in(part)
        if found:
            return found.pop() if len(found) == 1 else None
    return None


def _splits_in(part: str) -> set[str]:
    """All splits named in one part of a path."""
    whole = split_of_name(splitext(part)[0])
    if whole:
        return {whole}
    text = _JOINED.sub(lambda m: re.sub("[^a-z]", "", m[0]), _CAMEL.sub(" ", part).lower())
    words = (split_of_name(word) for word in re.split(r"[^a-z]+", text) if word)
    return {split for split in words if split}


@dataclass(frozen=True)
class SplitNames:
    """The names that mean a split in one source.

    Attributes:
        given: (split, name) as the user said it; empty: the usual names.
    """

    given: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, pairs: Sequence[str]) -> SplitNames:
        """From ``("train=Training", "val=Testing")``; a split may be named more than once.

        Raises:
            ConfigError: an entry is no ``split=name``, or a name is given to two splits.
        """
        given: dict[str, str] = {}
        for pair in pairs:
            split, equals, name = (part.strip() for part in pair.partition("="))
            name = name.rstrip("/")
            if not equals or not name or split not in SPLITS:
                raise ConfigError(
                    "prepare.splits",
                    pair,
                    "is no split with its name",
                    "Write train=NAME, val=NAME or test=NAME",
                )
            if given.setdefault(name, split) != split:
                raise ConfigError(
                    "prepare.splits",
                    pair,
                    f"names what is {given[name]} already",
                    "Give each folder or file to one split",
                )
        return cls(tuple((split, name) for name, split in given.items()))

    def of_name(self, name: str) -> str | None:
        """The split that a folder's name or a table's cell means as a whole."""
        if not self.given:
            return split_of_name(name)
        return next((split for split, own in self.given if _same(own, name)), None)

    def of_file(self, path: str) -> str | None:
        """The split of a file, by its path relative to the source."""
        if not self.given:
            return split_of_file(path)
        return next((split for split, own in self.given if _names(own, path)), None)

    def check_used(self, seen: Iterable[str], uri: str) -> None:
        """Refuse names that the user gave and that name none of what was seen.

        Raises:
            DataError: as said.
        """
        seen = list(seen)
        for split, own in self.given:
            if not any(_same(own, name) or _names(own, name) for name in seen):
                raise DataError(
                    "prepare.splits",
                    f"{split}={own}",
                    f"nothing in {uri} is called so; there are {show_names(seen)}",
                    "Correct the name",
                )

    def sort_files(
        self, paths: Sequence[str], uri: str
    ) -> tuple[dict[str, list[str]], list[tuple[str, str]]]:
        """Files by split, train first; all are train where no name tells a split.

        Args:
            paths: relative to the source.
            uri: the source, for the error.

        Returns:
            The paths of each split that has some, and (path, reason) of those left out.

        Raises:
            DataError: some names tell a split and others do not, or two at once.
        """
        self.check_used(paths, uri)
        found = {path: self.of_file(path) for path in paths}
        unnamed = [path for path, split in found.items() if split is None]
        skipped = []
        if self.given:
            skipped = [(path, "left out: not named by --splits") for path in unnamed]
        elif any(_splits_in(part) for path in paths for part in path.split("/")) and unnamed:
            raise unclear(
                uri,
                [f"{path} ({found[path] or 'no split'})" for path in paths],
                f"the name of {unnamed[0]} does not tell its split, unlike others",
            )
        else:
            found.update(dict.fromkeys(unnamed, "train"))
        sorted_files = {split: [path for path in paths if found[path] == split] for split in SPLITS}
        return {split: files for split, files in sorted_files.items() if files}, skipped


USUAL_NAMES = SplitNames()
"""For a source whose splits the user has not named."""


def unclear(uri: str, seen: Sequence[str], cause: str, otherwise: str = "") -> DataError:
    """The error for a source whose names do not tell its splits; ``otherwise``: another way out."""
    return DataError(
        "prepare.source",
        uri,
        f"{cause}; there are {show_names(seen)}",
        f"Say which is which with {OPTION}, which leaves the rest out{otherwise}",
    )


def splits_of_folders(
    folders: Sequence[str],
    uri: str,
    *,
    below: Callable[[str], str] = str,
    least: int = 2,
    otherwise: str = "",
) -> list[str] | None:
    """The splits that the folders above files name, the nearest first.

    Args:
        folders: of each file, relative to the source.
        uri: the source, for the error.
        below: the part of a folder's path that may name a split.
        least: with fewer splits among the names, folders of these names are no splits.
        otherwise: see `unclear`.

    Returns:
        A split for each file, or ``None`` where folders tell no splits.

    Raises:
        DataError: some folders name a split and others do not.
    """
    meant = {
        folder: next(filter(None, map(split_of_name, reversed(below(folder).split("/")))), None)
        for folder in dict.fromkeys(folders)
    }
    if len(set(meant.values()) - {None}) < least:
        return None
    if None in meant.values():
        cause = "some folders of its images name a split and others do not"
        raise unclear(uri, list(meant), cause, otherwise)
    return [str(meant[folder]) for folder in folders]


def _same(own: str, name: str) -> bool:
    return own.casefold() == name.strip().rstrip("/").casefold()


def _names(own: str, path: str) -> bool:
    """Whether a name or pattern means a file: its path, a part of it, or words in a part."""
    own, path = own.casefold(), path.casefold()
    words = f" {_spaced(own)} "
    return (
        fnmatchcase(path, own)
        or path.startswith(f"{own}/")
        or any(fnmatchcase(part, own) or words in f" {_spaced(part)} " for part in path.split("/"))
    )


def _spaced(name: str) -> str:
    """The words of a name, digits among them, with a blank between."""
    return " ".join(re.findall(r"[^\W_]+", name))
