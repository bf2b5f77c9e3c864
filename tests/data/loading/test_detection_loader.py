"""Loaders of detection: the same views and objects for any workers and from any step."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from itpn_ray.data.annotations.objects import ObjectReader
from itpn_ray.data.config import DetectionAugmentConfig, LoaderConfig
from itpn_ray.data.loading import image_reader
from itpn_ray.data.loading.decode import decode_rgb
from itpn_ray.data.loading.decoding_pool import HostBatch
from itpn_ray.data.loading.detection_loader import DetectionEvalLoader, DetectionTrainLoader
from itpn_ray.data.loading.order import TrainOrder
from itpn_ray.data.loading.view_batches import trim
from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.data.transforms.detection_targets import view_objects
from itpn_ray.data.transforms.detection_views import training_views, whole_view
from itpn_ray.errors import ConfigError, DataError
from tests.data.made import write_dataset
from tests.data.made_objects import write_scenes

THREADS = LoaderConfig(transport="threads", threads=2, prefetch=8)
SMALL = DetectionAugmentConfig(
    short_sides=(48, 70, 97), long_side=150, crop_short_sides=(70, 90), crop_size=(40, 80)
)
STEPS = 3
Sample = dict[str, Tensor]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    return open_dataset(write_scenes(tmp_path_factory.mktemp("scenes"), seed=4), "train")


@pytest.fixture(scope="module")
def val(train: ShardedDataset) -> ShardedDataset:
    return open_dataset(train.uri, "val")


def make_loader(train: ShardedDataset, **options: Any) -> DetectionTrainLoader:
    options = {"augment": SMALL, "seed": 5, "global_batch": 7, "masks": True, **options}
    return DetectionTrainLoader(train, options.pop("config", THREADS), **options)


def batches(
    train: ShardedDataset, epoch: int = 0, first_step: int = 0, **options: Any
) -> list[HostBatch]:
    loader = make_loader(train, **options)
    found = list(loader.epoch(epoch, first_step))
    loader.close()
    return found


def samples(batch: HostBatch) -> list[Sample]:
    """The images of a batch without the padding that the others cause."""
    found = []
    for i in range(len(batch["sample_id"])):
        sample = {name: tensor[i] for name, tensor in batch.items()}
        height, width = sample["size"].tolist()
        sample["image"] = sample["image"][:, :height, :width]
        count = int((sample["label"] >= 0).sum())
        for name in {"boxes", "label", "masks"} & sample.keys():
            sample[name] = sample[name][:count]
        found.append(sample)
    return found


def assert_equal(first: list[Sample], second: list[Sample]) -> None:
    for one, other in zip(first, second, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name


def assert_padded(batch: HostBatch, masks: bool) -> None:
    """Types, shapes, and nothing but zeros where there is nothing."""
    image, size, label = batch["image"], batch["size"], batch["label"]
    count, places = label.shape
    height, width = (max(64, -(-side // 32) * 32) for side in size.amax(0).tolist())
    assert image.shape == (count, 3, height, width)
    assert image.dtype == torch.uint8
    assert batch["boxes"].shape == (count, places, 4)
    assert batch["boxes"].dtype == torch.float32
    assert ("masks" in batch) == masks
    for name in ("size", "original", "label", "sample_id"):
        assert batch[name].dtype == torch.int64
    assert places == max(1, int((label >= 0).sum(1).max()))
    for i, (h, w) in enumerate(size.tolist()):
        assert not image[i, :, h:].any()
        assert not image[i, :, :, w:].any()
        n = int((label[i] >= 0).sum())
        assert (label[i, n:] == -1).all()
        assert not batch["boxes"][i, n:].any()
        boxes = batch["boxes"][i, :n]
        assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([w, h, w, h])).all()
        if masks:
            assert batch["masks"].shape == (count, places, 112, 112)
            assert not batch["masks"][i, n:].any()
            assert batch["masks"][i, :n].flatten(1).amax(1).eq(1).all()


def test_a_batch_holds_the_views_that_the_draws_name(train: ShardedDataset) -> None:
    found = batches(train, epoch=3)
    assert len(found) == make_loader(train).steps_per_epoch == STEPS
    reader = ObjectReader(train)
    order = TrainOrder(starts=train.starts, global_batch=7, seed=5).epoch(3)
    bare = crowds = 0
    for batch, ids in zip(found, order, strict=True):
        assert batch["sample_id"].tolist() == ids.tolist()
        assert_padded(batch, masks=True)
        rows = [train[i] for i in ids]
        sizes = [row["width"] for row in rows], [row["height"] for row in rows]
        views = training_views(*sizes, ids, seed=5, epoch=3, config=SMALL)
        for sample, row, view in zip(samples(batch), rows, views, strict=True):
            image = decode_rgb(np.frombuffer(row["image"], np.uint8))
            assert torch.equal(sample["image"], view.image(image))
            assert sample["original"].tolist() == [row["height"], row["width"]]
            objects = reader[int(sample["sample_id"])]
            expected = view_objects(objects, view, masks=True)
            assert torch.equal(sample["boxes"], expected.boxes)
            assert torch.equal(sample["label"], expected.labels)
            assert torch.equal(sample["masks"], expected.masks)
            bare += len(objects) == 0
            crowds += int(objects.crowds.sum())
    assert bare > 0
    assert crowds > 0


@pytest.mark.parametrize("masks", [True, False])
def test_a_trimmed_part_is_the_batch_that_its_images_alone_would_be(
    train: ShardedDataset, masks: bool
) -> None:
    wholes = batches(train, global_batch=8, masks=masks)
    shares = [batches(train, global_batch=8, masks=masks, rank=rank, world=4) for rank in range(4)]
    smaller = 0
    for step, whole in enumerate(wholes):
        for rank in range(4):
            part = {name: tensor[2 * rank : 2 * rank + 2] for name, tensor in whole.items()}
            found, expected = trim(part, 32), shares[rank][step]
            assert found.keys() == expected.keys()
            for name in found:
                assert torch.equal(found[name], expected[name]), name
            smaller += found["image"].numel() < part["image"].numel()
    assert smaller > 0


def test_boxes_and_masks_only_where_asked_for(train: ShardedDataset) -> None:
    plain, whole = batches(train, masks=False), batches(train)
    for batch, other in zip(plain, whole, strict=True):
        assert_padded(batch, masks=False)
        assert torch.equal(batch["image"], other["image"])


@pytest.mark.parametrize("world", [2, 3])
def test_shares_of_the_ranks_make_up_the_batch_of_one(train: ShardedDataset, world: int) -> None:
    whole = batches(train, epoch=1)
    shares = [batches(train, epoch=1, rank=rank, world=world) for rank in range(world)]
    for step, batch in enumerate(whole):
        assert_equal(samples(batch), [s for share in shares for s in samples(share[step])])


@settings(max_examples=8, deadline=None)
@given(epoch=st.integers(0, 5), first_step=st.integers(0, STEPS), rank=st.integers(0, 1))
def test_a_run_goes_on_from_any_step(
    train: ShardedDataset, epoch: int, first_step: int, rank: int
) -> None:
    share = {"rank": rank, "world": 2, "masks": False}
    whole = batches(train, epoch, **share)
    resumed = batches(train, epoch, first_step, **share)
    assert len(resumed) == STEPS - first_step
    for batch, other in zip(whole[first_step:], resumed, strict=True):
        assert_equal(samples(batch), samples(other))


def test_views_differ_from_epoch_to_epoch(train: ShardedDataset) -> None:
    by_id = [
        {int(s["sample_id"]): s["image"] for batch in batches(train, e) for s in samples(batch)}
        for e in (0, 1)
    ]
    same = [i for i in by_id[0] if torch.equal(by_id[0][i], by_id[1].get(i, torch.empty(0)))]
    assert len(same) < len(by_id[0]) / 4


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_shows_each_image_once_and_whole(val: ShardedDataset, world: int) -> None:
    ids = []
    for rank in range(world):
        loader = DetectionEvalLoader(
            val, THREADS, batch=3, short_side=64, long_side=90, rank=rank, world=world
        )
        found = list(loader)
        assert len(found) == len(loader)
        for batch in found:
            assert_padded(batch, masks=False)
            for sample in samples(batch):
                row = val[int(sample["sample_id"])]
                view = whole_view(row["width"], row["height"], 64, 90)
                image = decode_rgb(np.frombuffer(row["image"], np.uint8))
                assert torch.equal(sample["image"], view.image(image))
        ids += [i for batch in found for i in batch["sample_id"].tolist()]
        loader.close()
    assert ids == list(range(len(val)))


def test_detectors_are_tested_at_800_with_at_most_1333(val: ShardedDataset) -> None:
    loader = DetectionEvalLoader(val, THREADS, batch=1)
    batch = next(iter(loader))
    loader.close()
    view = whole_view(*batch["original"][0].flip(0).tolist(), 800, 1333)
    assert batch["size"][0].tolist() == [view.out_height, view.out_width]


def test_more_workers_than_images(val: ShardedDataset) -> None:
    loaders = [
        DetectionEvalLoader(val, THREADS, batch=2, short_side=32, rank=rank, world=len(val) + 2)
        for rank in range(len(val) + 2)
    ]
    counts = [len(list(loader)) for loader in loaders]
    for loader in loaders:
        loader.close()
    assert sorted(counts) == [0, 0] + [1] * len(val)


def test_the_transport_of_the_config_carries_the_instructions(
    train: ShardedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = []

    def transport(instructions: Any) -> Any:
        for ids in instructions:
            carried.append(ids.tolist())
            yield ids

    monkeypatch.setitem(image_reader._TRANSPORTS, "ray", transport)
    found = batches(train, config=LoaderConfig(transport="ray", threads=1, prefetch=8), masks=False)
    assert [batch["sample_id"].tolist() for batch in found] == carried


def test_an_abandoned_epoch_leaves_no_threads(train: ShardedDataset) -> None:
    before = set(threading.enumerate())
    loader = make_loader(train)
    stream = loader.epoch(0)
    next(stream)
    stream.close()
    loader.close()
    assert not set(threading.enumerate()) - before


def test_a_bad_object_ends_the_epoch_with_its_path(
    train: ShardedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "classes", train.classes[:1])
    with pytest.raises(DataError, match=r"train2017/\d+\.jpg: its object \d+ is of a class"):
        batches(train)


def test_other_data_and_too_large_batches_are_refused(tmp_path: Any, train: ShardedDataset) -> None:
    data = open_dataset(write_dataset(tmp_path / "set", {"train": [8]}), "train")
    with pytest.raises(DataError, match="prepared for classification"):
        make_loader(data)
    with pytest.raises(ConfigError, match="21 images"):
        make_loader(train, global_batch=22)
