"""Writes a teacher's features of prepared images: Ray Data over shards and views.

Each task makes one whole shard of features and records it, so that repeating a command that was
killed makes the rest only. The manifest is written last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

from torch import Tensor

from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.loading.crop_loader import ViewLoader
from itpn_ray.data.prepare.shard_job import remove_work, scratch_file
from itpn_ray.data.store.manifest import MANIFEST, WORK, ShardInfo
from itpn_ray.data.store.shards import ShardedDataset, open_dataset, open_train_and_val
from itpn_ray.data.store.teacher_features import (
    FeatureManifest,
    FeatureSettings,
    FeatureSplit,
    FeatureWriter,
    images_digest,
    read_features,
    view_folder,
)
from itpn_ray.errors import ConfigError
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.machines import require_seen, shared_folder, ship
from itpn_ray.ray_runtime.start import start_ray
from itpn_ray.ray_runtime.tasks import Work, run_on_ray
from itpn_ray.storage import is_s3, open_store
from itpn_ray.storage.uri import local_path

Encode = Callable[[Tensor], Tensor]
"""Features of images: uint8 (B, 3, S, S) -> float16 (B, L, T), both in main memory."""
Made = Generator[tuple["Piece", ShardInfo], None, None]
"""Pieces and their shards of features, as they become whole."""
TRAIN = "train"


@dataclass(frozen=True, kw_only=True)
class FeatureJob:
    """Everything that is the same for all shards.

    Attributes:
        data: the prepared images.
        out: where the features go.
        settings: what decides them.
        tokens: L.
        width: T.
        batch: images the teacher sees at once.
        loader: threads and prefetch.
        teacher: file of the teacher; a local one is sent to workers on other machines.
        make_encoder: makes the teacher of a file, once a worker.
    """

    data: str
    out: str
    settings: FeatureSettings
    tokens: int
    width: int
    batch: int
    loader: LoaderConfig
    teacher: str
    make_encoder: Callable[[str], Encode]

    def make(self, piece: Piece, encode: Encode) -> ShardInfo:
        """Make one shard and record it.

        Raises:
            DataError: an image cannot be decoded.
        """
        dataset = open_dataset(self.data, piece.split)
        start, stop = dataset.starts[piece.index : piece.index + 2].tolist()
        loader = ViewLoader(
            dataset,
            dataclasses.replace(self.loader, window=1),  # of remote images one shard is needed
            image_size=self.settings.image_size,
            batch=self.batch,
            augment=self.settings.augment if piece.split == TRAIN else None,
            seed=self.settings.seed,
            crop=self.settings.crop_fraction,
        )
        store = open_store(self.out)
        with closing(loader), scratch_file(store) as path:
            with FeatureWriter(path, self.tokens, self.width) as writer:
                for batch in loader.rows(start, stop, piece.view):
                    writer.write(encode(batch["image"]))
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                # At the end of the file, which has just been read whole.
                size = file.tell()
            store.put_file(path, piece.key, move=True)
        info = ShardInfo(file=piece.file, rows=stop - start, bytes=size, sha256=digest)
        record = {"job": piece.digest, "shard": dataclasses.asdict(info)}
        # After the shard: a record says that it is whole.
        store.write_bytes(piece.record_key, json.dumps(record).encode())
        return info


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One shard of features to be made; ``digest`` is of the settings and of all its images."""

    split: str
    view: int
    index: int
    digest: str

    @property
    def file(self) -> str:
        """Name of the file."""
        return f"shard-{self.index:05d}.arrow"

    @property
    def key(self) -> str:
        """Where the shard lies."""
        return f"{view_folder(self.split, self.view)}/{self.file}"

    @property
    def record_key(self) -> str:
        """Where it is recorded once it is whole."""
        return f"{WORK}/{self.split}-{self.view}-{self.index:05d}.json"


