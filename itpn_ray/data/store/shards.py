"""Shards: Arrow IPC files of encoded images, written in a stream, read through a memory map."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from itpn_ray.data.schema import KINDS, index_schema, shard_schema
from itpn_ray.data.store.manifest import INDEX, Manifest, ShardInfo, read_manifest
from itpn_ray.errors import DataError
from itpn_ray.formatting import number_of
from itpn_ray.storage import is_s3, join, open_store

# Held in memory while a shard is written, whichever is reached first.
BATCH_ROWS = 64
BATCH_BYTES = 32 << 20

_SCHEMAS = [shard_schema(kind) for kind in KINDS]

LocalPath = Callable[[str, ShardInfo], Path]
"""From a shard's URI and description to a copy of it on this machine."""


class ShardWriter:
    """Writes rows to an Arrow IPC stream, a few at a time, and digests what it writes.

    Use as a context manager; ``rows``, ``bytes`` and ``sha256`` are final after it.
    """

    def __init__(self, out: BinaryIO, schema: pa.Schema) -> None:
        self.rows = 0
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._out = out
        self._schema = schema
        self._pending: list[Mapping[str, Any]] = []
        self._pending_bytes = 0
        self._writer = pa.ipc.new_file(pa.PythonFile(_Tee(self), mode="w"), schema)

    @property
    def sha256(self) -> str:
        """Digest of everything written so far, hex."""
        return self._hash.hexdigest()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row with a value for each column of the schema."""
        self._pending.append(row)
        self._pending_bytes += len(row["image"])
        self.rows += 1
        if len(self._pending) >= BATCH_ROWS or self._pending_bytes >= BATCH_BYTES:
            self._flush()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        # After an error the rest is not written: the file will be thrown away.
        if exception[0] is None:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._pending:
            columns = {
                field.name: pa.array([row[field.name] for row in self._pending], field.type)
                for field in self._schema
                if field.name != "image"
            }
            # The images are nearly all of the bytes, see `_binary_array`.
            columns["image"] = _binary_array([row["image"] for row in self._pending])
            arrays = [columns[name] for name in self._schema.names]
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
            self._pending.clear()
            self._pending_bytes = 0

    def _write(self, data: Any) -> int:
        view = memoryview(data)
        # Digested on the way, for reading a shard back would cost a second pass over the disk.
        self._hash.update(view)
        self._out.write(view)
        self.bytes += view.nbytes
        return view.nbytes


class _Tee:
    """The file object that Arrow writes to: passes everything on to a ShardWriter."""

    closed = False

    def __init__(self, writer: ShardWriter) -> None:
        self.write = writer._write

    def flush(self) -> None:
        """Nothing is held back here."""

    def close(self) -> None:
        """The output belongs to the caller."""


class Shard:
    """A shard on this machine, mapped into memory; safe to read from several threads.

    Raises:
        DataError: the file is missing or not a whole Arrow file.
    """

    def __init__(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                # Batches keep the mapping alive after the file is closed, so that a data set of
                # thousands of shards holds no file descriptors.
                self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            _check_batches(reader.schema, self._batches)
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise DataError(
                str(path), None, f"not a whole shard: {error}", "Prepare the data again"
            ) from error
        rows = [batch.num_rows for batch in self._batches]
        self._starts = [0, *accumulate(rows)]
        # Views made once: an image is then two look-ups, without Arrow's objects.
        self._images = [_binary_views(batch.column("image")) for batch in self._batches]

    def __len__(self) -> int:
        return self._starts[-1]

    def image(self, row: int) -> NDArray[np.uint8]:
        """The encoded image of a row: (bytes,) uint8, a read-only view of the map.

        Raises:
            IndexError: there is no such row.
        """
        batch, inside = self._locate(row)
        offsets, data = self._images[batch]
        return data[offsets[inside] : offsets[inside + 1]]

    def row(self, row: int) -> dict[str, Any]:
        """All columns of a row as Python values; the image's bytes are copied.

        Raises:
            IndexError: there is no such row.
        """
        batch, inside = self._locate(row)
        return self._batches[batch].slice(inside, 1).to_pylist()[0]

    def fields(self, row: int, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of a row as Python values.

        Raises:
            IndexError: there is no such row.
        """
        batch, inside = self._locate(row)
        return self._batches[batch].slice(inside, 1).select(list(columns)).to_pylist()[0]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The shard, or some columns of it, as a table over the map."""
        table = pa.Table.from_batches(self._batches)
        return table if columns is None else table.select(list(columns))

    def _locate(self, row: int) -> tuple[int, int]:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of a shard of {len(self)}")
        batch = bisect_right(self._starts, row) - 1  # a ninth of the time of numpy's
        return batch, row - self._starts[batch]


class ShardedDataset:
    """One split of a prepared data set.

    A sample's id is its row number in the split, in the order of the shards.

    Attributes:
        uri: the data set.
        split: its name.
        manifest: of the whole data set.
        classes: class names; a label is an index into them.
        shards: the split's shards.
        starts: (shards + 1,) int64: the id of each shard's first row; the last entry is the count.
    """

    def __init__(
        self, uri: str, split: str, manifest: Manifest, local_path: LocalPath | None = None
    ) -> None:
        self.uri = uri
        self.split = split
        self.manifest = manifest
        self.classes = manifest.classes
        self.shards = manifest.splits[split].shards
        # A list for single look-ups, which is faster there, and an array for whole batches.
        self._starts = [0, *accumulate(shard.rows for shard in self.shards)]
        self.starts = np.array(self._starts, dtype=np.int64)
        self._local_path = local_path
        self._open: dict[int, Shard] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, sample_id: int) -> dict[str, Any]:
        """All columns of a row as Python values.

        Raises:
            IndexError: there is no such row.
        """
        shard, row = self.locate(sample_id)
        return self.shard(shard).row(row)

    def locate(self, sample_id: int) -> tuple[int, int]:
        """(shard, row in it) of a sample.

        Raises:
            IndexError: there is no such row.
        """
        if not 0 <= sample_id < len(self):
            raise IndexError(f"sample {sample_id} of {len(self)}")
        shard = bisect_right(self._starts, sample_id) - 1
        return shard, sample_id - self._starts[shard]

    def shard_uri(self, index: int) -> str:
        """Where a shard lies."""
        return join(self.uri, self.split, self.shards[index].file)

    def shard(self, index: int) -> Shard:
        """A shard, mapped into memory; shards of a local data set stay open.

        Raises:
            DataError: the file is missing or damaged, or is remote and no local path was given.
        """
        if index in self._open:
            return self._open[index]
        uri = self.shard_uri(index)
        if self._local_path is not None:
            return self._checked(Shard(self._local_path(uri, self.shards[index])), index)
        path = open_store(self.uri).local_path(f"{self.split}/{self.shards[index].file}")
        if path is None:
            raise DataError(uri, None, "is remote", "Read it through the loader, which caches it")
        # Two threads may open it at once; all then use the one that came first.
        return self._open.setdefault(index, self._checked(Shard(path), index))

    def _checked(self, shard: Shard, index: int) -> Shard:
        rows = self.shards[index].rows
        if len(shard) != rows:
            cause = f"should have {number_of(rows, 'row')}"
            raise DataError(self.shard_uri(index), len(shard), cause, "Prepare the data again")
        return shard

    @cached_property
    def index(self) -> pa.Table:
        """Label(s), width and height of every row, int32, without opening a shard.

        Raises:
            DataError: the index is missing or damaged.
        """
        where = join(self.uri, self.split, INDEX)
        try:
            data = open_store(self.uri).read_bytes(f"{self.split}/{INDEX}")
            table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
            # Offsets of a damaged file may lead out of it.
            table.validate(full=True)
            schema = index_schema(self.manifest.kind)
            if not table.schema.equals(schema) or any(c.null_count for c in table.columns):
                raise pa.ArrowInvalid(f"its columns are {table.schema.names}")
        except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
            raise DataError(where, None, f"damaged: {error}", "Prepare the data again") from error
        if table.num_rows != len(self):
            raise DataError(
                where,
                table.num_rows,
                f"should have {number_of(len(self), 'row')}",
                "Prepare the data again",
            )
        return table

    @cached_property
    def labels(self) -> NDArray[np.int32]:
        """(len,) int32: the class of every row, -1 where there is none."""
        return self.index.column("label").to_numpy()

    def multi_hot(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """(n, classes) uint8: 1 for each class that an image with several labels shows.

        Raises:
            DataError: the index names a class that there is not.
        """
        starts, labels = self._label_lists
        shown = np.zeros((len(rows), len(self.classes)), dtype=np.uint8)
        for place, row in zip(shown, rows.tolist(), strict=True):
            place[labels[starts[row] : starts[row + 1]]] = 1
        return shown

    @cached_property
    def _label_lists(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Where each row's labels begin, (len + 1,), and the labels of all rows in a line."""
        column = self.index.column("labels").combine_chunks()
        labels = column.flatten().to_numpy()
        if len(labels) and not 0 <= labels.min() <= labels.max() < len(self.classes):
            where = join(self.uri, self.split, INDEX)
            raise DataError(where, None, "damaged: names unknown classes", "Prepare the data again")
        return np.concatenate([[0], np.cumsum(column.value_lengths().to_numpy())]), labels


