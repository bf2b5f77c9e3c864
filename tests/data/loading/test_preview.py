"""Looking at prepared data: the images of the first batch, as they are stored and as seen."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from itpn_ray.data.config import AugmentConfig, LoaderConfig, PreviewConfig
from itpn_ray.data.loading.crop_loader import TrainLoader
from itpn_ray.data.loading.preview import PreviewImage, preview_images
from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.synthetic.layouts import generate
from itpn_ray.errors import DataError
from tests.data.made import write_dataset

LOOK = PreviewConfig(images=6, image_size=64, augment=AugmentConfig(min_scale=0.5))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_dataset(tmp_path_factory.mktemp("data") / "set", {"train": [9, 4], "val": [3]})


def test_sights_are_the_images_of_the_first_batch(uri: str) -> None:
    found = list(preview_images(uri, LOOK))
    data = open_dataset(uri, "train")
    loader = TrainLoader(
        data,
        LoaderConfig(transport="threads"),
        image_size=64,
        augment=LOOK.augment,
        seed=0,
        global_batch=6,
    )
    batch = next(loader.epoch(0))
    loader.close()
    assert [sight.sample_id for sight in found] == batch["sample_id"].tolist()
    for sight, image in zip(found, batch["image"], strict=True):
        row = data[sight.sample_id]
        assert sight.path == row["path"]
        assert sight.caption == f"{'abc'[row['label']]}, {row['width']} × {row['height']}"
        assert pixels(sight.stored).shape[:2] == (row["height"], row["width"])
        assert np.abs(pixels(sight.augmented) - image.permute(1, 2, 0).numpy()).mean() < 4
        assert sight.masked is None


def test_hidden_patches_are_grey(uri: str) -> None:
    hidden = np.tile(np.arange(16) % 4 < 2, (6, 1))  # the left half
    for sight in preview_images(uri, LOOK, hide=lambda ids: hidden[: len(ids)]):
        assert sight.masked is not None
        masked, seen = pixels(sight.masked), pixels(sight.augmented)
        assert np.abs(masked[:, :28] - 128).max() < 12
        assert np.abs(masked[:, 40:] - seen[:, 40:]).mean() < 4


def test_more_images_than_there_are_shows_all_of_them(uri: str) -> None:
    config = PreviewConfig(split="val", images=24, image_size=32)
    assert sorted(sight.sample_id for sight in preview_images(uri, config)) == [0, 1, 2]


def test_an_unknown_split_is_told(uri: str) -> None:
    with pytest.raises(DataError, match="test"):
        list(preview_images(uri, PreviewConfig(split="test")))


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[PreviewImage]:
    folder: Path = tmp_path_factory.mktemp("coco")
    generate(
        SynthesizeConfig(
            out=str(folder / "raw"), layout="coco", train=6, val=2, side=96, num_workers=0
        )
    )
    out = str(folder / "prepared")
    prepare(PrepareConfig(source=str(folder / "raw"), out=out, num_workers=0))
    return list(preview_images(out, LOOK))


def test_objects_are_drawn_into_the_image_and_its_view(objects: list[PreviewImage]) -> None:
    assert len(objects) == 6
    for sight in objects:
        assert "objects" in sight.caption
        stored, seen = pixels(sight.stored), pixels(sight.augmented)
        assert max(seen.shape[:2]) == 320  # views are large, and shown smaller
        for image in (stored, seen):
            saturated = (image.max(2) - image.min(2) > 120).mean()
            assert saturated > 0.002  # outlines in full colours


def test_masks_are_laid_over_the_image_and_its_crop(masked: str) -> None:
    found = list(preview_images(masked, PreviewConfig(images=3)))
    data = open_dataset(masked, "train")
    assert len(found) == 3
    for sight in found:
        row = data[sight.sample_id]
        assert "ground" in sight.caption  # most of every scene
        assert pixels(sight.stored).shape[:2] == (row["height"], row["width"])
        assert sight.masked is None
