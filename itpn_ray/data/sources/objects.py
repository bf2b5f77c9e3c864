"""Joins the objects of a COCO annotation file with the rows of a listing, in bounded memory.

The file is read once, element by element. Objects are packed, 65,536 at a time sorted by the row of
their image, into one file on disk; each shard then gathers its own from a memory map of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
from itpn_ray.data.schema import OBJECT_COLUMNS
from itpn_ray.data.sources.coco_entries import Frame, Remark, parse_object, whole
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

_PACK = 65_536
_MOST_PROBLEMS = 1000
_SPILL = pa.schema([("position", pa.int64()), *OBJECT_COLUMNS.items()])

Problems = list[tuple[str, str]]


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
class CocoObjects:
    """The objects of one annotation file.

    Attributes:
        uri: the file.
        class_ids: its category numbers, in the order of our labels.
        image_ids: (n,) the numbers of all its images, sorted: of this split and of others.
        frames: (n, 2) int32 width and height of each, 0 where the file does not say.
        masked: whether its objects have masks.
    """

    uri: str
    class_ids: tuple[int, ...]
    image_ids: NDArray[np.int64]
    frames: NDArray[np.int32]
    masked: bool

    def join(
        self, rows: pa.Table, edges: Sequence[int], scratch: Path
    ) -> Iterator[tuple[pa.Table, Problems]]:
        """See `itpn_ray.data.sources.base.Annotations.join`."""
        spill = _Spill(rows.column("image_id").to_numpy(), np.asarray(edges), scratch)
        problems: Problems = []
        left_out = 0
        for found in self.examine():
            if isinstance(found, Found):
                spill.add(found.image_id, found.values)
                continue
            left_out += 1
            if left_out <= _MOST_PROBLEMS:
                problems.append((found.place, found.reason))
        if left_out > _MOST_PROBLEMS:
            rest = left_out - _MOST_PROBLEMS
            problems.append(
                (self.uri, f"{rest} more objects cannot be used: see `itpn-ray doctor`")
            )
        for piece, columns in enumerate(spill.pieces()):
            part = rows.slice(edges[piece], edges[piece + 1] - edges[piece])
            for name, column in columns.items():
                part = part.append_column(name, column)
            yield part, problems if piece == 0 else []

    def examine(self) -> Iterator[Found | Fault]:
        """Every object of the file, in its order; of several with one number the first counts.

        Raises:
            DataError: the file cannot be read.
        """
        labels = {found: n for n, found in enumerate(self.class_ids)}
        seen = IdBook()
        for _, item in read_arrays(self.uri, ("annotations",)):
            entry = f"annotation {item.get('id')}"
            try:
                frame = self._frame(image_id := whole(item, "image_id"))
                values, remarks = parse_object(item, labels, frame, masked=self.masked)
                if not seen.add(values["object_ids"]):
                    raise FaultError(kinds.OBJECT_TWICE, "has the id of an earlier annotation")
            except FaultError as fault:
                yield Fault(file=self.uri, entry=entry, kind=fault.kind, reason=fault.reason)
                continue
            yield Found(image_id=image_id, values=values, remarks=self._told(entry, remarks))

    def _frame(self, image_id: int) -> Frame | None:
        """Width and height of an image, where the file says so."""
        at = int(np.searchsorted(self.image_ids, image_id))
        if at == len(self.image_ids) or self.image_ids[at] != image_id:
            raise FaultError(kinds.UNKNOWN_IMAGE, f"is of image {image_id}, which is not listed")
        width, height = self.frames[at].tolist()
        return (width, height) if width and height else None

    def _told(self, entry: str, remarks: Sequence[Remark]) -> tuple[Fault, ...]:
        return tuple(
            Fault(file=self.uri, entry=entry, kind=kind, reason=reason) for kind, reason in remarks
        )


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
    except (OSError, ValueError) as error:
        raise DataError(uri, None, f"cannot be read: {error}", "Download it again") from error


class _Spill:
    """Objects on disk, to be gathered by pieces of the listing."""

    def __init__(
        self, image_ids: NDArray[np.int64], edges: NDArray[np.int64], scratch: Path
    ) -> None:
        self._order = np.argsort(image_ids, kind="stable")
        self._sorted = image_ids[self._order]
        self._edges = edges
        self._path = scratch / "objects.arrow"
        self._writer = pa.ipc.new_file(str(self._path), _SPILL)
        self._image_ids: list[int] = []
        self._objects: list[dict[str, Any]] = []
        self._bounds: list[NDArray[np.int64]] = []  # of each batch: first object of each piece

    def add(self, image_id: int, found: dict[str, Any]) -> None:
        """Add an object; one of an image that is not in the listing is left out."""
        self._image_ids.append(image_id)
        self._objects.append(found)
        if len(self._objects) == _PACK:
            self._pack()

    def pieces(self) -> Iterator[dict[str, pa.ListArray]]:
        """The list columns of each piece, in the order of its rows and of the file."""
        self._pack()
        self._writer.close()
        with pa.memory_map(str(self._path)) as source:
            reader = pa.ipc.open_file(source)
            batches = [reader.get_batch(n) for n in range(reader.num_record_batches)]
            for piece in range(len(self._edges) - 1):
                yield self._gather(batches, piece)
        self._path.unlink()

    def _pack(self) -> None:
        ids = np.array(self._image_ids, dtype=np.int64)
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        ours = np.flatnonzero(self._sorted[at] == ids)
        positions = self._order[at[ours]]
        order = np.argsort(positions, kind="stable")
        rows = [self._objects[n] for n in ours[order].tolist()]
        columns = [pa.array(positions[order], pa.int64())]
        columns += [
            pa.array([row[name] for row in rows], of) for name, of in OBJECT_COLUMNS.items()
        ]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=_SPILL))
        self._bounds.append(np.searchsorted(positions[order], self._edges))
        self._image_ids, self._objects = [], []

    def _gather(self, batches: list[pa.RecordBatch], piece: int) -> dict[str, pa.ListArray]:
        first, last = self._edges[piece], self._edges[piece + 1]
        parts = [
            batch.slice(bounds[piece], bounds[piece + 1] - bounds[piece])
            for batch, bounds in zip(batches, self._bounds, strict=True)
        ]
        table = pa.Table.from_batches(parts, _SPILL).combine_chunks()
        positions = table.column("position").to_numpy()
        table = table.take(pa.array(np.argsort(positions, kind="stable")))
        counts = np.bincount(positions - first, minlength=last - first)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        return {
            name: pa.ListArray.from_arrays(offsets, table.column(name).combine_chunks())
            for name in OBJECT_COLUMNS
        }
