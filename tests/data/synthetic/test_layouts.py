from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from itpn_ray.data.prepare.config import SynthesizeConfig
from itpn_ray.data.synthetic import drawing, scenes, turned
from itpn_ray.data.synthetic.layouts import generate
from itpn_ray.errors import ConfigError


def digest(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return found.hexdigest()


def read_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def small(out: Path, layout: str = "imagenet", seed: int = 0, workers: int = 0) -> SynthesizeConfig:
    return SynthesizeConfig(
        out=str(out), layout=layout, train=70, val=20, side=64, seed=seed, num_workers=workers
    )


@pytest.mark.parametrize("layout", ["imagenet", "coco", "ade", "dota"])
def test_the_seed_decides_the_bytes(tmp_path: Path, layout: str) -> None:
    first = generate(small(tmp_path / "a", layout))
    again = generate(small(tmp_path / "b", layout, workers=2))
    other = generate(small(tmp_path / "c", layout, seed=1))
    assert digest(first) == digest(again) != digest(other)


def test_ade_masks_have_the_classes_of_their_table(tmp_path: Path) -> None:
    folder = generate(small(tmp_path / "images", "ade"))
    table = (folder / "objectInfo11.txt").read_text().splitlines()
    assert table[:3] == ["Idx\tName", "1\tground", f"2\t{drawing.CLASSES[0]}"]
    seen: set[int] = set()
    for path in (folder / "annotations/training").iterdir():
        with Image.open(path) as mask, Image.open(image_of(path)) as image:
            assert mask.mode == "L"
            assert mask.size == image.size
            seen |= set(np.unique(np.asarray(mask)).tolist())
    assert seen == set(range(12))  # crowds have pixels of no class


def test_things_with_masks_fill_a_good_part_of_their_images(tmp_path: Path) -> None:
    """Else ground everywhere would be right for nine pixels in ten, and nothing be learned."""
    folder = generate(small(tmp_path / "images", "ade"))
    masks = [np.asarray(Image.open(path)) for path in (folder / "annotations").rglob("*.png")]
    values = np.concatenate([mask.ravel() for mask in masks])
    assert 0.5 < (values == 1).sum() / (values > 0).sum() < 0.85


def image_of(mask: Path) -> Path:
    """The image of a mask in ADE20K's layout."""
    return mask.parents[2] / "images" / mask.parent.name / f"{mask.stem}.jpg"


def test_imagenet_layout_is_balanced_and_varied(tmp_path: Path) -> None:
    folder = generate(small(tmp_path / "images"))
    paths = sorted((folder / "train").glob("*/*.jpg"))
    assert Counter(path.parent.name for path in paths) == dict.fromkeys(drawing.CLASSES, 7)
    assert len(list((folder / "val").glob("*/*.jpg"))) == 20
    assert len({path.read_bytes() for path in paths}) == 70
    sizes = {read_size(path) for path in paths}
    assert len(sizes) > 20
    assert all(48 <= side <= 80 for size in sizes for side in size)


def test_train_and_val_differ(tmp_path: Path) -> None:
    folder = generate(small(tmp_path / "images"))
    train = {path.read_bytes() for path in (folder / "train").rglob("*.jpg")}
    assert not train & {path.read_bytes() for path in (folder / "val").rglob("*.jpg")}


def test_neither_shape_nor_texture_alone_says_the_class() -> None:
    pairs = [name.split("-") for name in drawing.CLASSES]
    assert len(set(drawing.CLASSES)) == 10
    assert set(Counter(shape for shape, _ in pairs).values()) == {2}
    assert set(Counter(texture for _, texture in pairs).values()) == {2}


def linear_probe(x: NDArray[np.float64], y: NDArray[np.int64], z: NDArray[np.float64]) -> object:
    """Classes of ``z`` by ridge regression onto one-hot labels (the dual form: few rows)."""
    mean, spread = x.mean(axis=0), x.std(axis=0)
    x, z = (x - mean) / spread, (z - mean) / spread
    gram = x @ x.T + x.shape[1] * np.eye(len(x))
    return (z @ x.T @ np.linalg.solve(gram, np.eye(10)[y])).argmax(axis=1)


def test_a_linear_probe_on_pixels_stays_near_chance() -> None:
    def make_images(count: int, first: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        labels = np.arange(count) % 10
        rows = []
        for number, label in enumerate(labels):
            rng = np.random.default_rng([9, first + number])
            image = Image.fromarray(drawing.draw_labelled(rng, label, 64, 64).astype(np.uint8))
            rows.append(np.asarray(image.resize((16, 16), Image.Resampling.BOX)).reshape(-1) / 255)
        return np.stack(rows), labels

    train, val = make_images(600, 0), make_images(300, 10_000)
    accuracy = (linear_probe(*train, val[0]) == val[1]).mean()
    assert accuracy < 0.18  # chance is 0.1, give or take 0.017 on 300 images
    assert (linear_probe(*train, train[0]) == train[1]).mean() > 0.5


def test_coco_annotations_are_true_to_the_pixels(tmp_path: Path) -> None:
    """Polygons, boxes and areas agree with COCO's own decoding of the masks."""
    config = dataclasses.replace(small(tmp_path / "images", "coco"), side=160)
    folder = generate(config)
    found = json.loads((folder / "annotations" / "instances_train2017.json").read_text())
    images = {image["id"]: image for image in found["images"]}
    assert len(images) == 70
    seen = set()
    for item in found["annotations"]:
        image = images[item["image_id"]]
        size = image["height"], image["width"]
        assert read_size(folder / "train2017" / image["file_name"]) == size[::-1]
        shape = item["segmentation"]
        if item["iscrowd"]:
            runs = coco_mask.frPyObjects(shape, *size)
        else:
            runs = coco_mask.merge(coco_mask.frPyObjects(shape, *size))
        area, box = float(coco_mask.area(runs)), coco_mask.toBbox(runs)
        assert area == pytest.approx(item["area"], rel=0.1, abs=25)
        if area > 100:  # slivers beside a bar are thinner than a pixel somewhere
            assert box == pytest.approx(item["bbox"], abs=4)
        seen.add((bool(item["iscrowd"]), len(shape) if not item["iscrowd"] else 0))
    assert {(True, 0), (False, 1), (False, 2)} <= seen  # crowds, whole things, divided things
    empty = set(images) - {item["image_id"] for item in found["annotations"]}
    assert empty  # as in real data


def test_turned_boxes_lie_around_what_is_drawn(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    _, things = turned.draw_turned(rng, 160, 120)
    assert len(things) > 2
    for one in things:
        side, other = one.corners[1] - one.corners[0], one.corners[3] - one.corners[0]
        assert side @ other == pytest.approx(0, abs=1e-9)
        # In the box's own axes the outline reaches from 0 to 1 on both.
        across = (one.thing.outline - one.corners[0]) @ np.stack(
            [side / (side @ side), other / (other @ other)], axis=1
        )
        assert across.min(axis=0) == pytest.approx([0, 0], abs=1e-9)
        assert across.max(axis=0) == pytest.approx([1, 1], abs=1e-9)
    head, gsd, *lines = turned.label_file(things).splitlines()
    assert (head, gsd) == ("imagesource:itpn-ray", "gsd:null")
    assert len(lines) == len(things)
    assert [line.split()[9] for line in lines] == [str(int(one.difficult)) for one in things]


def test_clipping_keeps_the_area_on_one_side() -> None:
    square = np.array([(0.0, 0.0), (4.0, 0.0), (4.0, 4.0), (0.0, 4.0)])
    normal = np.array([1.0, 0.0])
    assert scenes.area(scenes.clip(square, normal, 1.0)) == pytest.approx(4)
    assert scenes.area(scenes.clip(square, -normal, -1.0)) == pytest.approx(12)
    assert len(scenes.clip(square, normal, -1.0)) == 0


def test_the_same_images_are_not_drawn_again(tmp_path: Path) -> None:
    config = small(tmp_path / "images")
    folder = generate(config)
    calls: list[tuple[int, int]] = []
    assert generate(config, lambda *progress: calls.append(progress)) == folder
    assert not calls


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    generate(small(tmp_path / "images"), lambda *progress: calls.append(progress))
    assert calls[-1] == (90, 90)


def test_masks_that_an_older_version_drew_are_not_taken_for_its_own(tmp_path: Path) -> None:
    """Their settings are the same, their things smaller."""
    folder = generate(small(tmp_path / "images", "ade"))
    mark = json.loads((folder / "images.json").read_text())
    del mark["sizes"]
    (folder / "images.json").write_text(json.dumps(mark, indent=1) + "\n")
    with pytest.raises(ConfigError, match="holds something else"):
        generate(small(tmp_path / "images", "ade"))


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ConfigError, match="holds something else"):
        generate(small(tmp_path))
    generate(small(tmp_path / "images"))
    with pytest.raises(ConfigError, match="holds something else"):
        generate(small(tmp_path / "images", seed=1))
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_an_unwritable_place_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        generate(small(tmp_path / "file" / "images"))


@pytest.mark.parametrize(
    "field", [{"layout": "voc"}, {"train": 0}, {"side": 8}, {"seed": -1}, {"num_workers": -1}]
)
def test_config_is_checked(field: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=f"images.{next(iter(field))}"):
        SynthesizeConfig(out="x", **field)  # type: ignore[arg-type]
