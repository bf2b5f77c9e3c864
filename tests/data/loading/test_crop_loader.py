"""Loaders: the same batches by either transport, any number of workers and from any step."""

from __future__ import annotations

import functools
import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from itpn_ray.data.config import AugmentConfig, LoaderConfig
from itpn_ray.data.loading import image_reader
from itpn_ray.data.loading.crop_loader import EvalLoader, TrainLoader
from itpn_ray.data.loading.decode import centre_crop, decode_rgb, resize_square
from itpn_ray.data.loading.decoding_pool import DecodePool, HostBatch
from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.data.transforms.crops import random_flips, random_resized_crops
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.tasks.pixel_pretraining.masking import random_mask
from tests.data.made import write_dataset

THREADS = LoaderConfig(transport="threads", threads=2, prefetch=40)
SIZE = 32


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    folder = tmp_path_factory.mktemp("data") / "set"
    return open_dataset(write_dataset(folder, {"train": [40, 33, 20], "val": [29]}), "train")


@pytest.fixture(scope="module")
def val(train: ShardedDataset) -> ShardedDataset:
    return open_dataset(train.uri, "val")


def make_loader(
    train: ShardedDataset,
    config: LoaderConfig = THREADS,
    augment: AugmentConfig | None = None,
    **options: Any,
) -> TrainLoader:
    options = {"image_size": SIZE, "seed": 5, "global_batch": 18, **options}
    return TrainLoader(train, config, augment=augment or AugmentConfig(), **options)


def batches(
    train: ShardedDataset, epoch: int = 0, first_step: int = 0, **options: Any
) -> list[HostBatch]:
    loader = make_loader(train, **options)
    found = list(loader.epoch(epoch, first_step))
    loader.close()
    return found


def assert_equal(first: HostBatch, second: HostBatch) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_a_batch_holds_the_crops_that_the_draws_name(train: ShardedDataset) -> None:
    found = batches(train, epoch=3)
    assert len(found) == make_loader(train).steps_per_epoch == 5
    for batch in found:
        ids = batch["sample_id"].numpy()
        assert batch["image"].shape == (18, 3, SIZE, SIZE)
        assert batch["image"].dtype == torch.uint8
        assert batch["label"].dtype == batch["sample_id"].dtype == torch.int64
        rows = [train[i] for i in ids]
        assert batch["label"].tolist() == [row["label"] for row in rows]
        draw = {"seed": 5, "epoch": 3}
        sizes = [row["width"] for row in rows], [row["height"] for row in rows]
        boxes = random_resized_crops(*sizes, ids, min_scale=0.08, **draw)
        flips = random_flips(ids, probability=0.5, **draw)
        for i in (0, 7, 17):
            pixels = decode_rgb(np.frombuffer(rows[i]["image"], np.uint8))
            top, left, height, width = boxes[i].tolist()
            part = pixels[:, top : top + height, left : left + width]
            expected = resize_square(part, SIZE, bool(flips[i]))
            assert torch.equal(batch["image"][i], expected)


@pytest.mark.parametrize("world", [2, 3, 4])
def test_shares_of_the_ranks_make_up_the_batch_of_one(train: ShardedDataset, world: int) -> None:
    whole = batches(train, epoch=1)
    shares = [batches(train, epoch=1, rank=rank, world=world) for rank in range(world)]
    for step, batch in enumerate(whole):
        for name in batch:
            joined = torch.cat([share[step][name] for share in shares])
            assert torch.equal(batch[name], joined), name


@pytest.mark.parametrize("policy", ["rand_augment", "three_augment"])
def test_colours_do_not_depend_on_the_worker(train: ShardedDataset, policy: str) -> None:
    augment = AugmentConfig(policy=policy)
    whole = batches(train, augment=augment)
    shares = [batches(train, augment=augment, rank=rank, world=2) for rank in range(2)]
    assert torch.equal(whole[0]["image"], torch.cat([share[0]["image"] for share in shares]))
    assert not torch.equal(whole[0]["image"], batches(train)[0]["image"])


def test_ray_carries_the_same_batches(train: ShardedDataset, ray_cluster: str) -> None:
    loader = make_loader(train, LoaderConfig(transport="ray", threads=2, prefetch=40))
    for epoch, first_step in ((0, 0), (1, 3)):
        expected = batches(train, epoch, first_step)
        found = list(loader.epoch(epoch, first_step))
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_equal(*pair)
    loader.close()


