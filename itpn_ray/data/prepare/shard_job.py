"""Makes shards: of each read its images, normalise them, write the shard, then the record of it.

Runs in a Ray task, or in the driver. The record (a small JSON file) is written after the shard is
whole, so a shard with a record is finished; a killed task leaves nothing but temporary files.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from itpn_ray.data.annotations.class_masks import MaskValues, class_pixels, encode_mask
from itpn_ray.data.annotations.faults import FaultError
from itpn_ray.data.annotations.geometry import follow, leave_out_faulty
from itpn_ray.data.prepare.masks import mask_files, mask_of
from itpn_ray.data.prepare.plan import from_bytes
from itpn_ray.data.prepare.reencode import (
    EncodedImage,
    ImageRules,
    RejectedError,
    decode_upright,
    reencode,
)
from itpn_ray.data.schema import shard_schema
from itpn_ray.data.sources.annotated.ids import object_entry
from itpn_ray.data.sources.base import Source
from itpn_ray.data.store.manifest import WORK, ShardInfo
from itpn_ray.data.store.shards import ShardWriter
from itpn_ray.storage import ObjectStore, open_store

# One image in so many gives the channel statistics.
STATISTICS_EVERY = 32


@dataclass(kw_only=True)
class ShardRecord:
    """What is known of a finished shard.

    Attributes:
        digest: of its plan.
        shard: file, rows, bytes, SHA-256; ``None`` if no image was usable.
        labels, widths, heights: of its rows.
        label_sets: of its rows, where images have several labels.
        class_counts: images, objects or pixels by class number.
        quarantine: [path, reason] of images left out.
        left_out: [path and number, reason] of objects left out of the other images.
        kept: images stored with the file's own bytes.
        measured: images in the channel statistics.
        means, squares: sums over these of the means of R, G, B and of their squares, 0..1.
    """

    digest: str
    shard: ShardInfo | None = None
    labels: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    label_sets: list[list[int]] = field(default_factory=list)
    class_counts: dict[int, int] = field(default_factory=dict)
    quarantine: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    kept: int = 0
    measured: int = 0
    means: list[float] = field(default_factory=lambda: [0.0] * 3)
    squares: list[float] = field(default_factory=lambda: [0.0] * 3)

    def to_json(self) -> bytes:
        """The record as it is stored."""
        shard = asdict(self.shard) if self.shard else None
        return json.dumps({**vars(self), "shard": shard}).encode()

    def leave_out(self, path: str, faults: Sequence[tuple[int, FaultError]]) -> None:
        """Note objects of an image that are left out."""
        self.left_out += [(f"{path}#{object_entry(n)}", fault.reason) for n, fault in faults]

    def count(self, row: Mapping[str, Any], image: EncodedImage) -> None:
        """Add a stored image and its row."""
        self.labels.append(row["label"])
        self.widths.append(image.width)
        self.heights.append(image.height)
        self.kept += image.kept
        if "labels" in row:
            self.label_sets.append(row["labels"])
        classes = row.get("classes", row.get("labels", [row["label"]]))
        # Segmentation counts pixels, detection objects, classification the image itself.
        counted = row.get("pixels") or Counter(classes)
        # Classes below 0 stand for "no label" and have no count.
        for label, number in counted.items():
            if label >= 0:
                self.class_counts[label] = self.class_counts.get(label, 0) + number
        if image.histogram is not None:
            # Each image counts the same, large or small, as training shows one crop of each.
            values = np.arange(256) / 255
            fractions = image.histogram / image.histogram.sum(axis=1, keepdims=True)
            self.measured += 1
            self.means = (self.means + fractions @ values).tolist()
            self.squares = (self.squares + fractions @ values**2).tolist()


ShardPlace = tuple[str, int, str]
"""Split and number of a shard, and the digest of its plan."""
Made = tuple[str, int, ShardRecord]
"""Split, number and record of a shard that is whole."""


@dataclass(frozen=True, kw_only=True)
class ShardJob:
    """Everything that is the same for all shards of a preparation."""

    source: Source
    out: str
    kind: str
    rules: ImageRules
    masks: MaskValues | None = None
    tiling: tuple[int, int] = (0, 0)
    """Side and gap of the tiles of images with turned boxes."""

    @staticmethod
    def record_of(store: ObjectStore, place: ShardPlace) -> ShardRecord | None:
        """The record of a shard that is there already and is the one its plan asks for."""
        split, index, digest = place
        try:
            record = read_record(store.read_bytes(record_key(split, index)))
        except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or another version's
            return None
        # The plan was another: other images, settings or order.
        if record.digest != digest:
            return None
        if record.shard is not None:
            path = store.local_path(f"{split}/{record.shard.file}")
            size = record.shard.bytes
            if path is not None and not (path.is_file() and path.stat().st_size == size):
                return None
        return record

    def make(self, places: Iterable[ShardPlace]) -> Generator[Made, None, None]:
        """Make shards from their plans and record them, in this order; keep those that are there.

        While one is brought to the disk or into the bucket, the next one is being written, so each
        is reported when the next one is. Stopping waits for the one that is on its way.

        Raises:
            OSError: the source or the output fails; a single unreadable file does not raise.
        """
        store = open_store(self.out)
        # One thread: shards are brought to their place one after another, in order.
        with ThreadPoolExecutor(1) as background:
            before: Future[ShardRecord] | None = None
            before_at = "", 0
            for split, index, digest in places:
                found = self.record_of(store, (split, index, digest))
                if found is None:
                    draft = self._write(store, split, index, digest)
                    record = background.submit(self._keep, store, split, index, *draft)
                else:
                    # Already done: found records take the same
                    # way as new ones, and so keep the order.
                    record = Future()
                    record.set_result(found)
                if before is not None:
                    yield *before_at, before.result()
                before, before_at = record, (split, index)
            if before is not None:
                yield *before_at, before.result()

    def _write(
        self, store: ObjectStore, split: str, index: int, digest: str
    ) -> tuple[ShardRecord, Path]:
        """Write a shard to a file of its own; it has no rows if no image was usable."""
        rows = from_bytes(store.read_bytes(plan_key(split, index)))
        record = ShardRecord(digest=digest)
        path = scratch_path(store)
        try:
            with path.open("wb") as out, ShardWriter(out, shard_schema(self.kind)) as writer:
                for row, image in self._images(rows, split, record):
                    writer.append(row)
                    record.count(row, image)
        # BaseException: an interrupt must not leave a draft either.
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if writer.rows:
            record.shard = ShardInfo(
                file=f"shard-{index:05d}.arrow",
                rows=writer.rows,
                bytes=writer.bytes,
                sha256=writer.sha256,
            )
        return record, path

    @staticmethod
    def _keep(
        store: ObjectStore, split: str, index: int, record: ShardRecord, path: Path
    ) -> ShardRecord:
        """Bring a written shard to its place, then record it."""
        try:
            if record.shard is not None:
                # Before the rename: after a power cut a name must not stand for missing bytes.
                with path.open("rb") as written:
                    os.fsync(written.fileno())
                store.put_file(path, f"{split}/{record.shard.file}", move=True)
            store.write_bytes(record_key(split, index), record.to_json())
        finally:
            path.unlink(missing_ok=True)
        return record

    def _images(
        self, rows: pa.Table, split: str, record: ShardRecord
    ) -> Iterator[tuple[dict[str, Any], EncodedImage]]:
        """The shard's rows and their images; what cannot be used goes to the quarantine."""
        files = self.source.read(rows)
        # Without masks something in their place, in step with the images.
        masks = self.source.read(mask_files(rows)) if self.masks else repeat(b"", len(rows))
        found = zip(_each(rows), files, masks, strict=True)
        for number, (row, data, mask) in enumerate(found):
            # By place in the shard, so that any number of workers measures the same images.
            measured = split == "train" and number % STATISTICS_EVERY == 0
            try:
                if isinstance(data, OSError):
                    raise RejectedError(data.strerror)
                if self.kind == "rotated":
                    yield from self._tiles(row, data, split, record, measured=measured)
                    continue
                image = reencode(data, self.rules, measured=measured)
                if self.kind == "detection":
                    # Faults are looked for in the image as annotated, before it moves.
                    row, faults = leave_out_faulty(row, image)
                    record.leave_out(row["path"], faults)
                    row = follow(row, image)
                if self.masks:
                    row |= self._mask(row, mask, image)
            except RejectedError as error:
                record.quarantine.append((row["path"], str(error)))
                continue
            yield {**row, **_stored(image)}, image

    def _tiles(
        self, row: dict[str, Any], data: bytes, split: str, record: ShardRecord, *, measured: bool
    ) -> Iterator[tuple[dict[str, Any], EncodedImage]]:
        """The tiles of an image; those of train that have no object teach nothing and are none."""
        from itpn_ray.data.prepare.tiling import tiles  # imports torch

        upright, whole = decode_upright(data, self.rules, measured=measured)
        row, faults = leave_out_faulty(row, whole)
        record.leave_out(row["path"], faults)
        for tile, image in tiles(follow(row, whole), upright, whole, *self.tiling):
            if tile["classes"] or split != "train":
                yield {**tile, **_stored(image)}, image

    def _mask(
        self, row: dict[str, Any], data: bytes | OSError, image: EncodedImage
    ) -> dict[str, Any]:
        """The column of a mask, and how many pixels each class has."""
        assert self.masks is not None
        mask = mask_of(row, data, image, self.masks, self.rules.max_pixels)
        return {"mask": encode_mask(mask), "pixels": class_pixels(mask)}


