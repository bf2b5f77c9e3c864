"""Joins objects with the rows of a listing, in bounded memory, and those of a COCO file.

The annotations are read once, object by object, into a file on disk
(`itpn_ray.data.sources.annotated.spill`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.annotations.id_set import IdBook
from itpn_ray.data.annotations.json_stream import stream_object
from itpn_ray.data.doctor import fault_kinds as kinds
from itpn_ray.data.doctor.fault_list import Fault
from itpn_ray.data.sources.annotated.coco_entries import Frame, Remark, parse_object
from itpn_ray.data.sources.annotated.ids import FRESH, Id, IdNumbers, object_entry, read_id
from itpn_ray.data.sources.annotated.spill import Spill
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

Problems = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Item:
    """An object as a file has it.

    Attributes:
        file: where it stands.
        entry: where in the file.
        number: to tell it from all others of the split.
        fields: as COCO names them; or why they cannot be read.
        remarks: what is odd about it.
    """

    file: str
    entry: str
    number: int
    fields: Mapping[str, Any] | FaultError
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """An object that can be used.

    Attributes:
        image_id: the number of its image.
        values: of `itpn_ray.data.schema.OBJECT_COLUMNS`.
        remarks: what is odd about it.
    """

    image_id: int
    values: dict[str, Any]
    remarks: tuple[Fault, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class ObjectSet(ABC):
    """The objects of one split.

    Attributes:
        uri: their file or folder.
        labels: category id -> label.
        image_ids: (n,) the numbers of all images, sorted: of this split and of others.
        frames: (n, 2) int32 width and height of each, 0 where nothing says so.
        numbers: the numbers of images whose ids are text.
    """

    uri: str
    labels: Mapping[Id, int]
    image_ids: NDArray[np.int64]
    frames: NDArray[np.int32]
    numbers: IdNumbers = field(default_factory=IdNumbers)

    @abstractmethod
    def items(self) -> Iterator[Item]:
        """Every object, in a fixed order.

        Raises:
            DataError: a file cannot be read.
        """

    def shown(self, rows: pa.Table) -> NDArray[np.bool_]:
        """See `itpn_ray.data.sources.base.Annotations.shown`."""
        # A whole pass over the annotations: what cannot be used must not count as shown.
        found = (one.image_id for one in self.examine() if isinstance(one, Found))
        with_objects = np.unique(np.fromiter(found, np.int64))
        return np.isin(rows.column("image_id").to_numpy(), with_objects)

    def join(
        self, rows: pa.Table, edges: Sequence[int], scratch: Path
    ) -> Iterator[tuple[pa.Table, Problems]]:
        """See `itpn_ray.data.sources.base.Annotations.join`."""
        spill = Spill(rows.column("image_id").to_numpy(), np.asarray(edges), scratch)
        problems: Problems = []
        for found in self.examine():
            if isinstance(found, Found):
                spill.add(found.image_id, found.values)
            else:
                problems.append((found.place, found.reason))
        for piece, columns in enumerate(spill.pieces()):
            part = rows.slice(edges[piece], edges[piece + 1] - edges[piece])
            for name, column in columns.items():
                part = part.append_column(name, column)
            # Reading fills `problems` before the first piece comes out; they are told once.
            yield part, problems if piece == 0 else []

    def examine(self) -> Iterator[Found | Fault]:
        """Every object, in its order: its values, or why it cannot be used.

        Raises:
            DataError: a file cannot be read.
        """
        for item in self.items():
            try:
                if isinstance(item.fields, FaultError):
                    raise item.fields
                image_id, frame = self._image(read_id(item.fields, "image_id"))
                values, remarks = parse_object(item.fields, self.labels, frame)
            except FaultError as fault:
                yield Fault(file=item.file, entry=item.entry, kind=fault.kind, reason=fault.reason)
                continue
            yield Found(
                image_id=image_id,
                values={"object_ids": item.number, **values},
                remarks=tuple(
                    Fault(file=item.file, entry=item.entry, kind=kind, reason=reason)
                    for kind, reason in (*item.remarks, *remarks)
                ),
            )

    def _image(self, found: Id) -> tuple[int, Frame | None]:
        """Number of an image; width and height, where something says so."""
        number = self.numbers.find(found)
        at = len(self.image_ids)
        if number is not None:
            at = int(np.searchsorted(self.image_ids, number))
        if number is None or at == len(self.image_ids) or self.image_ids[at] != number:
            raise FaultError(kinds.UNKNOWN_IMAGE, f"is of image {found!r}, which is not listed")
        width, height = self.frames[at].tolist()
        return number, (width, height) if width and height else None


@dataclass(frozen=True, kw_only=True, eq=False)
class CocoObjects(ObjectSet):
    """The objects of one COCO annotation file."""

    def items(self) -> Iterator[Item]:
        """Its annotations; those whose id is no whole number, or an earlier one's, get a new one.

        Raises:
            DataError: the file cannot be read.
        """
        seen = IdBook()
        for place, (_, fields) in enumerate(read_arrays(self.uri, ("annotations",))):
            given = _whole_id(fields)
            if given is None:
                reason = "has no whole number as its id"
            elif seen.add(given):
                reason = ""
            else:
                reason = f"has the id {given} of an earlier annotation"
            # Fresh numbers lie above all that a file may have, so none is given twice.
            number = FRESH + place if reason or given is None else given
            yield Item(
                file=self.uri,
                entry=object_entry(number),
                number=number,
                fields=fields,
                remarks=((kinds.ID_MADE, reason),) if reason else (),
            )


def _whole_id(fields: Mapping[str, Any]) -> int | None:
    try:
        found = read_id(fields, "id")
    except FaultError:
        return None
    return found if isinstance(found, int) else None


def read_arrays(uri: str, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects in some arrays of a JSON file, one by one, with the key of their array.

    Raises:
        DataError: the file cannot be read, or is not JSON of this form.
    """
    fs, path = filesystem(uri)
    try:
        with fs.open_input_stream(path) as stream:
            for key, value in stream_object(stream):
                if key in keys:
                    if not isinstance(value, dict):
                        raise ValueError(f"{key!r} holds something else than objects")
                    yield key, value
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            uri, None, f"cannot be read: {error}", "Write it as JSON in UTF-8, or download it again"
        ) from error
