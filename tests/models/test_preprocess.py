"""A loaded network makes its input from any image as evaluation does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import itpn_ray.models.timm  # noqa: F401  registers the networks
from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.loading.crop_loader import EvalLoader
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.transforms.on_device import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    normalise,
    normalise_views,
)
from itpn_ray.errors import CheckpointError, DataError
from itpn_ray.models import create_autoencoder, load_model, save_model
from itpn_ray.models.config import crop_fraction
from tests.data.made import jpeg, make_image
from tests.models.detection.made import rcnn
from tests.models.nets import classifier


def saved(network: Any, path: Path, **told: Any) -> Any:
    save_model(network, path, {name: json.dumps(value) for name, value in told.items()})
    return load_model(path)


@pytest.mark.parametrize(("size", "usual"), [(224, 0.875), (368, 0.875), (384, 1.0), (512, 1.0)])
def test_the_crop_that_is_usual_for_a_size(size: int, usual: float, tmp_path: Path) -> None:
    assert crop_fraction(size) == usual
    old = saved(classifier(image_size=size), tmp_path / "old.safetensors")
    assert old.crop_fraction == old.preprocess.crop_fraction == usual
    told = saved(classifier(image_size=size), tmp_path / "told.safetensors", crop_fraction=0.95)
    assert told.crop_fraction == told.preprocess.crop_fraction == 0.95


@pytest.mark.parametrize("crop", [0.875, 1.0, 0.9])
def test_the_input_is_what_evaluation_shows(prepared: str, tmp_path: Path, crop: float) -> None:
    model = saved(classifier(), tmp_path / "model.safetensors", crop_fraction=crop)
    data = open_dataset(prepared, "val")
    config = LoaderConfig(transport="threads", threads=1)
    loader = EvalLoader(
        data, config, image_size=model.image_size, batch=2, crop=model.crop_fraction
    )
    shown = normalise(next(iter(loader))["image"])[1]
    loader.close()
    (tmp_path / "image.jpg").write_bytes(bytes(data[1]["image"]))
    with Image.open(tmp_path / "image.jpg") as opened:
        pixels = torch.from_numpy(np.array(opened)).permute(2, 0, 1)
        for image in (tmp_path / "image.jpg", str(tmp_path / "image.jpg"), pixels, opened):
            found = model.preprocess(image)
            assert found.shape == (3, 64, 64)
            # Pillow and torchvision may round a pixel of a JPEG differently.
            torch.testing.assert_close(found, shown, rtol=0, atol=0.1)


def test_images_of_other_kinds(tmp_path: Path) -> None:
    model = classifier()
    exif = Image.Exif()
    exif[0x0112] = 6
    image = make_image(0, 80, 50)
    (tmp_path / "turned.jpg").write_bytes(jpeg(image, quality=100, exif=exif))
    with Image.open(tmp_path / "turned.jpg") as opened:
        turned = model.preprocess(opened)
    torch.testing.assert_close(turned, model.preprocess(tmp_path / "turned.jpg"), rtol=0, atol=0.1)
    clear = Image.new("RGBA", (70, 70), (0, 0, 0, 0))
    white = model.preprocess(Image.new("RGB", (70, 70), "white"))
    assert torch.equal(model.preprocess(clear), white)
    grey = Image.new("L", (70, 90), 255)
    assert torch.equal(model.preprocess(grey), white)


@pytest.mark.parametrize(
    "image",
    [torch.zeros(3, 8, 8), torch.zeros(8, 8, 3, dtype=torch.uint8), "absent.jpg", __file__],
    ids=["float", "channels last", "absent", "no image"],
)
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(DataError):
        classifier().preprocess(image)


def test_a_detectors_input_is_the_view_of_its_evaluation(tmp_path: Path) -> None:
    model = saved(rcnn(), tmp_path / "model.safetensors", classes=["a", "b", "c"], view=[64, 96])
    assert model.classes == ("a", "b", "c")
    pixels = torch.from_numpy(np.array(make_image(0, 90, 70))).permute(2, 0, 1)
    images, sizes = model.preprocess(pixels)
    assert sizes.tolist() == [[64, 82]]
    assert images.shape == (1, 3, 64, 96)
    again = normalise_views(torch.zeros(1, 3, 64, 96, dtype=torch.uint8), sizes)
    assert torch.equal(images[..., 82:], again[..., 82:])
    assert len(model.detect(images, sizes)) == 1


@pytest.mark.parametrize("size", [64, 384])
@pytest.mark.parametrize("make", [classifier, lambda **more: create_autoencoder("nano", **more)])
def test_timm_is_told_how_the_input_is_made(make: Any, size: int, tmp_path: Path) -> None:
    model = saved(make(image_size=size), tmp_path / "model.safetensors")
    assert timm.data.resolve_model_data_config(model) == {
        "input_size": (3, size, size),
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "crop_pct": crop_fraction(size),
        "crop_mode": "center",
    }


def test_timms_own_networks_answer_too() -> None:
    model = timm.create_model("fast_itpn_nano", img_size=384, num_classes=3)
    told = timm.data.resolve_model_data_config(model)
    assert (told["input_size"], told["crop_pct"]) == ((3, 384, 384), 1.0)
    assert model.pretrained_cfg["classifier"] == "head"


@pytest.mark.parametrize(("entry", "value"), [("classes", "{"), ("crop_fraction", "wide")])
def test_damaged_metadata_is_an_error(entry: str, value: str, tmp_path: Path) -> None:
    save_model(classifier(), tmp_path / "model.safetensors", {entry: value})
    with pytest.raises(CheckpointError, match="metadata is damaged"):
        load_model(tmp_path / "model.safetensors")