def open_dataset(uri: str, split: str, *, local_path: LocalPath | None = None) -> ShardedDataset:
    """Open one split of a prepared data set.

    Args:
        uri: where `itpn_ray.data.prepare.driver.prepare` wrote it: a folder or ``s3://bucket/prefix``.
        split: ``train``, ``val`` or ``test``.
        local_path: gives a copy on this machine of a remote shard; needed to read images of a
            remote data set.

    Raises:
        DataError: there is no such data set or split, or a local shard is missing or of the wrong
            size.
    """
    manifest = read_manifest(uri)
    if split not in manifest.splits:
        raise DataError(
            "split", split, f"{uri} has {', '.join(manifest.splits)}", "Name one of these"
        )
    dataset = ShardedDataset(uri, split, manifest, local_path)
    if not is_s3(uri):
        _check_files(dataset)
    return dataset


def open_train_and_val(uri: str) -> tuple[ShardedDataset, ShardedDataset]:
    """The two splits that every training needs.

    Raises:
        DataError: there is no such data set, it lacks one of the two, or see `open_dataset`.
    """
    splits = read_manifest(uri).splits
    for split, name in (("train", "training"), ("val", "validation")):
        if split not in splits:
            raise DataError(
                "data",
                uri,
                f"there is no {name} split, only {', '.join(splits)}",
                f"Prepare it with --splits {split}=NAME, what the source calls its {name} images",
            )
    return open_dataset(uri, "train"), open_dataset(uri, "val")