def positions(train: ShardedDataset, world: int, resume_at: int) -> Iterator[tuple]:
    """(epoch, rank's shares) of each step of two epochs, with all loaders opened anew once."""
    position, steps = 0, 5
    for stop in (resume_at, 2 * steps):
        loaders = [make_loader(train, rank=rank, world=world) for rank in range(world)]
        while position < stop:
            epoch, step = divmod(position, steps)
            count = min(stop - position, steps - step)
            streams = [loader.epoch(epoch, step) for loader in loaders]
            for _ in range(count):
                yield epoch, [next(stream) for stream in streams]
            position += count
        for loader in loaders:
            loader.close()


def digest(train: ShardedDataset, world: int, resume_at: int) -> str:
    """Digest of (sample id, crop box, flip, mask, pixels) in the order of training."""
    entry = hashlib.sha256()
    widths, heights = (train.index.column(name).to_numpy() for name in ("width", "height"))
    for epoch, shares in positions(train, world, resume_at):
        draw = {"seed": 5, "epoch": epoch}
        for share in shares:
            ids = share["sample_id"].numpy()
            boxes = random_resized_crops(widths[ids], heights[ids], ids, min_scale=0.08, **draw)
            flips = random_flips(ids, probability=0.5, **draw)
            _, masks = random_mask(share["sample_id"], tokens=64, ratio=0.75, **draw)
            for i in range(len(ids)):
                pixels = share["image"][i].numpy()
                for part in (ids[i], boxes[i], flips[i], masks[i].numpy(), pixels):
                    entry.update(part.tobytes())
    return entry.hexdigest()


@settings(max_examples=25, deadline=None)
@given(world=st.integers(1, 4), resume_at=st.integers(0, 10))
def test_samples_crops_flips_and_masks_do_not_depend_on_workers_or_resumes(
    train: ShardedDataset, world: int, resume_at: int
) -> None:
    assert digest(train, world, resume_at) == digest_of_one_worker(train)


@functools.cache
def digest_of_one_worker(train: ShardedDataset) -> str:
    return digest(train, 1, 0)


