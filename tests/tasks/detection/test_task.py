"""The detection task in the one loop: draws, losses, initial weights, evaluation, settings."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

from itpn_ray.data.loading.detection_loader import DetectionEvalLoader
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.store.manifest import MANIFEST
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.transforms.detection_views import padded_sides
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.models import create_autoencoder, load_model, save_model
from itpn_ray.models.detection.base import Detections, Detector
from itpn_ray.models.weights.raw_files import read_metadata
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.detection import base as detection_task
from itpn_ray.tasks.detection.base import DetectionNetwork
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.trained import LOADER
from itpn_ray.training.claim import run_folder
from itpn_ray.training.launch.driver import preflight
from tests.data.made_coco import item, write_coco
from tests.data.made_files import config as preparation
from tests.tasks.detection_runs import AUGMENT, CLASSES, detection, task
from tests.training.runs import final_digest, losses, train_alone, train_and_stop

HEADS = pytest.mark.parametrize("head", ["mask_rcnn", "cascade_mask_rcnn", "dino"])


def batch(masks: bool = True, objects: int = 2) -> Batch:
    """Three images of 64 x 96 in which the views take less, with ``objects`` objects each."""
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[4.0, 6.0, 40.0, 50.0], [20.0, 10.0, 60.0, 48.0]])
    label = torch.full((3, 2), -1)
    label[:, :objects] = torch.tensor([0, 2])[:objects]
    found = {
        "image": torch.randint(256, (3, 3, 64, 96), dtype=torch.uint8, generator=generator),
        "size": torch.tensor([[64, 96], [50, 96], [64, 70]]),
        "original": torch.tensor([[64, 96], [100, 192], [64, 70]]),
        "boxes": torch.where(label[..., None] >= 0, boxes, 0.0),
        "label": label,
        "sample_id": torch.tensor([7, 1, 4]),
    }
    if masks:
        found["masks"] = torch.ones(3, 2, 112, 112, dtype=torch.uint8)
    return found


def test_padding_is_zero_and_draws_go_by_the_image() -> None:
    whole = task().prepare(batch(), epoch=2)
    assert (whole["image"][1, :, 50:] == 0).all()
    assert (whole["image"][2, :, :, 70:] == 0).all()
    assert (whole["image"][2, :, :, :70] != 0).all()
    part = task().prepare({name: t[1:] for name, t in batch().items()}, epoch=2)
    for name in ("image", "seed"):
        torch.testing.assert_close(whole[name][1:], part[name], rtol=0, atol=0)
    assert len(set(whole["seed"].tolist())) == 3
    assert (task().prepare(batch(), epoch=3)["seed"] != whole["seed"]).all()


@pytest.mark.parametrize(
    ("head", "masks"),
    [("mask_rcnn", True), ("cascade_mask_rcnn", True), ("dino", False), ("dino", True)],
)
@pytest.mark.parametrize("objects", [2, 0])
def test_every_part_learns_in_every_step(head: str, masks: bool, objects: int) -> None:
    """Workers wait for the gradients of all parameters, so none may be left out."""
    own = task(head, masks=masks)
    network = own.build().train()
    terms = network(own.prepare(batch(masks, objects), epoch=0))
    parts = [value for name, value in terms.items() if name != "loss"]
    torch.testing.assert_close(terms["loss"], torch.stack(parts).sum())
    terms["loss"].backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []


def test_micro_batches_make_nearly_the_same_loss() -> None:
    """Normalisers are those of a part of the batch, and images are drawn alike."""
    own = task("dino")
    network = own.build().train()
    ready = own.prepare(batch(masks=False), epoch=0)
    whole = network(ready)["loss"].item()
    parts = [network({n: t[i : i + 1] for n, t in ready.items()})["loss"].item() for i in range(3)]
    assert whole == pytest.approx(sum(parts) / 3, rel=1e-4)  # two objects in each


@HEADS
def test_a_micro_batch_has_the_losses_that_its_images_alone_have(head: str) -> None:
    own = task(head)
    network = own.build().train()
    raw = batch(head != "dino") | {"size": torch.tensor([[64, 96], [50, 64], [64, 60]])}
    part = {name: tensor[1:] for name, tensor in raw.items()}
    part["image"] = part["image"][..., :64]
    alone = own.prepare(part, epoch=0)
    cut = own.cut(own.prepare(raw, epoch=0), 1, 3)
    assert cut.keys() == alone.keys()
    assert all(torch.equal(cut[name], alone[name]) for name in alone)
    found, expected = network(cut), network(alone)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_the_loop_pads_each_micro_batch_to_its_own_views(
    scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uneven = dataclasses.replace(AUGMENT, short_sides=(24, 88), crop=0.0)
    config = detection(scenes, tmp_path, "dino", eval_every=-1, augment=uneven)
    optim = dataclasses.replace(config.optim, global_batch=8, micro_batch=2, epochs=3)
    sides: list[tuple[int, int]] = []
    forward = DetectionNetwork.forward

    def recording(network: DetectionNetwork, part: Batch) -> dict[str, Tensor]:
        sides.append(padded_sides(part["size"].numpy()))
        assert tuple(part["image"].shape[2:]) == sides[-1]
        return forward(network, part)

    monkeypatch.setattr(DetectionNetwork, "forward", recording)
    train_alone(dataclasses.replace(config, optim=optim))
    assert len(sides) == 12
    assert len(set(sides)) > 1


def test_uneven_shares_count_by_what_they_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers with one and two images have, weighted by their shares, the joint loss."""
    own = task("dino")
    network = own.build().train()
    ready = own.prepare(batch(masks=False), epoch=0)
    ready["label"][0, 1] = -1
    whole = network(ready)["loss"].item()
    shares = [{n: t[:1] for n, t in ready.items()}, {n: t[1:] for n, t in ready.items()}]

    def run(mean: Any) -> list[float]:
        monkeypatch.setattr(detection_task, "mean_over_workers", mean)
        return [network(share)["loss"].item() for share in shares]

    seen: list[Tensor] = []

    def record(value: Tensor) -> Tensor:
        seen.append(value)
        return value

    run(record)
    half = len(seen) // 2
    means = iter([(a + b) / 2 for a, b in zip(seen[:half], seen[half:], strict=True)] * 2)
    found = run(lambda value: next(means))
    assert found[0] / 3 + found[1] * 2 / 3 == pytest.approx(whole, rel=1e-4)


