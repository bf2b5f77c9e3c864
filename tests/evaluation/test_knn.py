import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from itpn_ray.evaluation.knn import knn_predict, leave_one_out_accuracy


def alone(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def clusters(count: int, classes: int, spread: float) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    centres = torch.randn(classes, 16, generator=generator)
    labels = torch.arange(count) % classes
    return centres[labels] + spread * torch.randn(count, 16, generator=generator), labels


def test_the_weighted_vote_is_the_one_of_the_formula() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.8, 0.6], [0.0, 5.0]])
    labels = torch.tensor([0, 1, 1, 2])
    query = torch.tensor([[2.0, 0.0]])
    # exp(1 / .07) outweighs twice exp(.8 / .07), so the nearest one wins against two farther ones
    assert knn_predict(bank, labels, query, neighbours=3).tolist() == [0]
    query = torch.tensor([[0.95, 0.31]])
    assert knn_predict(bank, labels, query, neighbours=3).tolist() == [1]
    assert knn_predict(bank, labels, query, neighbours=1).tolist() == [0]


def test_an_image_has_no_vote_on_itself() -> None:
    features = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
    labels = torch.tensor([0, 1, 1, 0])
    own = torch.arange(4)
    guesses = knn_predict(features, labels, features, neighbours=1, own=own)
    assert guesses.tolist() == [1, 0, 0, 1]


def test_accuracy_of_tight_and_of_random_clusters() -> None:
    features, labels = clusters(200, 4, 0.05)
    ids = torch.arange(200)
    assert leave_one_out_accuracy(features, labels, ids, alone, limit=1000) == 1.0
    shuffled = labels[torch.randperm(200, generator=torch.Generator().manual_seed(0))]
    chance = leave_one_out_accuracy(features, shuffled, ids, alone, limit=1000)
    assert chance is not None
    assert chance < 0.45


@pytest.mark.parametrize("limit", [1000, 70])
def test_workers_together_find_what_one_finds(limit: int) -> None:
    features, labels = clusters(150, 3, 1.5)
    labels = labels.clone()
    labels[::10] = -1
    ids = torch.arange(150)
    expected = leave_one_out_accuracy(features, labels, ids, alone, limit=limit)
    assert expected is not None
    assert 0.3 < expected < 1.0
    shares = [torch.arange(0, 150, 2), torch.arange(1, 150, 2), torch.arange(0)]
    barrier, parts = threading.Barrier(3), {}

    def work(rank: int) -> float | None:
        def reduce(tensor: torch.Tensor) -> torch.Tensor:
            parts[rank] = tensor.clone()
            barrier.wait(30)
            total = sum(parts.values(), torch.zeros_like(tensor))
            barrier.wait(30)
            return total

        share = shares[rank]
        return leave_one_out_accuracy(
            features[share], labels[share], ids[share], reduce, limit=limit
        )

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [expected] * 3


def test_no_answer_without_two_classes_of_two() -> None:
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(5)
    for labels in ([0, 0, 0, 0, 0], [0, 0, 0, 1, 2], [-1, -1, -1, -1, -1]):
        found = leave_one_out_accuracy(features, torch.tensor(labels), ids, alone, limit=10)
        assert found is None
    empty = torch.zeros(0, dtype=torch.long)
    assert leave_one_out_accuracy(features[:0], empty, empty, alone, limit=10) is None


def test_neighbours_are_as_many_as_are_asked_for() -> None:
    # Of each image the nearest one is of its class, and the two after it are not.
    features = torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, 0.1], [1.0, 0.11]])
    labels, ids = torch.tensor([0, 0, 1, 1]), torch.arange(4)
    found = [
        leave_one_out_accuracy(features, labels, ids, alone, limit=10, neighbours=count)
        for count in (1, 3)
    ]
    assert found == [1.0, 0.0]
