"""A teacher's features: written once, resumed, read back beside the images in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from itpn_ray.data.config import AugmentConfig, LoaderConfig
from itpn_ray.data.loading.crop_loader import EvalLoader, TrainLoader
from itpn_ray.data.prepare.teacher_features import (
    Encode,
    FeatureJob,
    Piece,
    _recorded,
    write_features,
)
from itpn_ray.data.store.manifest import MANIFEST
from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.data.store.teacher_features import Features, FeatureSettings, read_features
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.storage import open_store
from tests.data.made import write_dataset

THREADS = LoaderConfig(transport="threads", threads=2, prefetch=32)
SIZE, TOKENS, WIDTH = 32, 4, 3
AUGMENT = AugmentConfig(min_scale=0.3)


def encode(images: Tensor) -> Tensor:
    """Mean colour of each quarter: tells which view it saw."""
    quarters = torch.nn.functional.avg_pool2d(images.float(), SIZE // 2)  # (B, 3, 2, 2)
    return quarters.flatten(2).transpose(1, 2).half()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data") / "set"
    return write_dataset(folder, {"train": [20, 17, 9], "val": [11]})


def make_job(
    data: str,
    out: Path | str,
    make_encoder: Callable[[str], Encode] = lambda teacher: encode,
    views: int = 2,
) -> FeatureJob:
    return FeatureJob(
        data=data,
        out=str(out),
        settings=FeatureSettings(
            teacher={"model": "quarters"}, image_size=SIZE, seed=5, views=views, augment=AUGMENT
        ),
        tokens=TOKENS,
        width=WIDTH,
        batch=8,
        loader=THREADS,
        teacher="",
        make_encoder=make_encoder,
    )


@pytest.fixture(scope="module")
def features(data: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("features") / "quarters"
    write_features(make_job(data, out), workers=0, gpus=False)
    return str(out)


def train_batches(
    dataset: ShardedDataset, epoch: int, features: Features | None, **options: int
) -> list[dict[str, Tensor]]:
    loader = TrainLoader(
        dataset,
        dataclasses.replace(THREADS, window=1),
        image_size=SIZE,
        augment=AUGMENT,
        features=features,
        **{"seed": 5, "global_batch": 16, **options},
    )
    found = list(loader.epoch(epoch))
    loader.close()
    return found


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_features_are_of_the_images_shown(data: str, features: str, epoch: int) -> None:
    train = open_dataset(data, "train")
    for batch in train_batches(train, epoch, Features(features, train, THREADS)):
        assert batch["teacher"].dtype == torch.float16
        assert torch.equal(batch["teacher"], encode(batch["image"]))


def test_views_come_in_turn(data: str, features: str) -> None:
    train = open_dataset(data, "train")

    def shown(epoch: int, features: Features | None) -> Tensor:
        batches = train_batches(train, epoch, features)
        ids = torch.cat([batch["sample_id"] for batch in batches])
        order = ids.argsort()
        images = torch.cat([batch["image"] for batch in batches])[order].float()
        return images[torch.isin(ids[order], common)]

    def ids(epoch: int) -> Tensor:
        return torch.cat([batch["sample_id"] for batch in train_batches(train, epoch, None)])

    common = ids(0)[torch.isin(ids(0), ids(1)) & torch.isin(ids(0), ids(2))]
    read = Features(features, train, THREADS)
    assert torch.equal(shown(0, read), shown(0, None))  # view 0 is what epoch 0 of the seed shows
    assert torch.equal(shown(1, read), shown(1, None))
    assert torch.equal(shown(2, read), shown(0, read))
    assert not torch.equal(shown(2, None), shown(0, None))


def test_a_run_of_another_seed_reads_the_same_views(data: str, features: str) -> None:
    train = open_dataset(data, "train")
    for batch in train_batches(train, 1, Features(features, train, THREADS), seed=77):
        assert torch.equal(batch["teacher"], encode(batch["image"]))


def test_held_out_images_have_one_view(data: str, features: str) -> None:
    val = open_dataset(data, "val")
    read = Features(features, val, THREADS)
    assert read.views == 1
    loader = EvalLoader(val, THREADS, image_size=SIZE, batch=4, features=read)
    batches = list(loader)
    loader.close()
    assert sum(len(batch["label"]) for batch in batches) == 11
    for batch in batches:
        assert torch.equal(batch["teacher"], encode(batch["image"]))


def test_manifest_tells_what_they_are(data: str, features: str) -> None:
    manifest = read_features(features)
    assert (manifest.tokens, manifest.width) == (TOKENS, WIDTH)
    assert manifest.settings == make_job(data, "").settings
    views = manifest.splits["train"].views
    assert [[shard.rows for shard in view] for view in views] == [[20, 17, 9]] * 2
    store = open_store(features)
    shard = views[1][2]
    assert store.digest("train/view-1/shard-00002.arrow") == (shard.bytes, shard.sha256)
    assert not store.list("_work")


def test_remote_features(data: str, features: str, s3_uri: str, tmp_path: Path) -> None:
    remote = f"{s3_uri}/features"
    assert write_features(make_job(data, remote), workers=0, gpus=False) == read_features(features)
    train = open_dataset(data, "train")
    config = dataclasses.replace(THREADS, cache_dir=str(tmp_path / "cache"), window=1)
    read = Features(remote, train, config)
    for epoch in (0, 1):
        for batch in train_batches(train, epoch, read):
            assert torch.equal(batch["teacher"], encode(batch["image"]))


class Killed(Exception):
    """What ends the first attempt."""


def test_a_killed_command_is_taken_up_again(data: str, features: str, tmp_path: Path) -> None:
    seen: list[int] = []

    def failing(teacher: str) -> Encode:
        def encode_some(images: Tensor) -> Tensor:
            if sum(seen) > 30:
                raise Killed
            seen.append(len(images))
            return encode(images)

        return encode_some

    def counting(teacher: str) -> Encode:
        def encode_counted(images: Tensor) -> Tensor:
            seen.append(len(images))
            return encode(images)

        return encode_counted

    with pytest.raises(Killed):
        write_features(make_job(data, tmp_path / "f", failing), workers=0, gpus=False)
    assert not (tmp_path / "f" / MANIFEST).exists()
    seen.clear()
    done: list[tuple[int, int]] = []
    manifest = write_features(
        make_job(data, tmp_path / "f", counting),
        workers=0,
        gpus=False,
        progress=lambda *figures: done.append(figures),
    )
    assert sum(seen) == 2 * 46 + 11 - 20  # the first shard of 20 was whole
    assert done[-1] == (103, 103)
    assert manifest == read_features(features)
    seen.clear()
    assert write_features(make_job(data, tmp_path / "f", counting), workers=0, gpus=False)
    assert not seen


def test_other_settings_do_not_overwrite(data: str, features: str) -> None:
    with pytest.raises(ConfigError, match="features of another teacher, other views"):
        write_features(make_job(data, features, views=3), workers=0, gpus=False)


def test_features_of_other_images_are_refused(features: str, tmp_path: Path) -> None:
    other = open_dataset(write_dataset(tmp_path / "set", {"train": [46], "val": [11]}), "train")
    with pytest.raises(DataError, match="not of the train images"):
        Features(features, other, THREADS)


def test_damage_is_found(data: str, tmp_path: Path) -> None:
    train = open_dataset(data, "train")
    with pytest.raises(DataError, match="no finished features"):
        Features(str(tmp_path), train, THREADS)
    write_features(make_job(data, tmp_path, views=1), workers=0, gpus=False)
    shard = tmp_path / "train" / "view-0" / "shard-00001.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=f"should have {len(whole)} bytes"):
        Features(str(tmp_path), train, THREADS)
    shard.write_bytes(b"x" * len(whole))
    read = Features(str(tmp_path), train, THREADS)
    with pytest.raises(DataError, match="not a whole shard"):
        read.read(0, np.array([25]), read.empty(1, False))
    shard.unlink()
    with pytest.raises(DataError, match="is missing"):
        Features(str(tmp_path), train, THREADS)
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        Features(str(tmp_path), train, THREADS)


@pytest.mark.parametrize(
    "record",
    [
        "",
        "[]",
        "{}",
        '{"job": "DIGEST"}',
        '{"job": "DIGEST", "shard": {"file": "x"}}',
        '{"job": "DIGEST", "shard": {"file": "x", "rows": 1, "bytes": "2", "sha256": "0"}}',
        '{"job": "DIGEST", "shard": {"file": "x", "rows": 0, "bytes": 2, "sha256": "0"}}',
    ],
)
def test_a_damaged_record_is_that_of_no_shard(data: str, tmp_path: Path, record: str) -> None:
    job = make_job(data, tmp_path)
    piece = Piece(split="val", view=0, index=0, digest="0" * 64)
    store = open_store(str(tmp_path))
    store.write_bytes(piece.key, b"a shard")
    store.write_bytes(piece.record_key, record.replace("DIGEST", piece.digest).encode())
    assert _recorded(job, piece) is None
