"""Joins the objects of a COCO annotation file with the rows of a listing, in bounded memory.

The file is read once, element by element. Objects are packed, 65,536 at a time sorted by the row of
their picture, into one file on disk; each shard then gathers its own from a memory map of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data import run_lengths
from itpn_ray.data.json_stream import stream_object
from itpn_ray.data.schema import OBJECT_COLUMNS
from itpn_ray.errors import DataError
from itpn_ray.storage import filesystem

_PACK = 65_536
_MOST_PROBLEMS = 1000
_SPILL = pa.schema([("position", pa.int64()), *OBJECT_COLUMNS.items()])

Problems = list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class CocoObjects:
    """The objects of one annotation file.

    Attributes:
        uri: the file.
        class_ids: its category numbers, in the order of our labels.
        image_ids: the numbers of all its pictures, sorted: of this split and of others.
    """

    uri: str
    class_ids: tuple[int, ...]
    image_ids: NDArray[np.int64]

    def join(
        self, rows: pa.Table, edges: Sequence[int], scratch: Path
    ) -> Iterator[tuple[pa.Table, Problems]]:
        """See `itpn_ray.data.sources.base.Annotations.join`."""
        spill = _Spill(rows.column("image_id").to_numpy(), np.asarray(edges), scratch)
        number = {found: n for n, found in enumerate(self.class_ids)}
        problems: Problems = []
        for _, item in read_arrays(self.uri, ("annotations",)):
            try:
                image_id = _whole(item, "image_id")
                at = np.searchsorted(self.image_ids, image_id)
                if at == len(self.image_ids) or self.image_ids[at] != image_id:
                    raise ValueError(f"its picture {image_id} is not listed")
                spill.add(image_id, parse_object(item, number))
            except (ValueError, TypeError) as error:
                problems.append((f"{self.uri}#annotation {item.get('id')}", str(error)))
        if len(problems) > _MOST_PROBLEMS:
            rest = len(problems) - _MOST_PROBLEMS
            problems[_MOST_PROBLEMS:] = [(self.uri, f"{rest} more objects cannot be used")]
        for piece, columns in enumerate(spill.pieces()):
            part = rows.slice(edges[piece], edges[piece + 1] - edges[piece])
            for name, column in columns.items():
                part = part.append_column(name, column)
            yield part, problems if piece == 0 else []


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


def parse_object(item: Mapping[str, Any], number: Mapping[int, int]) -> dict[str, Any]:
    """One COCO annotation as values of `itpn_ray.data.schema.OBJECT_COLUMNS`.

    Raises:
        ValueError, TypeError: it cannot be used; the message says why.
    """
    category = _whole(item, "category_id")
    if category not in number:
        raise ValueError(f"its category {category} is not listed")
    x, y, width, height = (float(value) for value in item.get("bbox", ()))
    if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
        raise ValueError(f"its box has {width:g} x {height:g} pixels at ({x:g}, {y:g})")
    polygons, runs = _mask(item.get("segmentation"))
    return {
        "object_ids": _whole(item, "id"),
        "classes": number[category],
        "boxes": [x, y, x + width, y + height],
        "areas": float(item.get("area", width * height)),
        "crowds": bool(item.get("iscrowd", 0)),
        "polygons": polygons,
        "runs": runs,
    }


def _mask(found: Any) -> tuple[list[list[float]], list[int]]:
    """Polygons and run lengths of a segmentation; parts of less than three corners are no area."""
    if isinstance(found, dict):
        counts = found["counts"]
        runs = run_lengths.from_text(counts) if isinstance(counts, str) else list(counts)
        if sum(runs) != math.prod(found["size"]):
            raise ValueError("the run lengths of its mask do not add up to the picture")
        return [], runs
    parts = [[float(value) for value in part] for part in found or ()]
    return [part for part in parts if len(part) >= 6 and len(part) % 2 == 0], []


def _whole(item: Mapping[str, Any], key: str) -> int:
    value = item.get(key)
    if not isinstance(value, int):
        raise TypeError(f"its {key} is {value!r}")
    return value


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
        """Add an object; one of a picture that is not in the listing is left out."""
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
