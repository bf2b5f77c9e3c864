"""The list of faults that a scan of a data set fills: a CSV file, a table, and counts."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.errors import ConfigError

Count = Callable[[int, int], None]
"""Takes the images done and in all."""
REMARKS = (
    kinds.BOX_CUT,
    kinds.PART_LEFT_OUT,
    kinds.MASK_IGNORED,
    kinds.AREA_MADE,
    kinds.ID_MADE,
    kinds.CORNERS,
)
"""Kinds that are reported but harm nothing: the object is used, as far as it can be understood."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that cannot be used, or not as it is.

    Attributes:
        file: the annotation file, image or shard.
        entry: what in it, e.g. ``annotation 17``; empty for the file itself.
        kind: one of `itpn_ray.data.doctor.fault_kinds`.
        reason: what is wrong with it.
    """

    file: str
    entry: str
    kind: str
    reason: str

    @property
    def place(self) -> str:
        """File and entry in one."""
        return f"{self.file}#{self.entry}" if self.entry else self.file


class FaultList:
    """Counts faults and writes each at once, so that millions of them need no memory.

    A context manager; the file is there once it has been left without an error.

    Args:
        path: the CSV file, with columns split, file, entry, kind, reason.

    Raises:
        ConfigError: the file cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        # Named by process, so that two scans of one target do not write into one draft.
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        self._counts: Counter[str] = Counter()
        self._first: dict[str, Fault] = {}
        self._files = ExitStack()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._files.enter_context(self._part.open("w", newline="", encoding="utf-8"))
        except OSError as error:
            raise ConfigError(
                "out", str(path), f"cannot be written: {error}", "Choose another file"
            ) from error
        self._writer = csv.writer(file, lineterminator="\n")
        self._writer.writerow(("split", "file", "entry", "kind", "reason"))

    def __enter__(self) -> FaultList:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()
        if exception[0] is None:
            os.replace(self._part, self.path)
        else:
            # A list that ends in the middle would look like all faults.
            self._part.unlink()

    def add(self, split: str, fault: Fault) -> None:
        """Count a fault and write it down."""
        self._counts[fault.kind] += 1
        # One example a kind is kept in memory; the rest is in the file only.
        self._first.setdefault(fault.kind, fault)
        self._writer.writerow((split, fault.file, fault.entry, fault.kind, fault.reason))

    @property
    def faults(self) -> int:
        """How many there are, remarks not counted."""
        return sum(count for kind, count in self._counts.items() if kind not in REMARKS)

    def table(self) -> Iterator[str]:
        """A line for each kind that was found, the frequent ones first: count and first example."""
        for title, chosen in (("fault", False), ("remark", True)):
            rows = [row for row in self._counts.most_common() if (row[0] in REMARKS) == chosen]
            if not rows:
                continue
            wide = max(len(title), *(len(kind) for kind, _ in rows))
            long = max(len("count"), *(len(f"{count:,}") for _, count in rows))
            yield f"{title:{wide}}  {'count':>{long}}  the first"
            for kind, count in rows:
                first = self._first[kind]
                yield f"{kind:{wide}}  {count:>{long},}  {first.place} {first.reason}"
        if self._counts:
            yield f"all of them: {self.path}"
