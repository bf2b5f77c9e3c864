"""DOTA's mAP against VOC's own loop, over tiles, difficult objects and workers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from itpn_ray.data.annotations.tiles import TileReader
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.evaluation import rotated_ap
from itpn_ray.evaluation.dota_format import (
    WholeImage,
    in_tile,
    merge_tiles,
    task1_lines,
    write_task1,
)
from itpn_ray.evaluation.rotated_ap import THRESHOLDS, RotatedAP, _metrics, _Truth
from itpn_ray.models.detection.base import Detections
from itpn_ray.models.rotated.boxes import corners_of, from_corners
from itpn_ray.models.rotated.overlap import rotated_iou
from tests.data.made_dota import SHIP, prepared, write_dota
from tests.models.rotated.test_overlap import drawn


def detections(boxes: Tensor, scores: Sequence[float], labels: Sequence[int]) -> Detections:
    return Detections(
        boxes=boxes.double().reshape(-1, 5),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=None,
    )


def overlaps_of(truth: Sequence[_Truth], found: Sequence[Detections]) -> list[list[list[float]]]:
    """Of each image, of each detection, the IoU with each object."""
    pairs = zip(truth, found, strict=True)
    return [rotated_iou(seen.boxes[:, None], real.boxes[None]).tolist() for real, seen in pairs]


def voc(
    truth: Sequence[_Truth], found: Sequence[Detections], label: int, at: float, iou: Any
) -> float:
    """VOC's evaluation of 2007, detection by detection."""
    rows = sorted(
        (
            (-float(seen.scores[n]), image, n)
            for image, seen in enumerate(found)
            for n in range(len(seen.scores))
            if seen.labels[n] == label
        ),
        key=lambda row: row[0],
    )
    taken: set[tuple[int, int]] = set()
    right, wrong = [], []
    for _, image, n in rows:
        real = truth[image]
        own = [k for k in range(len(real.classes)) if real.classes[k] == label]
        overlaps = [iou[image][n][k] for k in own]
        best = int(np.argmax(overlaps)) if own else -1
        if own and overlaps[best] > at:
            if real.difficult[own[best]]:
                continue
            hit = (image, own[best]) not in taken
            taken.add((image, own[best]))
            right.append(hit)
            wrong.append(not hit)
        else:
            right.append(False)
            wrong.append(True)
    count = sum(int(((r.classes == label) & ~r.difficult).sum()) for r in truth)
    hits, misses = np.cumsum(right), np.cumsum(wrong)
    recall, precision = hits / count, hits / np.maximum(hits + misses, 1e-9)
    average = 0.0
    for point in np.arange(0.0, 1.1, 0.1):
        reached = precision[recall >= point] if len(precision) else np.zeros(0)
        average += (reached.max() if len(reached) else 0.0) / 11
    return average


