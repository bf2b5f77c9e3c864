"""COCO's figures: the published ones to the last digit, and those of prepared images."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from itpn_ray.data.annotations.objects import ObjectReader
from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.data.transforms.object_masks import box_masks
from itpn_ray.errors import DataError
from itpn_ray.evaluation import coco_ap
from itpn_ray.evaluation.coco_ap import CocoAP, coco_metrics
from itpn_ray.evaluation.coco_format import image_entry, truth_entries, write_results
from itpn_ray.evaluation.pasting import encode
from itpn_ray.models.detection.base import Detections
from tests.data.made import write_dataset
from tests.data.made_objects import write_scenes

PUBLISHED = Path(__file__).parent.parent / "data/coco_eval"
TWELVE = (
    *("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"),
    *("AR1", "AR10", "AR100", "AR_small", "AR_medium", "AR_large"),
)
PERFECT = pytest.approx(1.0, abs=1e-12)  # COCO adds 2e-16 to what it divides by


def published(name: str) -> Any:
    return json.loads(gzip.decompress((PUBLISHED / f"{name}.json.gz").read_bytes()))


@pytest.mark.parametrize(("kind", "name"), [("box", "bbox"), ("mask", "segm")])
def test_published_figures(kind: str, name: str) -> None:
    expected = json.loads((PUBLISHED / "expected.json").read_text())[name]
    truth = published("instances_val2014_100")
    results = published(f"instances_val2014_fake{name}100_results")
    found = coco_metrics(truth, results, [kind])
    assert set(found.metrics) == {f"{kind}_{figure}" for figure in TWELVE}
    for figure in TWELVE:
        assert found.metrics[f"{kind}_{figure}"] == pytest.approx(expected[figure], abs=1e-6)
    classes = {row["name"]: row[f"{kind}_AP"] for row in found.per_class}
    assert classes == pytest.approx(expected["per_category_AP"], abs=1e-6)
    assert truth == published("instances_val2014_100")
    assert results == published(f"instances_val2014_fake{name}100_results")


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    return open_dataset(write_scenes(tmp_path_factory.mktemp("scenes"), train=1, val=14), "val")


def guesses(truth: ObjectReader, sample_id: int, seed: int | None = None) -> Detections:
    """All objects but the crowds, with their masks; with a seed some moved, some added."""
    objects = truth[sample_id]
    chosen = np.flatnonzero(~objects.crowds)
    boxes = objects.boxes[chosen]
    masks = box_masks(objects, chosen, boxes, side=28).float()
    found = Detections(
        boxes=torch.from_numpy(boxes).float(),
        scores=torch.linspace(0.9, 0.5, len(chosen)),
        labels=torch.from_numpy(objects.classes[chosen]),
        masks=masks,
    )
    if seed is None:
        return found
    rng = np.random.default_rng([seed, sample_id])
    more = rng.integers(0, max(len(chosen), 1), 3) if len(chosen) else np.empty(0, np.int64)
    pick = torch.from_numpy(np.concatenate([np.arange(len(chosen)), more]))
    moved = found.boxes[pick] + torch.from_numpy(rng.normal(0, 2.5, (len(pick), 4))).float()
    return replace(
        found,
        boxes=torch.cat([moved[:, :2], torch.maximum(moved[:, 2:], moved[:, :2] + 1)], dim=1),
        scores=torch.from_numpy(rng.random(len(pick))).float(),
        labels=found.labels[pick],
        masks=found.masks[pick],
    )


def collect(data: ShardedDataset, rows: range, seed: int | None = None) -> CocoAP:
    truth = ObjectReader(data)
    found = CocoAP(truth, masks=True)
    for start in range(rows.start, rows.stop, 3):
        ids = range(start, min(start + 3, rows.stop))
        found.add(torch.tensor(ids), [guesses(truth, row, seed) for row in ids])
    return found


def in_cocos_form(data: ShardedDataset) -> dict[str, Any]:
    reader, manifest = ObjectReader(data), data.manifest
    images = [reader[row] for row in range(len(data))]
    return {
        "images": [image_entry(objects) for objects in images],
        "annotations": [e for o in images for e in truth_entries(o, manifest.class_ids)],
        "categories": [
            {"id": number, "name": name}
            for number, name in zip(manifest.class_ids, manifest.classes, strict=True)
        ],
    }


def test_the_truth_itself_is_perfect(val: ShardedDataset) -> None:
    found = collect(val, range(len(val))).compute()
    boxes = {name: value for name, value in found.metrics.items() if name.startswith("box_AP")}
    assert boxes == dict.fromkeys(boxes, PERFECT)
    assert found.metrics["mask_AP50"] == PERFECT
    assert sum(row["count"] for row in found.per_class) == sum(
        int((~ObjectReader(val)[row].crowds).sum()) for row in range(len(val))
    )
    assert all(row["box_AP"] in (PERFECT, None) for row in found.per_class)


@pytest.mark.parametrize(("kind", "name"), [("box", "bbox"), ("mask", "segm")])
def test_the_results_file_gives_the_same_figures_in_cocos_own_tools(
    val: ShardedDataset, tmp_path: Path, kind: str, name: str
) -> None:
    collected = collect(val, range(len(val)), seed=1)
    found = collected.compute()
    path = write_results(collected.results, tmp_path / "new/results.json")
    (tmp_path / "truth.json").write_text(json.dumps(in_cocos_form(val)))
    entries = json.loads(path.read_text())
    if kind == "mask":  # as its own demo does, for it would take areas from boxes
        entries = [{k: v for k, v in entry.items() if k != "bbox"} for entry in entries]
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluation = COCOeval(truth, truth.loadRes(entries), name)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = {
        f"{kind}_{figure}": pytest.approx(value, abs=1e-9)
        for figure, value in zip(TWELVE, evaluation.stats, strict=True)
        if value > -1
    }
    assert {k: v for k, v in found.metrics.items() if k.startswith(kind)} == expected
    assert 0.05 < found.metrics[f"{kind}_AP"] < 0.95


def test_workers_find_what_one_finds_and_count_no_image_twice(
    val: ShardedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = collect(val, range(len(val)), seed=2)
    expected = whole.compute()
    parts = [collect(val, rows, seed=2) for rows in (range(8, 14), range(0, 5), range(3, 9))]
    monkeypatch.setattr(
        coco_ap, "on_rank_zero", lambda part, work: work([other._images for other in parts])
    )
    assert parts[0].compute() == expected
    assert parts[0].results == whole.results


def test_no_detections_are_no_error(val: ShardedDataset) -> None:
    truth = ObjectReader(val)
    found = CocoAP(truth, masks=True)
    nothing = Detections(
        boxes=torch.empty(0, 4),
        scores=torch.empty(0),
        labels=torch.empty(0, dtype=torch.int64),
        masks=torch.empty(0, 28, 28),
    )
    found.add(torch.arange(len(val)), [nothing] * len(val))
    figures = found.compute()
    assert figures.metrics["box_AP"] == figures.metrics["mask_AP"] == 0.0
    assert found.results == []


def small_truth(**annotation: Any) -> dict[str, list[dict[str, Any]]]:
    thing = {"id": 0, "image_id": 5, "category_id": 7, "bbox": [2, 2, 10, 10], "area": 100}
    return {
        "images": [{"id": 5, "width": 40, "height": 30}],
        "annotations": [{**thing, "iscrowd": 0, **annotation}],
        "categories": [{"id": 7, "name": "a"}, {"id": 9, "name": "b"}],
    }


HIT = {"image_id": 5, "category_id": 7, "bbox": [2, 2, 10, 10], "score": 0.3}


def test_figures_that_nothing_counts_for_are_left_out() -> None:
    found = coco_metrics(small_truth(), [HIT], ["box"])
    assert found.metrics["box_AP"] == found.metrics["box_AP_small"] == PERFECT  # though its id is 0
    assert "box_AP_large" not in found.metrics
    assert [row["box_AP"] for row in found.per_class] == [PERFECT, None]
    assert [row["count"] for row in found.per_class] == [1, 0]
    assert found.per_class[0]["box_AP_large"] is None


def test_objects_without_a_mask_do_not_count_as_masks() -> None:
    square = np.zeros((30, 40), np.uint8, order="F")
    square[2:12, 2:12] = 1
    truth = small_truth()
    outline = {"segmentation": [[2, 2, 12, 2, 12, 12, 2, 12]]}
    truth["annotations"].append({**truth["annotations"][0], **outline, "id": 1})
    found = coco_metrics(truth, [{**HIT, "segmentation": encode(square)}], ["mask"])
    assert found.metrics["mask_AP"] == PERFECT
    assert found.metrics["mask_AR1"] == PERFECT
    assert coco_metrics(small_truth(), [], ["mask"]).metrics == {}


def test_a_mask_found_where_an_object_has_none_is_neither_right_nor_wrong() -> None:
    def mask(x: int) -> dict[str, Any]:
        pixels = np.zeros((30, 40), np.uint8, order="F")
        pixels[4:10, x : x + 6] = 1
        return {**HIT, "segmentation": encode(pixels)}

    truth = small_truth()
    outline = {"segmentation": [[20, 4, 26, 4, 26, 10, 20, 10]], "bbox": [20, 4, 6, 6]}
    truth["annotations"].append({**truth["annotations"][0], **outline, "id": 1})
    inside, right, beside = {**mask(3), "score": 0.9}, mask(20), {**mask(30), "score": 0.9}
    assert coco_metrics(truth, [inside, right], ["mask"]).metrics["mask_AP50"] == PERFECT
    assert coco_metrics(truth, [beside, right], ["mask"]).metrics["mask_AP50"] < 0.6


def test_data_without_objects_is_refused(tmp_path: Path) -> None:
    data = open_dataset(write_dataset(tmp_path / "set", {"val": [2]}), "val")
    with pytest.raises(DataError, match="prepared for classification, but boxes are needed"):
        ObjectReader(data)


@pytest.mark.parametrize("kind", ["box", "mask"])
def test_numbers_of_images_and_classes_may_be_negative(kind: str) -> None:
    truth = small_truth(segmentation=[[2, 2, 12, 2, 12, 12, 2, 12]], id=-4)
    for entry in truth["annotations"]:
        entry |= {"image_id": -5, "category_id": -7}
    truth["images"][0]["id"] = -5
    truth["categories"] = [{"id": 9, "name": "b"}, {"id": -7, "name": "a"}]
    square = np.zeros((30, 40), np.uint8, order="F")
    square[2:12, 2:12] = 1
    hit = {**HIT, "image_id": -5, "category_id": -7, "segmentation": encode(square)}
    found = coco_metrics(truth, [hit], [kind])
    assert found.metrics[f"{kind}_AP"] == PERFECT
    # Rows in the order of the numbers, as COCO has them.
    assert [(row["name"], row[f"{kind}_AP"]) for row in found.per_class] == [
        ("a", PERFECT),
        ("b", None),
    ]