@pytest.mark.parametrize("head", ["mask_rcnn", "dino"])
def test_a_stopped_run_ends_bit_equal(
    head: str, scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = detection(scenes, tmp_path / "whole", head)
    records = train_alone(whole)
    stopped = detection(scenes, tmp_path / "stopped", head)
    train_and_stop(stopped, monkeypatch, 3)
    assert losses(train_alone(stopped)) == losses(records)
    assert final_digest(stopped) == final_digest(whole)

    found = next(r for r in records if r["split"] == "val")
    kinds = ["box"] if head == "dino" else ["box", "mask"]
    assert all(f"{kind}_{name}" in found for kind in kinds for name in ("AP", "AP50", "AR100"))
    assert "mask_AP" in found or head == "dino"
    assert [r["lr"] for r in records if r["split"] == "train"] == [5e-4, 1e-3, 1e-3, 1e-4]
    folder = run_folder(whole)
    assert (folder / "plots" / "detections.png").exists()
    table = json.loads((folder / "results.json").read_text())["per_class"]
    assert len(table) == len(open_dataset(scenes, "val").classes)


class Knowing(nn.Module):
    """Stands for a detector: finds what is annotated, in pixels of the view."""

    def __init__(self, scenes: str) -> None:
        super().__init__()
        self.rows = open_dataset(scenes, "val")
        self.next = 0

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        found = []
        for size in sizes.tolist():
            row = self.rows[self.next]
            self.next += 1
            scale = torch.tensor([size[1] / row["width"], size[0] / row["height"]] * 2)
            counted = [n for n, crowd in enumerate(row["crowds"]) if not crowd]
            found.append(
                Detections(
                    boxes=torch.tensor([row["boxes"][n] for n in counted]).view(-1, 4) * scale,
                    scores=torch.linspace(1, 0.5, len(counted)),
                    labels=torch.tensor([row["classes"][n] for n in counted], dtype=torch.int64),
                    masks=None,
                )
            )
        return found


def test_what_is_found_is_told_in_pixels_of_the_image(scenes: str, tmp_path: Path) -> None:
    own = task("dino", scenes=scenes)
    own.classes = list(open_dataset(scenes, "val").classes)
    loader = DetectionEvalLoader(
        open_dataset(scenes, "val"), LOADER, batch=2, short_side=64, long_side=96
    )
    found, results = own.evaluate_model(Knowing(scenes), loader)  # type: ignore[arg-type]
    assert found.metrics["box_AP"] == pytest.approx(1.0)
    counted = sum(row["count"] for row in found.details["per_class"])  # type: ignore[attr-defined]
    assert len(results) == counted > 5
    (drawn,) = own.draw(nn.Identity(), tmp_path)
    assert drawn.stat().st_size > 1000


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a pixel pre-training with a narrow, deep pyramid."""
    torch.manual_seed(5)
    net = create_autoencoder(
        "nano", image_size=64, pyramid_width=16, pyramid_depth=2, decoder_width=32, decoder_depth=1
    )
    path = tmp_path_factory.mktemp("pretrained") / "model.safetensors"
    save_model(net, path)
    return str(path)


def built(**options: Any) -> tuple[Detector, Any]:
    """A Mask R-CNN as a run builds it, and what it took from its initial weights."""
    own = task(**options)
    return own.build().detector, own.load_report  # type: ignore[return-value]


def test_the_pyramid_comes_from_pre_training_in_its_own_shape(pretrained: str) -> None:
    detector, report = built(init=pretrained)
    assert (detector.config.pyramid.width, detector.config.pyramid.depth) == (16, 2)
    assert report.fraction == 1.0
    assert all(name.startswith(("rpn.", "roi.")) for name in report.missing)
    weights, mine = load_model(pretrained).state_dict(), detector.trunk.state_dict()
    shared = [name for name in weights if name.startswith(("trunk.", "pyramid."))]
    assert set(shared) >= mine.keys()
    for name in mine:
        torch.testing.assert_close(mine[name], weights[name], rtol=0, atol=0)


def test_the_pyramid_can_be_drawn_anew(pretrained: str) -> None:
    plain, with_pyramid = task(init=pretrained), built(init=pretrained)[0].trunk.state_dict()
    plain.config = dataclasses.replace(plain.config, init_pyramid=False)
    without = plain.build().detector.trunk.state_dict()  # type: ignore[union-attr, operator]
    assert without.keys() == with_pyramid.keys()
    equal = {name for name in without if torch.equal(without[name], with_pyramid[name])}
    matrices = {name for name in without if without[name].ndim > 1}
    assert {name for name in matrices if name.startswith("trunk.")} <= equal
    assert not {name for name in matrices & equal if name.startswith("pyramid.")}


def test_a_detector_of_other_classes_gives_all_but_its_class_layers(
    scenes: str, tmp_path: Path
) -> None:
    first = task("dino", scenes=scenes)
    first.classes = [str(number) for number in range(7)]
    network = first.build()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01)
    first.export(network, tmp_path / "first.safetensors")
    second = task("dino", init=str(tmp_path / "first.safetensors"))
    second.build()
    report = second.load_report
    assert report is not None
    assert report.fraction == 1.0
    assert all("class" in name for name in report.missing)
    assert set(report.missing) == set(report.mismatched)


def test_the_exported_file_has_names_and_sizes(scenes: str, tmp_path: Path) -> None:
    own = task(scenes=scenes)
    network = own.build()
    own.export(network, tmp_path / "model.safetensors")
    metadata = read_metadata(tmp_path / "model.safetensors")
    assert json.loads(metadata["classes"]) == list(CLASSES)
    assert json.loads(metadata["view"]) == [64, 96]
    loaded = load_model(tmp_path / "model.safetensors")
    for name, tensor in network.detector.state_dict().items():  # type: ignore[union-attr, operator]
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_the_average_follows_and_is_evaluated() -> None:
    own = task("dino")
    own.config = dataclasses.replace(own.config, ema_decay=0.5)
    network = own.build()
    assert network.evaluated is network.average
    with torch.no_grad():
        network.detector.select.linear.bias.add_(2.0)  # type: ignore[union-attr]
    own.after_step(network, step=1000)
    torch.testing.assert_close(
        network.average.select.linear.bias,  # type: ignore[union-attr]
        network.detector.select.linear.bias - 1.0,  # type: ignore[union-attr]
    )


@HEADS
def test_multiply_adds_grow_with_the_views(head: str) -> None:
    small, large = task(head), task(head)
    large.augment = dataclasses.replace(large.augment, short_sides=(320,), long_side=640)
    (few,) = small.multiply_adds(small.build()).values()
    (many,) = large.multiply_adds(large.build()).values()
    assert few > 1e6
    assert many > 2 * few or head != "dino"
    assert many > few


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"head": "yolo"}, "task.head = 'yolo': is not known"),
        ({"short_side": 800, "long_side": 600}, "task.long_side = 600"),
        ({"ema_decay": 1.0}, "task.ema_decay = 1.0"),
        ({"pad_to": 48}, "task.pad_to = 48: is no multiple of 32"),
        ({"pad_to": 0}, "task.pad_to = 0"),
    ],
)
def test_bad_settings(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Detection(**settings)
    assert expected in str(refused.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"model": ModelConfig(name="nano", compile=True)}, "Add --task.pad-to 256"),
        (
            {
                "task": Detection(pad_to=256),
                "model": ModelConfig(name="nano", compile=True, elastic_migration=(0.0, 0.2)),
            },
            "model.compile = True",
        ),
        ({"task": Detection(), "augment": None}, "augment"),
        ({"optim": {"warmup_steps": 4}}, "optim.warmup_steps = 4: the run has 4 steps"),
        ({"optim": {"global_batch": 10}}, "an epoch of 8 images would have 0 steps"),
        ({"workers": "2"}, "has pairs for 1 worker"),
    ],
)
def test_what_cannot_train_is_refused(
    change: dict[str, Any], expected: str, scenes: str, tmp_path: Path
) -> None:
    config = detection(scenes, tmp_path)
    if isinstance(change.get("optim"), dict):
        change = {"optim": dataclasses.replace(config.optim, **change["optim"])}
    with pytest.raises(ConfigError) as refused:
        preflight(dataclasses.replace(config, **change))
    assert expected in str(refused.value)


def test_data_without_boxes_are_refused(prepared: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was prepared for classification, but boxes are needed"):
        preflight(detection(prepared, tmp_path))


def boxes_alone(folder: Path, **first: Any) -> str:
    """Prepared images with a box each and no mask, but for what is said of the first one."""
    items = [item(n, image_id=10 + n, segmentation=None) for n in range(8)]
    items[0] |= first
    prepare(preparation(write_coco(folder / "raw", items, images=8), folder / "set"))
    return str(folder / "set")


def test_data_without_any_mask_are_refused_where_masks_are_learned(tmp_path: Path) -> None:
    bare = boxes_alone(tmp_path / "bare")
    with pytest.raises(DataError, match=r"no object of its train has a mask.*--task\.masks false"):
        preflight(detection(bare, tmp_path))
    preflight(detection(bare, tmp_path, "dino"))
    one = boxes_alone(tmp_path / "one", segmentation=[[1.0, 2.0, 4.0, 2.0, 4.0, 6.0]])
    preflight(detection(one, tmp_path))


def test_data_without_objects_are_refused(tmp_path: Path) -> None:
    data = boxes_alone(tmp_path)
    path = Path(data, MANIFEST)
    manifest = json.loads(path.read_text())
    manifest["splits"]["val"]["class_counts"] = [0, 0]
    path.write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="its val has not one object"):
        preflight(detection(data, tmp_path, "dino"))


@pytest.mark.programs
def test_views_padded_to_one_size_compile_the_trunk_once(
    scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = detection(scenes, tmp_path / "plain")
    plain = dataclasses.replace(plain, task=dataclasses.replace(plain.task, pad_to=256))
    model = dataclasses.replace(plain.model, compile=True)
    graphs = CompileCounter()
    expected = losses(train_alone(plain))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=graphs))
    compiled = dataclasses.replace(plain, model=model, out=str(tmp_path / "compiled"))
    assert losses(train_alone(compiled)) == pytest.approx(expected, rel=1e-3)
    assert graphs.frame_count == 1
