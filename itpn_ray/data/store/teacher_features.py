"""A teacher's features of prepared images, written once and read back beside the images.

Layout: ``manifest.json`` and ``<split>/view-<v>/shard-<i>.arrow``, one Arrow file a view and shard
of images, one row an image in the same order: ``tokens`` float16 (L, T). A view is what training
shows of an image in one epoch (crop, flip, colours); training takes the views in turn, epoch e the
view e mod V. The val split has one view, the centre.

Size: L * T * 2 bytes an image and view; 196 tokens of 768 are 0.3 MB, 385 GB for ImageNet-1K.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from itpn_ray.data.config import AugmentConfig, LoaderConfig
from itpn_ray.data.loading.order import Ids
from itpn_ray.data.store.manifest import MANIFEST, ShardInfo, is_outside
from itpn_ray.data.store.shard_cache import RemoteShards
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.typed_json import build, read_json
from itpn_ray.errors import DataError
from itpn_ray.storage import is_s3, join, open_store

FEATURES_VERSION = 1
Tokens = npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class FeatureSettings:
    """What the features were computed from; other settings give other features.

    Attributes:
        teacher: whatever identifies the teacher, such as its architecture and its file's SHA-256.
        image_size: side of the views, pixels.
        seed: seed of the views.
        views: views a training image, V.
        augment: crops, flips and colours of the views.
        crop_fraction: of held-out images, see `itpn_ray.data.config.crop_fraction`; features
            that do not say were written with 0.875.
    """

    teacher: Mapping[str, str]
    image_size: int
    seed: int
    views: int
    augment: AugmentConfig
    crop_fraction: float = 0.875


@dataclass(frozen=True, kw_only=True)
class FeatureSplit:
    """The features of one split: digest of its images, and the shards of each view."""

    images: str
    views: tuple[tuple[ShardInfo, ...], ...]


@dataclass(frozen=True, kw_only=True)
class FeatureManifest:
    """All features; ``tokens`` is L and ``width`` T."""

    settings: FeatureSettings
    tokens: int
    width: int
    splits: Mapping[str, FeatureSplit]
    schema_version: int = FEATURES_VERSION

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything in it: what the features are, wherever they lie."""
        content = json.dumps(dataclasses.asdict(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def to_json(self) -> str:
        """The manifest as it is stored."""
        return json.dumps(dataclasses.asdict(self), indent=1) + "\n"


def read_features(uri: str) -> FeatureManifest:
    """Read the manifest of the features at ``uri``.

    Raises:
        DataError: there is none, it is of another version, or it is damaged.
    """
    try:
        manifest = build(FeatureManifest, read_json(open_store(uri).read_bytes(MANIFEST)))
        if manifest.schema_version != FEATURES_VERSION:
            raise ValueError(f"version {manifest.schema_version}, not {FEATURES_VERSION}")
        _check(manifest)
    except FileNotFoundError as error:
        raise DataError(
            "features",
            uri,
            f"there is no {MANIFEST}, so these are no finished features",
            "Write them: `itpn-ray cache-teacher RECIPE --data DATA --task.teacher FILE "
            f"--features {uri}`",
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            join(uri, MANIFEST), None, f"damaged: {error}", "Write the features again"
        ) from error
    return manifest


def _check(manifest: FeatureManifest) -> None:
    """Refuse a manifest that contradicts itself.

    Raises:
        ValueError: as said.
    """
    if min(manifest.tokens, manifest.width) < 1:
        raise ValueError(f"features of {manifest.tokens} tokens of {manifest.width}")
    for name, split in manifest.splits.items():
        shards = [shard for view in split.views for shard in view]
        if not split.views or is_outside(name):
            raise ValueError(f"{name} has no views")
        if not all(shard.is_possible and not is_outside(shard.file) for shard in shards):
            raise ValueError(f"a shard of {name} has no possible name, size or digest")


def images_digest(dataset: ShardedDataset) -> str:
    """SHA-256 (hex) that tells one prepared split from another."""
    return hashlib.sha256("".join(shard.sha256 for shard in dataset.shards).encode()).hexdigest()


class FeatureWriter:
    """Writes one shard of features; a context manager."""

    def __init__(self, path: Path, tokens: int, width: int) -> None:
        kind = pa.fixed_shape_tensor(pa.float16(), (tokens, width))
        self._schema = pa.schema([pa.field("tokens", kind, nullable=False)])
        self._file = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._file, self._schema)

    def write(self, features: Tensor) -> None:
        """Append rows, float16 (n, L, T) in main memory."""
        rows = pa.FixedShapeTensorArray.from_numpy_ndarray(features.contiguous().numpy())
        self._writer.write_batch(pa.record_batch([rows], schema=self._schema))

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()
        self._file.close()


class FeatureShard:
    """One shard of features, mapped into memory; safe to read from several threads.

    Raises:
        DataError: the file is missing or not a whole Arrow file.
    """

    def __init__(self, path: Path) -> None:
        try:
            with pa.memory_map(str(path)) as source:
                reader = pa.ipc.open_file(source)
                batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
            for batch in batches:
                batch.validate(full=True)
            # (rows, L, T) of each batch, without a copy
            self._batches: list[Tokens] = [b.column("tokens").to_numpy_ndarray() for b in batches]
        except (OSError, KeyError, AttributeError, pa.ArrowException) as error:
            raise DataError(
                str(path), None, f"not a whole shard of features: {error}", "Write them again"
            ) from error
        self._starts = np.cumsum([0, *(len(batch) for batch in self._batches)])

    def tokens(self, row: int) -> Tokens:
        """The features of a row, (L, T) float16, a read-only view of the map."""
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._batches[batch][row - self._starts[batch]]


@dataclass(frozen=True, kw_only=True)
class FeatureView:
    """One view of one split, as `RemoteShards` wants it; ``split`` is the folder of its shards."""

    uri: str
    split: str
    shards: tuple[ShardInfo, ...]
    starts: Ids


class Features:
    """The features of one split, beside its images.

    Args:
        uri: where `itpn-ray cache-teacher` wrote them: a folder that all workers share, or
            ``s3://bucket/prefix``.
        dataset: the split of images.
        config: the cache of remote shards.

    Raises:
        DataError: there are none, they are of other images, or a local shard is missing.
    """

    def __init__(self, uri: str, dataset: ShardedDataset, config: LoaderConfig) -> None:
        self.manifest = read_features(uri)
        split = self.manifest.splits.get(dataset.split)
        if split is None or split.images != images_digest(dataset):
            raise DataError(
                "features",
                uri,
                f"they are not of the {dataset.split} images of {dataset.uri}",
                "Write them for this data with `itpn-ray cache-teacher`",
            )
        self._dataset = dataset
        self._config = config
        self._views = [
            FeatureView(
                uri=uri,
                split=view_folder(dataset.split, number),
                shards=shards,
                starts=dataset.starts,
            )
            for number, shards in enumerate(split.views)
        ]
        self._open: dict[tuple[int, int], FeatureShard] = {}
        self._remote: RemoteShards[FeatureShard] | None = None
        if not is_s3(uri):
            self._check_files()

    @property
    def views(self) -> int:
        """V, views of each image."""
        return len(self._views)

    @property
    def remote(self) -> bool:
        """Whether they are fetched; of those, one view is open at a time."""
        return is_s3(self._views[0].uri)

    def fetch(self, view: int) -> RemoteShards[FeatureShard] | None:
        """What fetches the shards of a view that is read next; None where they are local."""
        if not self.remote:
            return None
        # Views are read one after another, so that one cache of remote shards is open at a time.
        self.close()
        self._remote = RemoteShards(self._views[view], self._config, FeatureShard)
        return self._remote

    def empty(self, count: int, pin: bool) -> Tensor:
        """Room for the features of ``count`` images, float16 (count, L, T)."""
        shape = (count, self.manifest.tokens, self.manifest.width)
        return torch.empty(shape, dtype=torch.float16, pin_memory=pin)

    def read(self, view: int, rows: Ids, out: Tensor) -> None:
        """Copy the features of rows (n,) in a view into ``out`` (n, L, T)."""
        # Shares its memory with the tensor, so what is written here is in `out`.
        target = out.numpy()
        for i, row in enumerate(rows.tolist()):
            shard, inside = self._dataset.locate(row)
            target[i] = self._shard(view, shard).tokens(inside)

    def close(self) -> None:
        """Close what is remote."""
        if self._remote is not None:
            self._remote.close()
            self._remote = None

    def _shard(self, view: int, index: int) -> FeatureShard:
        if self._remote is not None:
            return self._remote.shard(index)
        # Two threads may both open it; the second map replaces the first, which does no harm.
        if (view, index) not in self._open:
            self._open[view, index] = FeatureShard(self._path(view, index))
        return self._open[view, index]

    def _path(self, view: int, index: int) -> Path:
        where = self._views[view]
        path = open_store(where.uri).local_path(f"{where.split}/{where.shards[index].file}")
        assert path is not None, "local stores have local paths"
        return path

    def _check_files(self) -> None:
        for number, view in enumerate(self._views):
            for index, info in enumerate(view.shards):
                path = self._path(number, index)
                found = path.stat().st_size if path.is_file() else None
                if found != info.bytes:
                    cause = "is missing" if found is None else f"should have {info.bytes} bytes"
                    raise DataError(str(path), found, cause, "Write the features again")


def view_folder(split: str, view: int) -> str:
    """The folder of one view's shards, below the features' URI."""
    return f"{split}/view-{view}"
