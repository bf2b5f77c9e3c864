"""Predictions for a folder that holds all sorts of files."""

from __future__ import annotations

import csv
import io
import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from itpn_ray.cli import run
from itpn_ray.commands.predict.config import PredictConfig
from itpn_ray.commands.predict.files import PredictionFiles, drawn_name
from itpn_ray.commands.predict.run import predict, with_room
from itpn_ray.data.loading.decode import centre_crop
from itpn_ray.data.loading.image_folder import Answer, Outcome
from itpn_ray.data.synthetic.palette import class_colour
from itpn_ray.data.transforms.detection_views import whole_view
from itpn_ray.data.transforms.on_device import normalise, normalise_views
from itpn_ray.errors import CheckpointError, ConfigError, DataError
from itpn_ray.evaluation.draw_classes import draw_classes
from itpn_ray.models import load_model, save_model
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.storage import open_store
from itpn_ray.terminal.console import Console
from tests.data.made import jpeg, make_image
from tests.models.detection.made import rcnn
from tests.models.nets import classifier

NAMES = ["cat", "dog", "bird"]
IDS = [3, 7, 9]
READABLE = ["a.jpg", "deep/down/c.JPG", "long.jpg", "png.png", "turned.jpg"]
BROKEN = ["cut.jpg", "page.jpg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder") / "images"
    (root / "deep/down").mkdir(parents=True)
    (root / "a.jpg").write_bytes(jpeg(make_image(0, 90, 70)))
    (root / "deep/down/c.JPG").write_bytes(jpeg(make_image(1, 60, 80)))
    (root / "long.jpg").write_bytes(jpeg(make_image(2, 900, 4)))
    make_image(3, 64, 64).save(root / "png.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    make_image(4, 80, 50).save(root / "turned.jpg", exif=exif)
    (root / "cut.jpg").write_bytes(jpeg(make_image(5, 90, 70))[:300])
    (root / "page.jpg").write_text("<html>")
    (root / "notes.txt").write_text("no image")
    return root


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    told = {"classes": NAMES, "class_ids": IDS, "view": [64, 96]}
    save_model(rcnn(), path, {name: json.dumps(value) for name, value in told.items()})
    return str(path)


@pytest.fixture(scope="module")
def sorter(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "classifier.safetensors"
    names = [f"class {n}" for n in range(10)]
    save_model(classifier(), path, {"classes": json.dumps(names)})
    return str(path)


def predicted(weights: str, folder: Path, out: Path, **options: Any) -> Any:
    """Predict and read the results back."""
    settings = {"workers": 0, "threads": 1, "batch": 3, **options}
    config = PredictConfig(weights=weights, folder=str(folder), out=str(out), **settings)
    predict(config, console=Console(stream=io.StringIO()))
    return json.loads((out / "results.json").read_text())


def unreadable(out: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((out / "unreadable.csv").open()))


def test_a_detector_gives_results_as_coco_has_them(
    detector: str, folder: Path, tmp_path: Path
) -> None:
    results = predicted(detector, folder, tmp_path / "out", min_score=0.0)
    told = json.loads((tmp_path / "out/images.json").read_text())
    assert told["categories"] == [
        {"id": number, "name": name} for number, name in zip(IDS, NAMES, strict=True)
    ]
    images = {image["id"]: image for image in told["images"]}
    assert sorted(image["file_name"] for image in images.values()) == READABLE
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in images.values()}
    assert sizes["long.jpg"] == (900, 4)
    assert sizes["turned.jpg"] == (50, 80)
    assert {entry["image_id"] for entry in results} <= set(images)
    assert len(results) > len(images)
    for entry in results:
        image = images[entry["image_id"]]
        x, y, width, height = entry["bbox"]
        assert entry["category_id"] in IDS
        assert min(x, y, width, height) >= 0
        assert x + width <= image["width"] + 1e-3
        assert y + height <= image["height"] + 1e-3
        assert entry["segmentation"]["size"] == [image["height"], image["width"]]
    assert [row["path"] for row in unreadable(tmp_path / "out")] == BROKEN
    assert all(row["reason"] for row in unreadable(tmp_path / "out"))


def test_a_detection_is_the_models_own(detector: str, folder: Path, tmp_path: Path) -> None:
    results = predicted(detector, folder, tmp_path / "out", batch=1, min_score=0.0)
    pixels = torch.from_numpy(np.array(Image.open(folder / "a.jpg"))).permute(2, 0, 1)
    view = whole_view(90, 70, 64, 96)
    image = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    image[0, :, : view.out_height, : view.out_width] = view.image(pixels)
    size = torch.tensor([[view.out_height, view.out_width]])
    with torch.no_grad():
        found = load_model(detector).detect(normalise_views(image, size), size)[0]
    ours = [entry for entry in results if entry["image_id"] == 1]
    assert [entry["score"] for entry in ours] == pytest.approx(found.scores.tolist())
    scale = torch.tensor([90 / view.out_width, 70 / view.out_height]).repeat(2)
    x, y, width, height = ours[0]["bbox"]
    expected = (found.boxes[0] * scale).tolist()
    assert [x, y, x + width, y + height] == pytest.approx(expected, abs=1e-3)
    assert ours[0]["category_id"] == IDS[found.labels[0]]


def test_scores_decide_what_is_written_and_drawn(
    detector: str, folder: Path, tmp_path: Path
) -> None:
    every = predicted(detector, folder, tmp_path / "every", min_score=0.0, draw_score=0.0)
    scores = sorted(entry["score"] for entry in every)
    limit = scores[len(scores) // 2]
    sure = predicted(detector, folder, tmp_path / "sure", min_score=limit, draw_score=1.0)
    assert sorted(e["score"] for e in sure) == [score for score in scores if score >= limit]
    colours = [class_colour(label) for label in range(3)]

    def boxes(folder: Path) -> int:
        pixels = np.array(Image.open(folder / "drawn/a.jpg")).astype(int)
        return sum(int((abs(pixels - colour).max(-1) < 60).sum()) for colour in colours)

    assert boxes(tmp_path / "every") > 2 * boxes(tmp_path / "sure")


def test_drawn_images_lie_as_the_folder_does(sorter: str, folder: Path, tmp_path: Path) -> None:
    predicted(sorter, folder, tmp_path / "out", draw_side=40)
    drawn = tmp_path / "out/drawn"
    found = sorted(
        path.relative_to(drawn).as_posix() for path in drawn.rglob("*") if path.is_file()
    )
    assert found == ["a.jpg", "deep/down/c.JPG", "long.jpg", "png.png.jpg", "turned.jpg"]
    predicted(sorter, folder, tmp_path / "none", draw_side=0)
    assert not (tmp_path / "none/drawn").exists()
    assert not (tmp_path / "none/images.json").exists()


def test_a_classifier_names_the_five_likeliest_classes(
    sorter: str, folder: Path, tmp_path: Path
) -> None:
    results = predicted(sorter, folder, tmp_path / "out")
    assert [entry["file_name"] for entry in results] == READABLE
    square = next(entry for entry in results if entry["file_name"] == "png.png")
    stored = Image.open(folder / "png.png")
    pixels = torch.from_numpy(np.array(stored)).permute(2, 0, 1)
    with torch.no_grad():
        logits = load_model(sorter)(normalise(centre_crop(pixels, 64, 0.875)[None]))
    scores, labels = logits.softmax(1)[0].topk(5)
    # A PNG is put through a JPEG of quality 95, as in preparation.
    assert [one["score"] for one in square["top"]] == pytest.approx(scores.tolist(), abs=0.05)
    assert square["top"][0]["label"] == labels[0]
    assert square["top"][0]["class"] == f"class {labels[0]}"
    for entry in results:
        given = [one["score"] for one in entry["top"]]
        assert given == sorted(given, reverse=True)
        assert len(given) == 5


def test_ray_gives_the_same(detector: str, folder: Path, tmp_path: Path, ray_cluster: str) -> None:
    alone = predicted(detector, folder, tmp_path / "alone", min_score=0.0, batch=2)
    shared = predicted(detector, folder, tmp_path / "ray", min_score=0.0, batch=2, workers=2)
    assert shared == alone
    for name in ("images.json", "unreadable.csv", "drawn/a.jpg", "drawn/deep/down/c.JPG"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_a_private_ray_has_room_for_all_workers() -> None:
    config = PredictConfig(weights="w", folder="f", workers=6, threads=20)
    assert with_room(config).num_cpus == 121
    cluster = RayConfig(address="head:6379")
    assert with_room(replace(config, ray=cluster)) == cluster


def test_the_verb(
    sorter: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = ["--workers", "0", "--threads", "1", "--draw-side", "0"]
    assert run(["predict", sorter, str(folder), "--out", str(tmp_path / "out"), *alone]) == 0
    told = capsys.readouterr().out
    assert f"5 images: {tmp_path}/out/results.json" in told
    assert "cannot be read as images: 2 files, see " in told


def test_one_image_may_be_named(sorter: str, folder: Path, tmp_path: Path) -> None:
    whole = predicted(sorter, folder, tmp_path / "a", batch=1)
    (alone,) = predicted(sorter, folder / "png.png", tmp_path / "b")
    assert alone["file_name"] == "png.png"
    (same,) = (entry for entry in whole if entry["file_name"] == "png.png")
    assert alone["top"] == same["top"]
    assert predicted(sorter, folder / "page.jpg", tmp_path / "c") == []
    assert [row["path"] for row in unreadable(tmp_path / "c")] == ["page.jpg"]


def test_mistakes_are_told(sorter: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lies in the folder of images"):
        predicted(sorter, folder, folder / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        predicted(sorter, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(ConfigError, match="min_score"):
        predicted(sorter, folder, tmp_path / "out", min_score=1.5)
    save_model(classifier(num_classes=0), tmp_path / "headless.safetensors")
    with pytest.raises(CheckpointError, match="no classifier, detector or segmenter with classes"):
        predicted(str(tmp_path / "headless.safetensors"), folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_the_answers_of_one_network(
    detector: str, sorter: str, folder: Path, tmp_path: Path
) -> None:
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    make_image(9, 40, 40).save(other / "only.jpg")
    predicted(detector, folder, out)
    (out / "notes.txt").write_text("mine")
    predicted(sorter, other, out)
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    assert files == [
        *("config.json", "drawn/only.jpg", "notes.txt", "results.json", "unreadable.csv"),
    ]
    told = json.loads((out / "config.json").read_text())
    assert (told["weights"], told["folder"]) == (sorter, str(other))
    assert unreadable(out) == []


@pytest.mark.parametrize("record", ["config.json", "results.json"])
def test_results_of_something_else_are_left_alone(
    sorter: str, folder: Path, tmp_path: Path, record: str
) -> None:
    (tmp_path / record).write_text('{"top1": 0.5}')
    with pytest.raises(ConfigError, match="holds results of something else"):
        predicted(sorter, folder, tmp_path)
    assert (tmp_path / record).read_text() == '{"top1": 0.5}'


@pytest.mark.parametrize("crop", ["0.875", "1.0"])
def test_the_crop_is_the_files_and_classes_without_names_are_numbers(
    folder: Path, tmp_path: Path, crop: str
) -> None:
    path = tmp_path / "nameless.safetensors"
    save_model(classifier(), path, {"crop_fraction": crop})
    results = predicted(str(path), folder, tmp_path / "out", draw_side=0)
    model = load_model(path)
    with torch.no_grad():
        best = model(model.preprocess(folder / "a.jpg")[None]).softmax(1).max()
    top = next(entry["top"][0] for entry in results if entry["file_name"] == "a.jpg")
    assert top["score"] == pytest.approx(best.item(), abs=1e-4)
    assert top["class"] == str(top["label"])


def test_nothing_readable_is_no_error(sorter: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.jpg").write_text("none")
    assert predicted(sorter, tmp_path / "images", tmp_path / "out") == []
    assert len(unreadable(tmp_path / "out")) == 1


def test_names_that_a_store_does_not_take_are_told_apart() -> None:
    paths = ["a\\b.png", "a_b.png", "a\\b.jpg", ".hidden/..jpg", "_hidden/_.jpg"]
    paths += ["x" * 251 + ".jpg", "x" * 251 + ".png", "é" * 125 + "y.png", "é" * 125 + "z.png"]
    paths += ["a.png", "a.png.jpg", "a.jpg", "a.jpg.jpg", "a.PNG", "-a.jpg", "line\nbreak.bmp"]
    drawn = [drawn_name(path) for path in paths]
    assert len(set(drawn)) == len(paths)
    assert all(name.lower().endswith(".jpg") for name in drawn)
    assert all(len(part.encode()) <= 255 for name in drawn for part in name.split("/"))
    assert drawn_name("x" * 251 + ".jpg") == "x" * 251 + ".jpg"
    assert drawn_name("a\\b.png").startswith("a_b.png-")


def test_any_file_name_is_taken(sorter: str, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    names = ["a.jpg", "a.png", "a.png.jpg", "x" * 251 + ".jpg", "y" * 251 + ".png"]
    names += ["-out.jpg", "line\nbreak.jpg", "a:b?*.jpg", "é" * 125 + ".jpg"]
    for number, name in enumerate(names):
        make_image(number, 24, 24).save(folder / name)
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(jpeg(make_image(0, 24, 24)))
    os.mkfifo(folder / "pipe.jpg")
    found = predicted(sorter, folder, tmp_path / "out", draw_side=24)
    assert sorted(entry["file_name"] for entry in found) == sorted(names)
    assert len(list((tmp_path / "out/drawn").iterdir())) == len(names)
    reasons = {row["path"]: row["reason"] for row in unreadable(tmp_path / "out")}
    assert reasons == {"\ufffd.jpg": "its name is not UTF-8", "pipe.jpg": "not a regular file"}


def test_files_are_stored_only_when_all_is_well(tmp_path: Path) -> None:
    answer = Answer(entries=[{"n": 1}, {"n": 2}])
    outcome = Outcome(number=1, path="a.jpg", size=(4, 3), problem="", answer=answer)
    store = open_store(str(tmp_path / "out"))
    with suppress(RuntimeError), PredictionFiles(store, []) as files:
        files.add(outcome)
        raise RuntimeError
    assert not (tmp_path / "out").exists()
    with PredictionFiles(store, []) as files:
        files.add(outcome)
    assert json.loads((tmp_path / "out/results.json").read_text()) == [{"n": 1}, {"n": 2}]
    images = json.loads((tmp_path / "out/images.json").read_text())["images"]
    assert images == [{"id": 1, "file_name": "a.jpg", "width": 4, "height": 3}]


def test_bars_are_as_long_as_the_scores() -> None:
    grey = torch.full((3, 50, 100), 128, dtype=torch.uint8)
    sheet = np.array(draw_classes(grey, [("cat", 0.75), ("dog", 0.25)], 200))
    assert (sheet[:100, :200] == 128).all()
    bars = (sheet == (70, 110, 180)).all(-1).sum(1)
    assert bars[100:126].max() == pytest.approx(91, abs=1)
    assert bars[126:].max() == pytest.approx(31, abs=1)
