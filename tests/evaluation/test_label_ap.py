"""Average precision of several labels an image, against other implementations of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score

from itpn_ray.evaluation import label_ap
from itpn_ray.evaluation.label_ap import LabelAP, LabelMetrics, average_precision

CLASSES = ["a", "b", "c", "d"]


def made(images: int = 57, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits in steps, so that many are equal, and labels; no image shows the last class."""
    generator = torch.Generator().manual_seed(seed)
    shown = torch.rand(images, 4, generator=generator) < torch.tensor([0.5, 0.2, 0.05, 0.0])
    shown[0] = torch.tensor([True, True, True, False])
    logits = 3 * torch.randn(images, 4, generator=generator) + 2 * shown
    return (logits * 2).round() / 2, shown.to(torch.uint8)


def evaluated(logits: torch.Tensor, shown: torch.Tensor, batch: int = 8) -> LabelMetrics:
    """All images, given in batches."""
    precision = LabelAP(CLASSES)
    ids = torch.arange(len(logits))
    for part in zip(*(x.split(batch) for x in (ids, logits, shown)), strict=True):
        precision.add(*part)
    return precision.compute()


def by_hand(scores: NDArray[np.float64], shown: NDArray[np.bool_]) -> float:
    """AP as a double loop: precision at the score of each image that shows the class."""
    found = []
    for score in scores[shown]:
        at_least = scores >= score
        found.append(shown[at_least].sum() / at_least.sum())
    return float(np.mean(found))


def test_it_is_that_of_scikit_learn_and_of_a_double_loop() -> None:
    logits, shown = made()
    found = evaluated(logits, shown)
    scores, truth = logits.double().numpy(), shown.numpy().astype(bool)
    for n, row in enumerate(found.per_class[:3]):
        assert row["ap"] == pytest.approx(average_precision_score(truth[:, n], scores[:, n]))
        assert row["ap"] == pytest.approx(by_hand(scores[:, n], truth[:, n]))
        assert row["count"] == truth[:, n].sum()
    expected = average_precision_score(truth[:, :3], scores[:, :3], average="macro")
    assert found.metrics["map"] == pytest.approx(expected)
    assert found.metrics["f1"] == pytest.approx(f1_score(truth, scores > 0, average="micro"))
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits.double(), shown.double())
    assert found.metrics["loss"] == pytest.approx(float(loss))


def test_a_class_that_no_image_shows_has_no_ap() -> None:
    found = evaluated(*made())
    assert found.per_class[3] == {
        **{"ap": None, "recall": 0.0, "precision": 0.0, "name": "d", "count": 0}
    }
    nothing = evaluated(made()[0], torch.zeros(57, 4, dtype=torch.uint8))
    assert nothing.metrics["map"] == 0.0


def test_small_rankings_by_hand() -> None:
    shown = np.array([True, False, True, False])
    assert average_precision(np.array([4.0, 3.0, 2.0, 1.0]), shown) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert average_precision(np.zeros(4), shown) == 0.5
    assert average_precision(np.array([0.0, 1.0]), np.array([False, True])) == 1.0


def test_no_order_and_no_share_of_workers_changes_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, shown = made()
    alone = evaluated(logits, shown)
    # Stands for the group: what each worker would send to rank 0.
    monkeypatch.setattr(label_ap, "on_rank_zero", lambda part, work: part)
    for world in (2, 3, 60):  # of 60 workers three have no image
        parts: list[Any] = []
        for rank in range(world):
            worker = LabelAP(CLASSES)
            for image in reversed(range(rank, len(logits), world)):
                one = slice(image, image + 1)
                worker.add(torch.tensor([image]), logits[one], shown[one])
            parts.append(worker.compute())
        assert LabelAP(CLASSES)._evaluate(parts) == alone


def test_images_without_finite_scores_are_last_and_counted() -> None:
    logits, shown = made()
    broken = logits.clone()
    broken[5, 1] = float("nan")
    found = evaluated(broken, shown)
    assert found.metrics["non_finite"] == 1
    last = logits.clone()
    last[5] = -1000.0
    assert [row["ap"] for row in found.per_class] == [
        row["ap"] for row in evaluated(last, shown).per_class
    ]
    assert np.isfinite(found.metrics["loss"])
