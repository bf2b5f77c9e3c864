"""Remote shards: the same batches as from a local folder, in bounded space, each fetched once."""

from __future__ import annotations

import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from itpn_ray.data.config import AugmentConfig, LoaderConfig
from itpn_ray.data.loading.crop_loader import EvalLoader, TrainLoader
from itpn_ray.data.loading.decoding_pool import HostBatch
from itpn_ray.data.store.shard_cache import ShardCache
from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.storage import ObjectStore, open_store
from itpn_ray.storage.local import LocalStore
from tests.data.made import write_dataset


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    folder = tmp_path_factory.mktemp("data") / "set"
    return open_dataset(write_dataset(folder, {"train": [20] * 6, "val": [15]}), "train")


@pytest.fixture
def remote(
    local: ShardedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> ShardedDataset:
    """A copy of the data set that the loaders take for a remote one."""
    monkeypatch.setattr("itpn_ray.data.loading.image_reader.is_s3", lambda uri: "remote" in uri)
    shutil.copytree(local.uri, tmp_path / "remote")
    return open_dataset(str(tmp_path / "remote"), "train")


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each object was copied from the store."""
    counts: Counter[str] = Counter()
    get_file = LocalStore.get_file

    def count(self: LocalStore, key: str, target: Path) -> None:
        counts[key] += 1
        get_file(self, key, target)

    monkeypatch.setattr(LocalStore, "get_file", count)
    return counts


def shard_gb(dataset: ShardedDataset) -> float:
    return max(shard.bytes for shard in dataset.shards) / 1e9


def settings(folder: Path, dataset: ShardedDataset, shards: float, window: int) -> LoaderConfig:
    return LoaderConfig(
        transport="threads",
        threads=2,
        prefetch=20,
        window=window,
        cache_gb=shards * shard_gb(dataset),
        cache_dir=str(folder / "cache"),
    )


def make_loader(dataset: ShardedDataset, config: LoaderConfig) -> TrainLoader:
    options = {"image_size": 32, "seed": 2, "global_batch": 10}
    return TrainLoader(dataset, config, augment=AugmentConfig(), **options)


def assert_same(found: list[HostBatch], expected: list[HostBatch]) -> None:
    assert len(found) == len(expected)
    for first, second in zip(found, expected, strict=True):
        for name in first:
            assert torch.equal(first[name], second[name])


@pytest.mark.parametrize("window", [0, 1, 2])
def test_batches_equal_those_of_a_local_folder(
    local: ShardedDataset, remote: ShardedDataset, tmp_path: Path, window: int
) -> None:
    config = settings(tmp_path, remote, shards=6.5, window=window)
    ours, theirs = make_loader(remote, config), make_loader(local, config)
    for epoch, first_step in ((0, 0), (1, 7)):
        assert_same(list(ours.epoch(epoch, first_step)), list(theirs.epoch(epoch, first_step)))
    for loader in (ours, theirs):
        loader.close()


def test_images_come_from_s3(local: ShardedDataset, s3_uri: str, tmp_path: Path) -> None:
    uri, folder = f"{s3_uri}/prepared", Path(local.uri)
    for path in folder.rglob("*"):
        if path.is_file():
            open_store(uri).put_file(path, str(path.relative_to(folder)))
    train = open_dataset(uri, "train")
    config = settings(tmp_path, train, shards=6.5, window=2)
    ours, theirs = make_loader(train, config), make_loader(local, config)
    assert_same(list(ours.epoch(0)), list(theirs.epoch(0)))
    val = [open_dataset(where, "val") for where in (uri, local.uri)]
    loaders = [EvalLoader(data, config, image_size=32, batch=4) for data in val]
    assert_same(list(loaders[0]), list(loaders[1]))
    for loader in (ours, theirs, *loaders):
        loader.close()


def test_what_a_killed_process_left_is_cleared(remote: ShardedDataset, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache", remote.shards[0].bytes)
    left = [tmp_path / "cache" / f"{'0' * 64}.{kind}" for kind in ("part", "begun")]
    for path in left:
        path.write_bytes(b"begun")
    info = remote.shards[0]
    assert cache.fetch(open_store(remote.uri), f"train/{info.file}", info).exists()
    assert not any(path.exists() for path in left)


def test_what_is_being_fetched_keeps_the_whole_of_its_place(
    remote: ShardedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    get_file = LocalStore.get_file
    slow = remote.shards[2].file

    def get(self: LocalStore, key: str, target: Path) -> None:
        if key.endswith(slow):
            target.write_bytes(b"the first of its bytes")
            begun.set()
            assert go_on.wait(60)
        get_file(self, key, target)

    def fetch(number: int) -> None:
        info = remote.shards[number]
        cache.fetch(open_store(remote.uri), f"train/{info.file}", info)

    monkeypatch.setattr(LocalStore, "get_file", get)
    cache = ShardCache(tmp_path / "cache", int(2.5e9 * shard_gb(remote)))
    fetch(0)
    fetch(1)
    with ThreadPoolExecutor(1) as pool:
        fetching = pool.submit(fetch, 2)
        assert begun.wait(60)
        fetch(3)
        go_on.set()
        fetching.result()
    assert sum(p.stat().st_size for p in cache.folder.glob("*.arrow")) <= cache.capacity
    assert {path.suffix for path in cache.folder.iterdir()} == {".arrow", ".lock"}


def test_the_cache_stays_within_its_size(
    local: ShardedDataset, remote: ShardedDataset, tmp_path: Path, fetched: Counter[str]
) -> None:
    config = settings(tmp_path, remote, shards=2.5, window=1)
    loader = make_loader(remote, config)
    for _ in loader.epoch(0):
        used = sum(map(size, (tmp_path / "cache").glob("*.arrow")))
        assert used <= config.cache_gb * 1e9
    loader.close()
    assert len(fetched) == 6


def size(path: Path) -> int:
    """A file's bytes; none of one that was evicted since it was listed."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_each_shard_is_fetched_once_while_it_fits(
    remote: ShardedDataset, tmp_path: Path, fetched: Counter[str]
) -> None:
    config = settings(tmp_path, remote, shards=7, window=2)
    for _ in range(2):
        loader = make_loader(remote, config)
        for epoch in range(2):
            list(loader.epoch(epoch))
        loader.close()
    assert fetched == {f"train/{shard.file}": 1 for shard in remote.shards}