def scene(seed: int) -> tuple[list[_Truth], list[Detections]]:
    """Images with objects, some difficult, and detections near some of them, some doubled."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for image in range(6):
        boxes = drawn(9, 100 * seed + image)
        classes = rng.integers(0, 3, 9)
        truth.append(_Truth(boxes=boxes, classes=classes, difficult=rng.random(9) < 0.25))
        chosen = rng.integers(0, 9, 14)
        noise = torch.from_numpy(rng.normal(0, 1, (14, 5)) * [3, 3, 4, 2, 0.1])
        near = (boxes[chosen] + noise).clamp(min=-99)
        near[:, 2:4] = near[:, 2:4].clamp(min=0.5)
        scores = (rng.integers(1, 30, 14) / 30).tolist()
        found.append(detections(near, scores, np.where(rng.random(14) < 0.85, classes[chosen], 0)))
    return truth, found


@pytest.mark.parametrize("seed", [1, 2])
def test_it_is_vocs(seed: int) -> None:
    truth, found = scene(seed)
    result = _metrics(truth, found, ["a", "b", "c"])
    iou = overlaps_of(truth, found)
    expected = [[voc(truth, found, label, at, iou) for at in THRESHOLDS] for label in range(3)]
    for row, values in zip(result.per_class, expected, strict=True):
        assert row["rotated_AP50"] == pytest.approx(values[0])
        assert row["rotated_AP75"] == pytest.approx(values[5])
        assert row["rotated_AP"] == pytest.approx(np.mean(values))
    assert result.metrics["rotated_AP50"] == pytest.approx(np.mean([v[0] for v in expected]))
    assert result.metrics["rotated_AP"] == pytest.approx(np.mean(expected))
    assert 0.05 < result.metrics["rotated_AP50"] < 0.95


def test_eleven_points() -> None:
    """Of two objects the surest detection finds one, the next is wrong, and one is never found."""
    boxes = torch.tensor([[10.0, 10, 8, 4, 0], [40.0, 10, 8, 4, 0], [90.0, 90, 8, 4, 0]]).double()
    truth = [_Truth(boxes=boxes[:2], classes=np.zeros(2, np.int64), difficult=np.zeros(2, bool))]
    found = [detections(boxes[[0, 2]], [0.9, 0.8], [0, 0])]
    result = _metrics(truth, found, ["a", "b"])
    # Recall reaches 0.5 at precision 1: six of the eleven points, 0 to 0.5.
    assert result.metrics["rotated_AP50"] == pytest.approx(6 / 11)
    assert result.per_class[1] == {
        "name": "b", "count": 0, "rotated_AP50": None, "rotated_AP75": None, "rotated_AP": None,
    }  # fmt: skip


def test_nothing_found_and_nothing_there() -> None:
    boxes = torch.tensor([[10.0, 10, 8, 4, 0]]).double()
    truth = [_Truth(boxes=boxes, classes=np.zeros(1, np.int64), difficult=np.zeros(1, bool))]
    none = [detections(torch.zeros(0, 5), [], [])]
    assert _metrics(truth, none, ["a"]).metrics["rotated_AP50"] == 0
    empty = [_Truth(boxes=boxes[:0], classes=np.zeros(0, np.int64), difficult=np.zeros(0, bool))]
    assert _metrics(empty, none, ["a"]).metrics == {}


def test_tiles_are_merged() -> None:
    """One object in the overlap of two tiles is found in both; another only in the second."""
    first = detections(torch.tensor([[90.0, 50, 20, 8, 0.3]]), [0.8], [1])
    second = detections(
        torch.tensor([[10.5, 50, 20, 8, 0.3], [60.0, 50, 20, 8, 0.3]]), [0.9, 0.7], [1, 1]
    )
    merged = merge_tiles([((0, 0), first), ((80, 0), second)])
    assert merged.boxes[:, 0].tolist() == [90.5, 140.0]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.7])
    other = detections(torch.tensor([[10.5, 50, 20, 8, 0.3]]), [0.9], [0])
    assert len(merge_tiles([((0, 0), first), ((80, 0), other)]).scores) == 2  # of two classes


def test_views_are_undone_in_float64() -> None:
    box = torch.tensor([[50.0, 40.0, 30.0, 10.0, 0.4]])
    found = in_tile(detections(box, [0.5], [0]), torch.tensor([100, 200]), torch.tensor([50, 100]))
    torch.testing.assert_close(found.boxes[0, :4], torch.tensor([25.0, 20, 15, 5]).double())
    assert found.boxes[0, 4].item() == pytest.approx(0.4, abs=1e-6)


class Spying:
    """Stands for the collective: gives all parts to the work, as rank 0 has them."""

    def __init__(self, parts: list[Any]) -> None:
        self.parts = parts

    def __call__(self, part: Any, work: Any) -> Any:
        return work(self.parts)


def found_in(reader: TileReader, row: int) -> Detections:
    """What is annotated in a tile, a little moved, as detections of decreasing score."""
    tile = reader[row]
    boxes = from_corners(torch.from_numpy(tile.corners))
    boxes[:, 0] += 0.2
    return detections(boxes, np.linspace(0.9, 0.5, len(tile)).tolist(), tile.classes.tolist())


def test_any_split_of_the_tiles_gives_the_same(
    turned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = TileReader(open_dataset(turned, "val"))
    rows = list(range(len(reader.dataset)))

    def run(shares: Sequence[Sequence[int]]) -> tuple[dict[str, float], list[WholeImage]]:
        workers = [RotatedAP(reader) for _ in shares]
        for worker, share in zip(workers, shares, strict=True):
            for row in share:
                worker.add(torch.tensor([row]), [found_in(reader, row)])
        parts = [worker._tiles for worker in workers]
        monkeypatch.setattr(rotated_ap, "on_rank_zero", Spying(parts))
        return workers[0].compute().metrics, workers[0].results

    alone, images = run([rows])
    assert alone["rotated_AP50"] > 0.9
    assert len(images) == 3  # of more tiles
    assert len(rows) > 6
    # With two workers, a row that both have, and none for the third.
    assert run([rows[0::2], rows[1::2]])[0] == alone
    assert run([rows[3:], rows[:4], []])[0] == alone


def test_objects_count_once_however_many_tiles_show_them(tmp_path: Path) -> None:
    bars = [f"{x} 10 {x + 20} 10 {x + 20} 20 {x} 20 bar {hard}" for x, hard in ((75, 0), (10, 1))]
    root = write_dota(tmp_path / "raw", {"train/P0": [SHIP], "val/P1": bars}, (180, 100))
    data = prepared(root, tmp_path / "data", tile=100, tile_gap=20)
    reader = TileReader(open_dataset(data, "val"))
    average = RotatedAP(reader)
    for row in range(len(reader.dataset)):
        average.add(torch.tensor([row]), [found_in(reader, row)])
    found = average.compute()
    rows = {row["name"]: row for row in found.per_class}
    assert rows["bar"]["count"] == 1
    assert found.metrics["rotated_AP50"] == 1.0
    assert rows["ship"]["rotated_AP50"] is None


def test_submission_files(tmp_path: Path) -> None:
    box = torch.tensor([10.0, 20.0, 8.0, 4.0, math.pi / 2])
    image = WholeImage(path="val/images/P0006.png", found=detections(box, [0.51234567], [1]))
    empty = WholeImage(path="P0007.png", found=detections(torch.zeros(0, 5), [], []))
    classes = ["plane", "ship"]
    write_task1([image, empty, image], classes, tmp_path / "task1")
    assert (tmp_path / "task1/Task1_plane.txt").read_text() == ""
    line, again = (tmp_path / "task1/Task1_ship.txt").read_text().splitlines()
    assert line == again
    name, score, *corners = line.split()
    assert (name, score) == ("P0006", "0.512346")
    shown = torch.tensor([float(value) for value in corners]).view(4, 2)
    torch.testing.assert_close(shown, corners_of(box), atol=0.01, rtol=0)
    assert task1_lines(empty, classes) == {"Task1_plane.txt": "", "Task1_ship.txt": ""}
