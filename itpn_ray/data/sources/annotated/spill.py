"""Objects on disk, sorted by the image they belong to, so that memory does not grow with them.

Objects are packed, 65,536 at a time sorted by the row of their image, into one file; each piece
of the listing then gathers its own from a memory map of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data.schema import OBJECT_COLUMNS

_PACK = 65_536
_SPILL = pa.schema([("position", pa.int64()), *OBJECT_COLUMNS.items()])


class Spill:
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
        # An id above the last would point past the end.
        at = np.minimum(np.searchsorted(self._sorted, ids), len(self._sorted) - 1)
        ours = np.flatnonzero(self._sorted[at] == ids)
        positions = self._order[at[ours]]
        # By row of the listing; stable, so that objects keep the file's order.
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
        # Each batch is sorted, but not yet all of them together.
        table = table.take(pa.array(np.argsort(positions, kind="stable")))
        # Objects of each row of the piece.
        counts = np.bincount(positions - first, minlength=last - first)
        offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        return {
            name: pa.ListArray.from_arrays(offsets, table.column(name).combine_chunks())
            for name in OBJECT_COLUMNS
        }