def test_the_next_epoch_finds_its_first_shard_fetched(
    remote: ShardedDataset, tmp_path: Path, fetched: Counter[str]
) -> None:
    config = settings(tmp_path, remote, shards=2.5, window=1)
    loader = make_loader(remote, config)
    for batch in loader.epoch(0):
        del batch
    before = Counter(fetched)
    first = next(loader.epoch(1))
    shards = {remote.locate(i)[0] for i in first["sample_id"].tolist()}
    for shard in shards:
        key = f"train/{remote.shards[shard].file}"
        assert fetched[key] == before[key]
    loader.close()


def test_several_readers_fetch_a_shard_once(
    remote: ShardedDataset, tmp_path: Path, fetched: Counter[str]
) -> None:
    info, store = remote.shards[0], open_store(remote.uri)
    caches = [ShardCache(tmp_path / "cache", 10**9) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda c: c.fetch(store, f"train/{info.file}", info), caches))
    assert len(set(paths)) == 1
    assert paths[0].stat().st_size == info.bytes
    assert sum(fetched.values()) == 1


def damage(store: ObjectStore, key: str) -> None:
    store.write_bytes(key, b"other bytes")


@pytest.mark.parametrize(
    ("harm", "told"),
    [(damage, "SHA-256 should be"), (lambda store, key: store.delete(key), "cannot be fetched")],
    ids=["damaged", "missing"],
)
def test_a_bad_shard_is_told_and_leaves_nothing(
    remote: ShardedDataset, tmp_path: Path, harm, told: str
) -> None:
    harm(open_store(remote.uri), f"train/{remote.shards[3].file}")
    loader = make_loader(remote, settings(tmp_path, remote, shards=7, window=0))
    with pytest.raises(DataError, match=f"shard-00003.arrow.*{told}"):
        list(loader.epoch(0))
    loader.close()
    assert not list((tmp_path / "cache").glob(f"{remote.shards[3].sha256}.[ap]*"))


@pytest.mark.parametrize(("window", "told"), [(0, "the whole split"), (2, "two windows of 2")])
def test_a_cache_that_is_too_small_is_refused_with_the_mend(
    remote: ShardedDataset, tmp_path: Path, window: int, told: str
) -> None:
    with pytest.raises(ConfigError, match=f"cache_gb.*{told}.*--loader.window"):
        make_loader(remote, settings(tmp_path, remote, shards=3.5, window=window))


def test_a_cache_folder_that_cannot_be_made_is_refused(
    remote: ShardedDataset, tmp_path: Path
) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match="cache_dir"):
        make_loader(remote, settings(tmp_path, remote, shards=7, window=0))


@pytest.mark.parametrize(("shards", "window"), [(7, 0), (2.5, 1)])
def test_a_stream_goes_on_over_the_ends_of_epochs(
    local: ShardedDataset, remote: ShardedDataset, tmp_path: Path, shards: float, window: int
) -> None:
    config = settings(tmp_path, remote, shards=shards, window=window)
    ours, theirs = make_loader(remote, config), make_loader(local, config)
    steps = 3 * ours.steps_per_epoch
    assert_same(list(ours.batches(1, steps)), list(theirs.batches(1, steps)))
    ours.close()
    theirs.close()
