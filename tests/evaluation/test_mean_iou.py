"""Intersection over union against an independent computation, and its two rules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hotcoco.semantic import SemanticEval

from itpn_ray.evaluation.mean_iou import BOUNDARY, MeanIoU

CLASSES = [f"class {n}" for n in range(6)]


def by_sets(found: list[np.ndarray], truth: list[np.ndarray]) -> dict[str, float]:
    """Class by class, over sets of pixels."""
    answers, true = (np.concatenate([mask.ravel() for mask in masks]) for masks in (found, truth))
    answers, true = answers[true != -1], true[true != -1]
    ious, accuracies = [], []
    for label in range(len(CLASSES)):
        a = set(np.flatnonzero(answers == label).tolist())
        t = set(np.flatnonzero(true == label).tolist())
        ious.append(len(a & t) / len(a | t) if a | t else None)
        accuracies.append(len(a & t) / len(t) if t else None)
    present = [iou for iou in ious if iou is not None]
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    return {
        "miou": sum(present) / len(present),
        "macc": sum(known) / len(known),
        "aacc": float(np.mean(answers == true)),
        "miou_all": sum(present) / len(CLASSES),
        "boundary_iou": boundary_by_pixels(found, truth),
    }


def boundary_by_pixels(found: list[np.ndarray], truth: list[np.ndarray]) -> float:
    """Pixel by pixel: which have another class, or the border, within reach."""
    both, either = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for answers, true in zip(found, truth, strict=True):
        answers = np.where(true < 0, -1, answers)
        edges = [near_another(mask) for mask in (answers, true)]
        for label in range(len(CLASSES)):
            a, t = (edge & (m == label) for edge, m in zip(edges, (answers, true), strict=True))
            both[label] += (a & t).sum()
            either[label] += (a | t).sum()
    return float(np.mean(both[either > 0] / either[either > 0]))


def near_another(mask: np.ndarray) -> np.ndarray:
    """Whether a window around a pixel holds anything but its class."""
    reach = max(1, round(BOUNDARY * np.hypot(*mask.shape)))
    framed = np.pad(mask, reach, constant_values=-2)
    size = 2 * reach + 1
    windows = np.lib.stride_tricks.sliding_window_view(framed, (size, size))
    return (windows != mask[..., None, None]).any((2, 3))


def masks() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Class 4 is in no truth, class 5 nowhere; some pixels are ignored; the last has areas."""
    rng = np.random.default_rng(0)
    sizes = [(9, 13), (20, 4), (1, 30)]
    truth = [rng.integers(0, 4, size) for size in sizes]
    found = [np.where(rng.random(t.shape) < 0.6, t, rng.integers(0, 5, t.shape)) for t in truth]
    truth = [np.where(rng.random(t.shape) < 0.3, -1, t) for t in truth]
    areas = np.kron(rng.integers(-1, 4, (4, 5)), np.ones((20, 14), dtype=np.int64))
    return [*found, np.roll(areas.clip(0), 3)], [*truth, areas]


def counted(found: list[np.ndarray], truth: list[np.ndarray]) -> MeanIoU:
    counts = MeanIoU(CLASSES, torch.device("cpu"))
    for pair in zip(found, truth, strict=True):
        counts.add(*map(torch.from_numpy, pair))
    return counts


def test_figures_are_those_of_sets_of_pixels() -> None:
    found, truth = masks()
    figures = counted(found, truth).compute(lambda pixels: pixels)
    assert figures.metrics == pytest.approx(by_sets(found, truth), abs=1e-12)
    rows = figures.per_class
    assert rows[4]["iou"] == 0
    assert rows[4]["acc"] is None
    assert rows[5]["iou"] is None
    assert [row["count"] for row in rows] == [
        int(sum((t == n).sum() for t in truth)) for n in range(6)
    ]


def test_figures_are_hotcocos() -> None:
    """Of a kept library, by mmsegmentation's rule: its ignored pixels are 255."""
    found, truth = masks()
    judge = SemanticEval(CLASSES, ignore_index=255)
    for answers, true in zip(found, truth, strict=True):
        judge.update(np.where(true < 0, 255, true).astype(np.uint8), answers.astype(np.uint8))
    figures = counted(found, truth).compute(lambda pixels: pixels)
    expected = judge.results()
    for ours, theirs in (("miou", "mIoU"), ("macc", "mAcc"), ("aacc", "aAcc")):
        assert figures.metrics[ours] == pytest.approx(expected[theirs], abs=1e-12)


def test_parts_of_workers_add_up() -> None:
    found, truth = masks()
    first, rest = counted(found[:1], truth[:1]), counted(found[1:], truth[1:])
    together = first.compute(lambda pixels: pixels + rest._pixels)
    assert together == counted(found, truth).compute(lambda pixels: pixels)


def test_perfect_answers_by_both_rules() -> None:
    """As with ADE20K's sample predictions: of 150 classes only those that occur can be right."""
    _, truth = masks()
    found = [np.where(mask < 0, 0, mask) for mask in truth]
    metrics = counted(found, truth).compute(lambda pixels: pixels).metrics
    perfect = {"miou": 1, "macc": 1, "aacc": 1, "miou_all": 4 / 6, "boundary_iou": 1}
    assert metrics == pytest.approx(perfect)
