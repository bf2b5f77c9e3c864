"""Loader of segmentation: the same images whatever the workers, padding, and broken masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from itpn_ray.data.annotations.class_masks import decode_mask, encode_mask
from itpn_ray.data.config import LoaderConfig, SegmentationAugmentConfig
from itpn_ray.data.loading.segmentation_loader import (
    SegmentationEvalLoader,
    SegmentationTrainLoader,
    checked_mask,
)
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import DataError

LOADER = LoaderConfig(transport="threads", threads=1, prefetch=8)
AUGMENT = SegmentationAugmentConfig(short_side=48, long_side=128, crop_size=64)


def train_loader(uri: str, rank: int = 0, world: int = 1) -> SegmentationTrainLoader:
    return SegmentationTrainLoader(
        open_dataset(uri, "train"),
        LOADER,
        augment=AUGMENT,
        seed=3,
        global_batch=4,
        rank=rank,
        world=world,
    )


def test_workers_share_what_one_would_see(masked: str) -> None:
    whole = list(train_loader(masked).epoch(1))
    parts = [list(train_loader(masked, rank, 2).epoch(1, first_step=1)) for rank in (0, 1)]
    assert len(whole) == 2
    assert len(parts[0]) == 1
    for name, tensor in whole[1].items():
        assert torch.equal(tensor, torch.cat([parts[0][0][name], parts[1][0][name]]))
    batch = whole[0]
    assert batch["image"].shape == (4, 3, 64, 64)
    assert batch["mask"].shape == (4, 64, 64)
    for image, mask, (height, width) in zip(
        batch["image"], batch["mask"], batch["size"].tolist(), strict=True
    ):
        assert (mask[height:] == -1).all()
        assert (mask[:, width:] == -1).all()
        assert (image[:, height:] == 0).all()
        assert (mask[:height, :width] >= 0).any()


def test_evaluation_sees_each_image_once_with_its_own_mask(masked: str) -> None:
    data = open_dataset(masked, "val")
    seen = []
    for rank in (0, 1):
        loader = SegmentationEvalLoader(
            data, LOADER, batch=2, short_side=48, long_side=128, rank=rank, world=2
        )
        for batch in loader:
            sizes = zip(batch["sample_id"].tolist(), batch["original"].tolist(), strict=True)
            for i, (row, (height, width)) in enumerate(sizes):
                mask = decode_mask(data[row]["mask"])
                assert mask.shape == (height, width)
                assert (batch["mask"][i, :height, :width].numpy() == mask).all()
                assert (batch["mask"][i, height:] == -1).all()
                seen.append(row)
    assert seen == list(range(len(data)))


def test_masks_that_cannot_be_are_refused() -> None:
    mask = encode_mask(np.array([[0, 5]], dtype=np.int16))
    assert checked_mask(mask, (1, 2), "a.jpg", 6).tolist() == [[0, 5]]
    with pytest.raises(DataError, match=r"a\.jpg = 5: .*there are 5"):
        checked_mask(mask, (1, 2), "a.jpg", 5)
    with pytest.raises(DataError, match=r"a\.jpg = \(1, 2\)"):
        checked_mask(mask, (2, 2), "a.jpg", 6)
    with pytest.raises(DataError, match=r"a\.jpg: its mask cannot be decoded"):
        checked_mask(mask[:-30], (1, 2), "a.jpg", 6)


def test_other_data_is_refused(scenes: str) -> None:
    with pytest.raises(DataError, match="prepared for detection"):
        train_loader(scenes)
