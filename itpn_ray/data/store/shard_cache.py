"""Remote shards on this machine: a bounded folder of copies, fetched in the order of their use."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.store.manifest import ShardInfo
from itpn_ray.data.store.shards import LocalPath, ShardedDataset, open_dataset
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.storage import ObjectStore, is_s3, open_store
from itpn_ray.storage.scratch import private_folder

S = TypeVar("S")
_FETCHES = 4
"""Shards fetched at once; the store splits each into parts of its own."""


class ShardCache:
    """Copies of shards in one folder, which all processes of a machine may share.

    A copy is named by its digest and appears whole. Copies that were not used for the longest
    time go first; one that is mapped somewhere keeps its disk space until it is closed there.

    Args:
        folder: where the copies lie; made if needed.
        capacity: most bytes of all copies.

    Raises:
        ConfigError: the folder cannot be written.
    """

    def __init__(self, folder: Path, capacity: int) -> None:
        self.folder = folder
        self.capacity = capacity
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(
                "loader.cache_dir", str(folder), str(error), "Name a folder that can be written"
            ) from error

    def fetch(self, store: ObjectStore, key: str, info: ShardInfo) -> Path:
        """A whole copy of a shard, fetched if it is not there.

        Raises:
            DataError: the store does not give it, or gives other bytes than the manifest says.
        """
        path = self.folder / f"{info.sha256}.arrow"
        with self._locked(f"{info.sha256}.lock"):
            if not self._touch(path):
                # Two files: `part` holds the room that is reserved, `begun` what has come.
                part, begun = path.with_suffix(".part"), path.with_suffix(".begun")
                self._reserve(part, info.bytes)
                try:
                    _download(store, key, info, begun)
                except DataError:
                    # Others count the room under this lock.
                    with self._locked("room.lock"):
                        begun.unlink(missing_ok=True)
                        part.unlink()
                    raise
                with self._locked("room.lock"):
                    begun.replace(path)
                    part.unlink()
        return path

    def _touch(self, path: Path) -> bool:
        """Make a copy the last to be removed; whether it is there."""
        with self._locked("room.lock"):
            if path.exists():
                os.utime(path)
            return path.exists()

    def _reserve(self, part: Path, size: int) -> None:
        """Remove old copies until ``size`` bytes more fit, and take their place with ``part``.

        That is an empty file of the shard's size. What is fetched goes into another, whose size
        is what has come so far: others would take the rest for free.
        """
        with self._locked("room.lock"):
            for other in self.folder.glob("*.part"):
                self._remove_if_abandoned(other)
            held = [(path.stat(), path) for path in self.folder.glob("*.arrow")]
            # Reservations count in full, or two processes would fill the same room.
            used = sum(status.st_size for status, _ in held)
            used += sum(path.stat().st_size for path in self.folder.glob("*.part"))
            for status, path in sorted(held, key=lambda entry: entry[0].st_mtime_ns):
                if used + size <= self.capacity:
                    break
                path.unlink()
                used -= status.st_size
            with part.open("wb") as file:
                # A sparse file: its size counts, and no block of the disk is used.
                file.truncate(size)

    def _remove_if_abandoned(self, part: Path) -> None:
        """Remove what a process that was killed had begun to fetch."""
        with part.with_suffix(".lock").open("w") as lock:
            try:
                # Whoever fetches holds this lock; a process that died has lost it.
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            part.with_suffix(".begun").unlink(missing_ok=True)
            part.unlink(missing_ok=True)  # it may have been finished a moment ago

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Hold a lock against other threads and processes; the system frees it if they die."""
        with (self.folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _download(store: ObjectStore, key: str, info: ShardInfo, part: Path) -> None:
    """Copy a shard from the store and compare its digest."""
    where = f"{store.uri}/{key}"
    try:
        store.get_file(key, part)
    except OSError as error:
        raise DataError(
            where, None, f"cannot be fetched: {error}", "Check the store and your rights"
        ) from error
    with part.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != info.sha256:
        raise DataError(
            where,
            found,
            f"its SHA-256 should be {info.sha256}",
            "Copy the prepared data to the store again",
        )


class Sharded(Protocol):
    """What of a split is needed to fetch it: where it lies, its shards and their first rows."""

    @property
    def uri(self) -> str:
        """The data set."""

    @property
    def split(self) -> str:
        """Folder of the shards in it."""

    @property
    def shards(self) -> tuple[ShardInfo, ...]:
        """The shards, in order."""

    @property
    def starts(self) -> Ids:
        """(shards + 1,) int64: first row of each shard, and the number of rows."""


class RemoteShards(Generic[S]):
    """Opens the shards of a remote split, fetched ahead of their use.

    Args:
        dataset: the remote split.
        config: where the cache lies, how large it may be, and the window of shards.
        open_file: opens a shard's copy on this machine.

    Raises:
        ConfigError: the cache cannot hold what is used at a time, or cannot be written.
    """

    def __init__(
        self, dataset: Sharded, config: LoaderConfig, open_file: Callable[[Path], S]
    ) -> None:
        self._dataset = dataset
        self._open_file = open_file
        self._budget = needed_bytes(dataset, config)
        self._cache = _open_cache(config)
        self._store = open_store(dataset.uri)
        self._pool = ThreadPoolExecutor(_FETCHES, "fetch")
        self._open: dict[int, Future[S]] = {}
        self._first_use: list[tuple[int, int]] = []
        self._last_use: dict[int, int] = {}

    def plan(self, batches: Sequence[Ids], first: int = 0) -> None:
        """Take the rows of each coming batch, and fetch the first shards they need.

        Args:
            batches: rows of each.
            first: number of the first of them. From 0 on they are counted anew; else the batches
                before it, which have all begun, may still be being decoded.
        """
        self._first_use = []
        if first == 0:
            self._last_use = {}
        coming: set[int] = set()
        for number, rows in enumerate(batches, first):
            # Looked up for a whole batch at once: there are millions of rows in an epoch.
            shards = np.searchsorted(self._dataset.starts, rows, side="right") - 1
            for shard in np.unique(shards).tolist():
                if shard not in coming:
                    coming.add(shard)
                    self._first_use.append((number, shard))
                self._last_use[shard] = number
        self._first_use.reverse()  # popped from the end
        self.advance(first, 0)

    def advance(self, begun: int, done: int) -> None:
        """Batch ``begun`` is about to be decoded, those before ``done`` are: close, fetch on."""
        for shard in [s for s in self._open if self._last_use.get(s, -1) < done]:
            del self._open[shard]
        held = sum(self._dataset.shards[shard].bytes for shard in self._open)
        while self._first_use:
            needed, shard = self._first_use[-1]
            size = self._dataset.shards[shard].bytes
            # What the batch at hand needs is fetched in any case, or it would wait for ever.
            if needed > begun and held + size > self._budget:
                break
            self._first_use.pop()
            if shard not in self._open:
                self._open[shard] = self._pool.submit(self._fetch, shard)
                held += size

    def shard(self, index: int) -> S:
        """An open shard of a planned batch; waits until it is there.

        Raises:
            DataError: it cannot be fetched, or is damaged.
        """
        return self._open[index].result()

    def close(self) -> None:
        """Close all shards; fetches not begun are dropped."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._open.clear()

    def _fetch(self, index: int) -> S:
        info = self._dataset.shards[index]
        key = f"{self._dataset.split}/{info.file}"
        return self._open_file(self._cache.fetch(self._store, key, info))


def open_rows(uri: str, split: str, config: LoaderConfig) -> ShardedDataset:
    """A split whose rows can be read one by one; remote shards are fetched into the cache.

    Raises:
        DataError: see `open_dataset`.
    """
    return open_dataset(uri, split, local_path=local_copies(config) if is_s3(uri) else None)


def local_copies(config: LoaderConfig) -> LocalPath:
    """What `itpn_ray.data.store.shards.open_dataset` needs to open remote shards one by one."""
    cache = _open_cache(config)

    def local_path(uri: str, info: ShardInfo) -> Path:
        folder, _, name = uri.rpartition("/")
        return cache.fetch(open_store(folder), name, info)

    return local_path


def _open_cache(config: LoaderConfig) -> ShardCache:
    folder = config.cache_dir or private_folder("itpn_ray_cache")
    return ShardCache(Path(folder), int(config.cache_gb * 1e9))


def needed_bytes(dataset: Sharded, config: LoaderConfig) -> int:
    """Bytes of remote shards that are used at a time: two windows, the current and the next one.

    Raises:
        ConfigError: the cache cannot hold them.
    """
    # The largest ones, for any shards may be neighbours in some epoch.
    sizes = sorted((shard.bytes for shard in dataset.shards), reverse=True)
    needed = sum(sizes[: 2 * config.window] if config.window else sizes)
    if needed > config.cache_gb * 1e9:
        what = f"two windows of {config.window} shards" if config.window else "the whole split"
        raise ConfigError(
            "loader.cache_gb",
            config.cache_gb,
            f"{what} of the remote data are {needed / 1e9:.1f} GB",
            "Shuffle fewer shards together with --loader.window, or enlarge the cache",
        )
    return needed
