"""Sources of images with masks: what their values mean, what is kept, and what is refused."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from itpn_ray.data.annotations.class_masks import decode_mask, encode_mask
from itpn_ray.data.doctor.fault_list import FaultList
from itpn_ray.data.doctor.masks import mask_doctor, mask_source
from itpn_ray.data.doctor.prepared import doctor
from itpn_ray.data.prepare.config import PrepareConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.sources.masks.classes import CITYSCAPES, VOC
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError, DataError
from tests.data.made_masks import HEIGHT, WIDTH, values, write_ade, write_pair


def prepared(root: Path, out: Path, **options: Any) -> str:
    prepare(PrepareConfig(source=str(root), out=str(out), num_workers=0, **options))
    return str(out)


def stored(uri: str, split: str = "train") -> dict[str, np.ndarray]:
    dataset = open_dataset(uri, split)
    rows = [dataset[n] for n in range(len(dataset))]
    return {row["path"]: decode_mask(row["mask"]) for row in rows}


@pytest.mark.parametrize("classes", [3, 254, 255, 300])
def test_a_mask_comes_back_as_it_was(classes: int) -> None:
    mask = (np.arange(-1, classes, dtype=np.int16)[:, None] * np.ones((1, 3))).astype(np.int16)
    assert (decode_mask(encode_mask(mask)) == mask).all()


def test_ade_counts_from_one_and_ignores_zero(tmp_path: Path) -> None:
    root = write_ade(tmp_path / "raw")
    uri = prepared(root, tmp_path / "data")
    for path, mask in stored(uri).items():
        row = int(path.rsplit("_", 1)[1].split(".")[0])
        assert (mask == values(row, (0, 1, 2, 3)).astype(int) - 1).all()
    dataset = open_dataset(uri, "val")
    assert dataset.classes == ("class 1", "class 2", "class 3")
    masks = np.stack(list(stored(uri, "val").values()))
    counts = tuple(np.bincount(masks[masks >= 0], minlength=3).tolist())
    assert dataset.manifest.splits["val"].class_counts == counts


def test_plain_folders_with_a_class_list(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for row in range(6):
        write_pair(root, f"images/{row}.png", f"masks/{row}.png", row, values(row, (0, 1, 255)))
    with pytest.raises(DataError, match=r"classes\.txt.*--classes"):
        prepared(root, tmp_path / "none")
    (root / "classes.txt").write_text("road\nsky\n")
    uri = prepared(root, tmp_path / "data")
    mask = stored(uri)["images/1.png"]
    found = values(1, (0, 1, 255)).astype(int)
    assert (mask == np.where(found == 255, -1, found)).all()
    assert len(open_dataset(uri, "val")) == 1  # held out


@pytest.mark.parametrize(
    "form",
    [
        "0 0 200 sea\n10 20 30 land\n0 0 0 ignore",
        "name,r,g,b\nsea,0,0,200\nland,10,20,30\nVoid,0,0,0",
    ],
)
def test_a_palette_names_colours(tmp_path: Path, form: str) -> None:
    root, palette = tmp_path / "raw", tmp_path / "palette.txt"
    palette.write_text(form)
    colours = np.array([(0, 0, 200), (10, 20, 30), (0, 0, 0)], np.uint8)
    for row in range(4):
        at = values(row, (0, 1, 2))
        write_pair(root, f"images/{row}.png", f"masks/{row}.png", row, colours[at])
    uri = prepared(root, tmp_path / "data", palette=str(palette))
    assert open_dataset(uri, "train").classes == ("sea", "land")
    for path, mask in stored(uri).items():
        at = values(int(path[7:-4]), (0, 1, 2)).astype(int)
        assert (mask == np.where(at == 2, -1, at)).all()
    palette.write_text("1 2 3 sea\n10 20 30 land")
    with pytest.raises(DataError, match=r"masks/\d\.png.*value #0000c8 at x = \d+, y = 0"):
        prepared(root, tmp_path / "strange", palette=str(palette))
    palette.write_text("1 2 3 sea\n1 2 3 land")
    with pytest.raises(DataError, match="earlier line"):
        prepared(root, tmp_path / "twice", palette=str(palette))


def test_voc_palette_entries(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for row in range(4):
        write_pair(
            root,
            f"JPEGImages/{row}.jpg",
            f"SegmentationClass/{row}.png",
            row,
            values(row, (0, 20, 255)),
        )
        indices = Image.fromarray(values(row, (0, 20, 255)))
        indices.putpalette([n for value in range(256) for n in (value, 0, 255 - value)])
        indices.save(root / f"SegmentationClass/{row}.png")
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for split, names in (("train", "012"), ("val", "3"), ("trainval", "0123")):
        (lists / f"{split}.txt").write_text("\n".join(names))
    (root / "Annotations").mkdir()  # boxes, which are taken where nobody says otherwise
    assert mask_source(str(root)) is None
    uri = prepared(root, tmp_path / "data", format="voc-masks")
    assert open_dataset(uri, "train").classes == VOC
    assert set(stored(uri, "val")) == {"JPEGImages/3.jpg"}
    found = values(0, (0, 20, 255)).astype(int)
    assert (stored(uri)["JPEGImages/0.jpg"] == np.where(found == 255, -1, found)).all()


@pytest.mark.parametrize(
    ("kind", "known"), [("labelIds", (7, 33, 3)), ("labelTrainIds", (0, 18, 255))]
)
def test_cityscapes_ids(tmp_path: Path, kind: str, known: tuple[int, ...]) -> None:
    root = tmp_path / "raw"
    for split in ("train", "val", "test"):
        for row in range(2):
            name = f"{split}/ulm/ulm_{row}_"
            write_pair(
                root,
                f"leftImg8bit/{name}leftImg8bit.png",
                f"gtFine/{name}gtFine_{kind}.png",
                row,
                values(row, known),
            )
            (root / f"gtFine/{name}gtFine_color.png").write_bytes(b"")
    uri = prepared(root, tmp_path / "data")
    data = open_dataset(uri, "train")
    assert data.classes == tuple(CITYSCAPES)
    assert set(data.manifest.splits) == {"train", "val"}
    wanted = np.array([0, 18, -1])[values(0, (0, 1, 2))]
    assert (stored(uri)["leftImg8bit/train/ulm/ulm_0_leftImg8bit.png"] == wanted).all()


def planted(root: Path) -> Path:
    """Eight sound pairs, and four whose masks cannot be used."""
    write_ade(root, train=8)
    pairs = {
        "size": values(0, (1, 2), (HEIGHT, WIDTH + 1)),
        "range": values(0, (1, 4)),
        "ignored": values(0, (0,)),
        "colours": np.stack([values(n, (1, 2)) for n in range(3)], axis=-1),
    }
    for name, mask in pairs.items():
        image, path = f"images/training/{name}.jpg", f"annotations/training/{name}.png"
        write_pair(root, image, path, 0, mask)
    (root / "annotations/training/ADE_training_0.png").rename(
        root / "annotations/training/alone.png"
    )
    return root


REASONS = {
    "images/training/size.jpg": "size.png: annotated as 41 x 30 pixels, but has 40 x 30",
    "images/training/range.jpg": "range.png: value 4 at x = 5, y = 0 is no class",
    "images/training/ignored.jpg": "ignored.png: ignores every pixel",
    "images/training/colours.jpg": "colours.png: holds colours",
    "images/training/ADE_training_0.jpg": "has no mask in annotations/training",
    "annotations/training/alone.png": "is the mask of no image",
}


def test_faults_are_told_and_left_out(tmp_path: Path) -> None:
    root = planted(tmp_path / "raw")
    uri = prepared(root, tmp_path / "data", max_broken=0.5)
    with (tmp_path / "data/quarantine.csv").open() as file:
        told = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert told.keys() == REASONS.keys()
    assert all(REASONS[path] in reason for path, reason in told.items())
    assert len(open_dataset(uri, "train")) == 7
    with pytest.raises(DataError, match="--strict allows none"):
        prepared(root, tmp_path / "strict", strict=True)


def test_the_doctor_finds_what_preparation_leaves_out(tmp_path: Path) -> None:
    root = planted(tmp_path / "raw")
    source = mask_source(str(root))
    assert source is not None
    with FaultList(tmp_path / "faults.csv") as faults:
        health = mask_doctor(source, faults, threads=2)
    assert not health.sound
    assert "of pixels a class has" in "\n".join(health.lines())
    with (tmp_path / "faults.csv").open() as file:
        told = {row["file"]: row["reason"] for row in csv.DictReader(file)}
    assert told.keys() == REASONS.keys()
    assert all(REASONS[path] in reason for path, reason in told.items())


def test_prepared_masks_are_sound(tmp_path: Path) -> None:
    uri = prepared(write_ade(tmp_path / "raw"), tmp_path / "data")
    with FaultList(tmp_path / "faults.csv") as faults:
        assert doctor(uri, faults).sound


def test_masks_follow_images_that_shrink_and_turn(tmp_path: Path) -> None:
    root = write_ade(tmp_path / "raw", train=3)
    turned = Image.open(root / "images/training/ADE_training_0.jpg")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn to the right
    turned.save(root / "images/training/ADE_training_0.jpg", exif=exif)
    uri = prepared(root, tmp_path / "data", max_side=20)
    mask = stored(uri)["images/training/ADE_training_0.jpg"]
    assert mask.shape == (20, 15)
    upright = np.rot90(values(0, (0, 1, 2, 3)).astype(int) - 1, -1)
    assert (mask == upright[1::2, 1::2]).all()


def test_a_palette_is_for_masks_alone(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"prepare\.palette.*ade20k"):
        prepared(write_ade(tmp_path / "raw"), tmp_path / "data", palette="colours.txt")


def test_several_lists_of_one_split_count_together(tmp_path: Path) -> None:
    root = tmp_path / "raw"
    for row in range(4):
        image, mask = f"JPEGImages/{row}.jpg", f"SegmentationClass/{row}.png"
        write_pair(root, image, mask, row, values(row, (0, 20, 255)))
    lists = root / "ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for name, names in (("train", "01"), ("train_more", "2"), ("val", "3")):
        (lists / f"{name}.txt").write_text("\n".join(names))
    named = {"format": "voc-masks", "splits": ("train=train", "train=train_more", "val=val")}
    uri = prepared(root, tmp_path / "data", **named)
    assert set(stored(uri)) == {f"JPEGImages/{row}.jpg" for row in range(3)}
    with pytest.raises(DataError, match=r"test=testing': nothing in .* is called so"):
        prepared(root, tmp_path / "none", **{**named, "splits": ("test=testing",)})