def _stored(image: EncodedImage) -> dict[str, Any]:
    """The columns of an image itself."""
    return {"image": image.data, "width": image.width, "height": image.height}


def _each(table: pa.Table) -> Iterator[dict[str, Any]]:
    """The rows of a listing as dictionaries, a few at a time."""
    # Python rows take far more memory than the table: never all at once.
    for batch in table.to_batches(max_chunksize=64):
        yield from batch.to_pylist()


def plan_key(split: str, index: int) -> str:
    """Where the plan of a shard is kept while the preparation runs."""
    return f"{WORK}/plan/{split}-{index:05d}.arrow"


def record_key(split: str, index: int) -> str:
    """Where the record of a finished shard is kept while the preparation runs."""
    return f"{WORK}/done/{split}-{index:05d}.json"


def read_record(data: bytes) -> ShardRecord:
    """The inverse of `ShardRecord.to_json`.

    Raises:
        ValueError, KeyError, TypeError: it is damaged.
    """
    found = json.loads(data)
    shard = found.pop("shard")
    # JSON turns the keys of an object into strings.
    found["class_counts"] = {int(label): n for label, n in found["class_counts"].items()}
    for name in ("quarantine", "left_out"):
        found[name] = [(path, reason) for path, reason in found[name]]
    return ShardRecord(**found, shard=ShardInfo(**shard) if shard else None)


def remove_work(store: ObjectStore) -> None:
    """Remove plans and records, and what killed processes have left of them."""
    folder = store.local_path(WORK)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)  # what stays does no harm
        return
    for key in store.list(f"{WORK}/"):
        store.delete(key)


@contextmanager
def scratch_file(store: ObjectStore) -> Iterator[Path]:
    """A path to write a file for the store to; it is gone at the end unless it has moved."""
    path = scratch_path(store)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def scratch_path(store: ObjectStore) -> Path:
    """A new file's path: beside the output where that is local, so that the file can move."""
    name = f"{secrets.token_hex(8)}.tmp"
    path = store.local_path(f"{WORK}/{name}")
    if path is None:
        # Remote stores get a copy; the draft itself lies in the machine's own temporary folder.
        return Path(tempfile.gettempdir()) / f"itpn_ray-{name}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