def write_features(
    job: FeatureJob,
    *,
    workers: int,
    gpus: bool,
    cpus_per_worker: float = 1.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    ray: RayConfig | None = None,
) -> FeatureManifest:
    """Write the features of all splits; at once where it has been done already.

    Args:
        job: what, from what, whereto.
        workers: Ray workers, each with a teacher of its own; 0: this process.
        gpus: reserve a GPU for each worker.
        cpus_per_worker: CPUs reserved for each worker.
        progress: takes the images done and in all, views counted.
        ray: the Ray to run on, unless this process is connected to one.

    Returns:
        The manifest, which is also at ``job.out``.

    Raises:
        ConfigError: the output holds features of other settings or images.
        DataError: an image cannot be decoded.
    """
    store = open_store(job.out)
    datasets = _splits(job.data)
    digests = {name: images_digest(dataset) for name, dataset in datasets.items()}
    if store.exists(MANIFEST):
        manifest = _finished(job, digests)
        remove_work(store)
        return manifest
    found: dict[Piece, ShardInfo] = {}
    waiting = []
    for piece in _pieces(job, datasets, digests):
        info = _recorded(job, piece)
        if info is None:
            waiting.append(piece)
        else:
            found[piece] = info
    # Only training images are seen in several views; evaluation has one.
    views = {name: job.settings.views if name == TRAIN else 1 for name in datasets}
    total = sum(len(datasets[name]) * views[name] for name in datasets)
    made = (
        _make_on_ray(job, waiting, workers, gpus, cpus_per_worker, ray)
        if workers
        else _make_here(job, waiting)
    )
    with closing(made):
        for piece, info in made:
            found[piece] = info
            progress(sum(shard.rows for shard in found.values()), total)
    manifest = FeatureManifest(
        settings=job.settings,
        tokens=job.tokens,
        width=job.width,
        splits={
            name: FeatureSplit(
                images=digests[name],
                views=tuple(tuple(_in_order(found, name, view)) for view in range(views[name])),
            )
            for name in datasets
        },
    )
    store.write_bytes(MANIFEST, manifest.to_json().encode())
    remove_work(store)
    return manifest


def _splits(data: str) -> dict[str, ShardedDataset]:
    """The splits that pre-training reads."""
    train, val = open_train_and_val(data)
    return {TRAIN: train, "val": val}


def _pieces(
    job: FeatureJob, datasets: dict[str, ShardedDataset], digests: dict[str, str]
) -> Iterator[Piece]:
    settings = json.dumps(dataclasses.asdict(job.settings), sort_keys=True)
    for name, dataset in datasets.items():
        digest = hashlib.sha256(f"{settings} {digests[name]}".encode()).hexdigest()
        for view in range(job.settings.views if name == TRAIN else 1):
            for index in range(len(dataset.shards)):
                yield Piece(split=name, view=view, index=index, digest=digest)


def _recorded(job: FeatureJob, piece: Piece) -> ShardInfo | None:
    """The shard if it is there already and was made from the same settings and images."""
    store = open_store(job.out)
    try:
        record = json.loads(store.read_bytes(piece.record_key))
        digest, info = record["job"], ShardInfo(**record["shard"])
        possible = info.is_possible
    # None, or damaged, or another version's: the shard is made again.
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None
    # Settings or images have changed, or the shard was removed.
    if not possible or digest != piece.digest or not store.exists(piece.key):
        return None
    return info


def _in_order(found: dict[Piece, ShardInfo], split: str, view: int) -> Iterator[ShardInfo]:
    pieces = [piece for piece in found if (piece.split, piece.view) == (split, view)]
    for piece in sorted(pieces, key=lambda piece: piece.index):
        yield found[piece]


def _finished(job: FeatureJob, digests: dict[str, str]) -> FeatureManifest:
    manifest = read_features(job.out)
    same = manifest.settings == job.settings and digests == {
        name: split.images for name, split in manifest.splits.items()
    }
    if not same:
        raise ConfigError(
            "out",
            job.out,
            "holds features of another teacher, other views or other images",
            "Give a new folder or remove this one",
        )
    return manifest


def _make_here(job: FeatureJob, pieces: list[Piece]) -> Made:
    if pieces:
        encode = job.make_encoder(job.teacher)
        for piece in pieces:
            yield piece, job.make(piece, encode)


def _make_on_ray(
    job: FeatureJob,
    pieces: list[Piece],
    workers: int,
    gpus: bool,
    cpus: float,
    config: RayConfig | None,
) -> Made:
    """Make shards with Ray Data, in whatever order they finish; each worker has a teacher."""
    if not pieces:
        return
    hint = "Give an address s3://BUCKET/PREFIX"
    with start_ray(config), shared_folder("features", job.out, job.out, hint):
        if not is_s3(job.data):
            manifest = f"{local_path(job.data)}/{MANIFEST}"
            require_seen("data", job.data, manifest, hint)
        sent = ship(job.teacher)

        def make_work() -> Work:
            encode = job.make_encoder(sent.here() if sent else job.teacher)
            return lambda piece: [(piece, job.make(piece, encode))]

        yield from run_on_ray(
            make_work, pieces, workers=workers, actors=True, cpus=cpus, gpus=int(gpus)
        )
