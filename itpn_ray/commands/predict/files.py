"""The files of predictions, written image by image: a folder of any size needs no memory."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from itpn_ray.data.loading.image_folder import Outcome
from itpn_ray.data.sources.base import IMAGE_SUFFIXES
from itpn_ray.errors import ConfigError
from itpn_ray.storage import ObjectStore

RESULTS, IMAGES, UNREADABLE = "results.json", "images.json", "unreadable.csv"
DRAWN, MASKS, LINES = "drawn", "masks", "submission"
SETTINGS = "config.json"
_LONGEST_NAME = 255  # bytes, on every usual filesystem


def start_afresh(store: ObjectStore, settings: dict[str, Any]) -> None:
    """Write which network answers for which folder, and remove what an earlier one answered.

    Raises:
        ConfigError: there are results of something else than predictions.
    """
    earlier = [name for name in (RESULTS, IMAGES, UNREADABLE) if store.exists(name)]
    before = json.loads(store.read_bytes(SETTINGS)) if store.exists(SETTINGS) else {}
    if (earlier or before) and not {"weights", "folder"} <= before.keys():
        raise ConfigError(
            "out", store.uri, "holds results of something else", "Give a folder of its own"
        )
    # First of all: where removing is cut short, the next call still takes the folder for its own.
    store.write_bytes(SETTINGS, json.dumps(settings, indent=1).encode())
    written = [key for folder in (DRAWN, MASKS, LINES) for key in store.list(f"{folder}/")]
    for key in (*earlier, *written):
        store.delete(key)


class PredictionFiles:
    """Takes outcomes in turn; a context manager that stores the files once all are there.

    Args:
        store: where to.
        categories: COCO's ``categories``, for ``images.json``; None writes no such file.

    Attributes:
        images: how many were taken.
        unreadable: how many files are no images.
    """

    def __init__(self, store: ObjectStore, categories: list[dict[str, Any]] | None) -> None:
        self.images = 0
        self.unreadable = 0
        self._store = store
        self._folder = TemporaryDirectory(prefix="itpn_ray-")
        self._files = ExitStack()
        self._results = _Array(self._open(RESULTS))
        self._lines: dict[str, TextIO] = {}
        self._images: _Array | None = None
        if categories is not None:
            head = f'{{"categories": {json.dumps(categories)},\n"images": '
            self._images = _Array(self._open(IMAGES), head, "}")
        self._list = csv.writer(self._open(UNREADABLE), lineterminator="\n")
        self._list.writerow(("path", "reason"))

    def _open(self, name: str) -> TextIO:
        path = Path(self._folder.name) / name
        path.parent.mkdir(exist_ok=True)
        return self._files.enter_context(path.open("w", encoding="utf-8", newline=""))

    def add(self, outcome: Outcome) -> None:
        """Write what became of a file."""
        if outcome.problem:
            self.refuse(outcome.path, outcome.problem)
            return
        self.images += 1
        for entry in outcome.answer.entries:
            self._results.add(entry)
        if self._images is not None:
            width, height = outcome.size
            numbered = {"id": outcome.number, "file_name": outcome.path}
            self._images.add({**numbered, "width": width, "height": height})
        if outcome.answer.drawn:
            self._store.write_bytes(f"{DRAWN}/{drawn_name(outcome.path)}", outcome.answer.drawn)
        if outcome.answer.mask:
            name = f"{MASKS}/{mask_name(outcome.path)}"
            self._store.write_bytes(name, outcome.answer.mask)

        for name, lines in outcome.answer.lines.items():
            key = f"{LINES}/{name}"
            if key not in self._lines:
                self._lines[key] = self._open(key)
            self._lines[key].write(lines)

    def refuse(self, path: str, problem: str) -> None:
        """Write a file that is no image."""
        self.unreadable += 1
        self._list.writerow((path, problem))

    def __enter__(self) -> PredictionFiles:
        return self

    def __exit__(self, *exception: object) -> None:
        with self._folder:
            self._results.end()
            if self._images is not None:
                self._images.end()
            self._files.close()
            # After an error nothing is stored, for it would be cut short.
            if exception[0] is None:
                folder = Path(self._folder.name)
                # Files have a dot in their names, the folders around them none.
                for path in sorted(folder.rglob("*.*")):
                    self._store.put_file(path, str(path.relative_to(folder)))


def drawn_name(path: str) -> str:
    """The name of a drawn image, below ``drawn/``: a JPEG's own, another's with .jpg behind it.

    Names that differ stay different: one that ends like `a.png.jpg` gets a .jpg too. What a store
    does not take, backslashes, leading dots and names of more than 255 bytes, is replaced, and the
    name then told apart by a digest.
    """
    *folders, name = path.split("/")
    stem, suffix = os.path.splitext(name)
    is_jpeg = suffix.lower() in (".jpg", ".jpeg")
    # a.png is drawn as a.png.jpg, so an image of that name becomes a.png.jpg.jpg.
    if not is_jpeg or stem.lower().endswith(IMAGE_SUFFIXES):
        stem, suffix = name, ".jpg"
    return "/".join([*map(_storable, folders), _storable(stem, suffix)])


def mask_name(path: str) -> str:
    """The name of a mask, below ``masks/``: the image's with .png in place of its suffix.

    That of a drawn image but for the suffix, so that names that differ stay different.
    """
    folder, _, name = drawn_name(path).rpartition("/")
    stem, suffix = os.path.splitext(name)
    plain = suffix == ".jpg" and not stem.lower().endswith(IMAGE_SUFFIXES)
    return f"{folder}/{_storable(stem if plain else name, '.png')}".lstrip("/")


def _storable(part: str, suffix: str = "") -> str:
    """A part of a path, with a suffix, as any store takes it."""
    plain = part.replace("\\", "_")
    # Stores take no name that begins with a dot.
    plain = f"_{plain[1:]}" if plain.startswith(".") else plain
    if plain == part and len((part + suffix).encode()) <= _LONGEST_NAME:
        return part + suffix
    # A name that had to change carries a digest, so that no two become one.
    mark = f"-{hashlib.sha256(part.encode()).hexdigest()[:8]}{suffix}"
    # The cut may fall into the bytes of a character.
    return plain.encode()[: _LONGEST_NAME - len(mark)].decode(errors="ignore") + mark


class _Array:
    """A JSON array that is written entry by entry, with something before and behind it."""

    def __init__(self, file: TextIO, before: str = "", behind: str = "") -> None:
        self._file = file
        self._behind = behind
        self._between = ""
        file.write(f"{before}[")

    def add(self, entry: dict[str, Any]) -> None:
        """Write an entry."""
        self._file.write(f"{self._between}\n{json.dumps(entry)}")
        self._between = ","

    def end(self) -> None:
        """Write the end."""
        self._file.write(f"\n]{self._behind}\n")