def test_a_resume_reads_nothing_of_what_is_behind_it(
    train: ShardedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {int(i) for batch in batches(train, epoch=2)[3:] for i in batch["sample_id"]}
    read = set()
    locate = ShardedDataset.locate

    def spy(self: ShardedDataset, sample_id: int) -> tuple[int, int]:
        read.add(sample_id)
        return locate(self, sample_id)

    monkeypatch.setattr(ShardedDataset, "locate", spy)
    batches(train, epoch=2, first_step=3)
    assert read == expected


def test_repeated_images_are_cropped_differently(train: ShardedDataset) -> None:
    loader = make_loader(train, augment=AugmentConfig(repeats=3))
    batch = next(loader.epoch(0))
    loader.close()
    rows = batch["sample_id"] % len(train)
    assert sorted(rows.tolist()) == sorted(rows[:6].tolist() * 3)
    assert batch["label"].tolist() == [train[i]["label"] for i in rows.tolist()]
    assert not torch.equal(batch["image"][0], batch["image"][6])


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_shows_each_image_once_and_whole(val: ShardedDataset, world: int) -> None:
    ids = []
    for rank in range(world):
        loader = EvalLoader(val, THREADS, image_size=SIZE, batch=4, rank=rank, world=world)
        found = list(loader)
        assert len(found) == len(loader)
        assert all(len(batch["label"]) == 4 for batch in found[:-1])
        ids += [int(i) for batch in found for i in batch["sample_id"]]
        last = found[-1]
        row = val[int(last["sample_id"][0])]
        pixels = decode_rgb(np.frombuffer(row["image"], np.uint8))
        assert torch.equal(last["image"][0], centre_crop(pixels, SIZE, 0.875))
        assert int(last["label"][0]) == row["label"]
        loader.close()
    assert ids == list(range(29))


def test_evaluation_with_more_workers_than_images(tmp_path: Path) -> None:
    data = open_dataset(write_dataset(tmp_path / "set", {"val": [2]}), "val")
    loaders = [
        EvalLoader(data, THREADS, image_size=SIZE, batch=4, rank=rank, world=3) for rank in range(3)
    ]
    assert sorted(len(list(loader)) for loader in loaders) == [0, 1, 1]


@pytest.mark.parametrize("transport", ["threads", "ray"])
def test_a_broken_image_is_told_with_its_path(
    tmp_path: Path, transport: str, ray_cluster: str
) -> None:
    uri = write_dataset(tmp_path / "set", {"train": [20]}, broken=11)
    config = LoaderConfig(transport=transport, threads=2)
    loader = make_loader(open_dataset(uri, "train"), config, global_batch=20)
    with pytest.raises(DataError, match=r"2/11\.jpg.*row 11 of train cannot be decoded.*doctor"):
        next(loader.epoch(0))
    loader.close()


def test_an_image_of_another_size_than_the_index_says_is_refused(tmp_path: Path) -> None:
    data = open_dataset(write_dataset(tmp_path / "set", {"train": [6]}), "train")
    sizes = data.index.column("width").to_numpy().copy()
    sizes[4] += 1
    data.index = data.index.set_column(1, "width", [sizes])
    with pytest.raises(DataError, match="row 4 of train"):
        next(make_loader(data, global_batch=6).epoch(0))


def test_no_more_than_the_prefetch_is_decoded_ahead(
    train: ShardedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = image_reader.decode_box
    monkeypatch.setattr(
        image_reader, "decode_box", lambda image, box: decoded.append(box) or decode(image, box)
    )
    loader = make_loader(train, LoaderConfig(transport="threads", threads=2, prefetch=36))
    stream = loader.epoch(0)
    next(stream)
    loader.close()
    assert 18 <= len(decoded) <= 18 * 3


def test_an_abandoned_epoch_leaves_no_threads(train: ShardedDataset) -> None:
    before = set(threading.enumerate())
    loader = make_loader(train)
    stream = loader.epoch(0)
    next(stream)
    assert set(threading.enumerate()) - before
    stream.close()
    loader.close()
    assert not set(threading.enumerate()) - before


def test_decoding_threads_leave_the_compute_threads_alone(train: ShardedDataset) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        batches(train)
        seen = []
        fresh = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        fresh.start()
        fresh.join()
        assert torch.get_num_threads() == 3
        assert seen == [3]
    finally:
        torch.set_num_threads(threads)


def test_a_decoding_thread_computes_alone() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    found = []
    pool = DecodePool(2)
    try:
        batch = {"sample_id": torch.arange(4)}
        # What a thread is asked to do decides its count; a resize asks just as this does.
        pool.start(batch, lambda *_: found.append(torch.get_num_threads()), chunk=1).result()
    finally:
        pool.close()
        torch.set_num_threads(threads)
    assert found == [1, 1, 1, 1]


def test_a_split_smaller_than_a_global_batch_is_refused(val: ShardedDataset) -> None:
    with pytest.raises(ConfigError, match="29 images"):
        make_loader(val, global_batch=30)


@pytest.mark.parametrize(("first", "last"), [(0, 10), (3, 12), (5, 6), (4, 4)])
def test_steps_of_a_run_go_on_over_the_ends_of_epochs(
    train: ShardedDataset, first: int, last: int
) -> None:
    loader = make_loader(train)
    expected = [batch for epoch in range(3) for batch in loader.epoch(epoch)][first:last]
    found = list(loader.batches(first, last))
    loader.close()
    assert len(found) == len(expected)
    for pair in zip(found, expected, strict=True):
        assert_equal(*pair)


def test_the_next_epoch_is_being_decoded_when_one_ends(
    train: ShardedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[list[int]] = []
    start = DecodePool.start

    def watched(pool: DecodePool, batch: HostBatch, *rest: Any) -> Any:
        begun.append(batch["sample_id"].tolist())
        return start(pool, batch, *rest)

    monkeypatch.setattr(DecodePool, "start", watched)
    loader = make_loader(train, LoaderConfig(transport="threads", threads=1, prefetch=36))
    stream = loader.batches(0, 10)
    for _ in range(loader.steps_per_epoch):
        next(stream)  # the last of them is handed out: evaluation and save come now
    assert len(begun) == loader.steps_per_epoch + 2
    rest = [batch["sample_id"].tolist() for batch in stream]
    loader.close()
    assert begun[5:] == rest
