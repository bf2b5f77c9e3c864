import pytest
import torch
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from itpn_ray.evaluation.topk import TopK


def draws(count: int, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, classes, generator=generator)
    logits[torch.arange(count), labels] += 1.0
    return logits, labels


def test_agrees_with_scikit_learn() -> None:
    logits, labels = draws(300, 7)
    topk = TopK(7)
    for rows in torch.arange(300).split(64):
        topk.update(logits[rows], labels[rows])
    metrics = topk.metrics()
    for k in (1, 5):
        expected = top_k_accuracy_score(labels, logits, k=k)
        assert metrics[f"top{k}"] == pytest.approx(expected, abs=1e-12)
    assert metrics["loss"] == pytest.approx(
        torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5
    )
    assert "non_finite" not in metrics
    matrix = confusion_matrix(labels, logits.argmax(1))
    assert topk.confusion.tolist() == matrix.tolist()
    rows = topk.per_class([str(c) for c in range(7)])
    for c, row in enumerate(rows):
        assert row["count"] == matrix[c].sum()
        assert row["recall"] == pytest.approx(matrix[c, c] / matrix[c].sum())
        assert row["precision"] == pytest.approx(matrix[c, c] / matrix[:, c].sum())
    assert metrics["mean_recall"] == pytest.approx(sum(r["recall"] for r in rows) / 7)


def test_the_sum_over_ranks_is_exact() -> None:
    logits, labels = draws(101, 9)
    whole = TopK(9)
    whole.update(logits, labels)
    ranks = [TopK(9) for _ in range(3)]  # the third sees nothing
    for topk, rows in zip(ranks, torch.arange(101).split(57), strict=False):
        topk.update(logits[rows], labels[rows])
    parts: list[torch.Tensor] = []
    for topk in ranks:
        topk.reduce(lambda tensor: parts.append(tensor) or tensor)
    ranks[0].reduce(lambda tensor: sum(parts, torch.zeros_like(tensor)))
    expected = whole.metrics()
    assert ranks[0].metrics() == {**expected, "loss": pytest.approx(expected["loss"], rel=1e-12)}
    assert torch.equal(ranks[0].confusion, whole.confusion)


def test_ties_go_to_the_lower_class() -> None:
    topk = TopK(6)
    topk.update(torch.zeros(6, 6), torch.arange(6))
    assert topk.metrics()["top1"] == pytest.approx(1 / 6)
    assert topk.metrics()["top5"] == pytest.approx(5 / 6)
    assert topk.confusion[:, 0].tolist() == [1] * 6


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_images_without_finite_logits_are_wrong_and_counted(bad: float) -> None:
    logits = torch.eye(6)
    logits[2, 4] = bad
    topk = TopK(6)
    topk.update(logits, torch.arange(6))
    metrics = topk.metrics()
    assert metrics["top1"] == pytest.approx(5 / 6)
    assert metrics["top5"] == pytest.approx(5 / 6)
    assert metrics["non_finite"] == 1
    assert metrics["loss"] == pytest.approx(metrics["loss"])  # not NaN
    assert topk.confusion.sum() == 5
    assert topk.per_class("abcdef")[2] == {
        "name": "c", "count": 1, "recall": 0.0, "precision": 0.0
    }  # fmt: skip


def test_few_and_many_classes() -> None:
    few = TopK(5)
    few.update(torch.eye(5), torch.arange(5))
    assert set(few.metrics()) == {"top1", "loss", "mean_recall"}
    many = TopK(2001)
    many.update(torch.nn.functional.one_hot(torch.tensor([2000, 7]), 2001), torch.tensor([2000, 8]))
    assert many.confusion is None
    assert many.metrics()["top1"] == 0.5


def test_nothing_seen() -> None:
    assert TopK(8).metrics() == {"top1": 0.0, "top5": 0.0, "loss": 0.0, "mean_recall": 0.0}