def _check_files(dataset: ShardedDataset) -> None:
    store = open_store(dataset.uri)
    for shard in dataset.shards:
        path = store.local_path(f"{dataset.split}/{shard.file}")
        # Sizes only: digests of a large data set would take minutes; the doctor compares those.
        found = path.stat().st_size if path is not None and path.is_file() else None
        if found != shard.bytes:
            cause = "is missing" if found is None else f"should have {shard.bytes} bytes"
            raise DataError(str(path), found, cause, "Remove the folder and prepare the data again")


def _check_batches(schema: pa.Schema, batches: Sequence[pa.RecordBatch]) -> None:
    """Refuse what would give other rows, or read beyond the file: damage need not stop Arrow.

    Raises:
        pyarrow.ArrowInvalid: as said.
    """
    if not any(schema.equals(known) for known in _SCHEMAS):
        raise pa.ArrowInvalid(f"its columns are {', '.join(schema.names)}")
    for batch in batches:
        batch.validate(full=True)
        if any(column.null_count for column in batch.columns):
            raise pa.ArrowInvalid("it has rows without a value")


def _binary_array(values: list[bytes]) -> pa.BinaryArray:
    """The same as ``pa.array(values)``, with one copy in place of several."""
    # 32-bit offsets, as `pa.binary()` has them: a batch holds 32 MB, or one large image.
    ends = np.cumsum([0, *map(len, values)], dtype=np.int32)
    buffers = [None, pa.py_buffer(ends), pa.py_buffer(b"".join(values))]
    return pa.BinaryArray.from_buffers(pa.binary(), len(values), buffers)


def _binary_views(column: pa.BinaryArray) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    """Offsets (rows + 1,) and bytes of a binary column, without a copy."""
    _, offsets, data = column.buffers()
    # A slice of a column shares its buffers, hence the offset.
    starts = np.frombuffer(offsets, dtype=np.int32)[column.offset :][: len(column) + 1]
    # An array without a byte has no buffer.
    return starts, np.frombuffer(data, dtype=np.uint8) if data else np.empty(0, np.uint8)
