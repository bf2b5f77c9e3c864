"""Metrics compare in whole float32, whatever the network computes in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.evaluation.knn import leave_one_out_accuracy
from itpn_ray.evaluation.pasting import paste
from itpn_ray.evaluation.precision import whole_float32
from itpn_ray.evaluation.probe import fit_logistic
from itpn_ray.tasks.clip_pretraining.task import DISTANCES

COUNT, CLASSES, WIDTH = 160, 8, 64


@pytest.fixture
def bfloat16() -> Iterator[None]:
    with torch.autocast("cpu", torch.bfloat16):
        yield


def nearly_parallel() -> tuple[Tensor, Tensor]:
    """Features of eight classes whose cosines with each other are about 0.99."""
    seeded = torch.Generator().manual_seed(0)
    shared = 10 * F.normalize(torch.randn(WIDTH, generator=seeded), dim=0)
    centres = F.normalize(torch.randn(CLASSES, WIDTH, generator=seeded), dim=1)
    labels = torch.arange(COUNT) % CLASSES
    noise = 0.05 * torch.randn(COUNT, WIDTH, generator=seeded)
    return shared + centres[labels] + noise, labels


def test_the_features_cannot_be_told_apart_in_bfloat16(bfloat16: None) -> None:
    features, _ = nearly_parallel()
    directions = F.normalize(features, dim=1)
    likeness = directions @ directions.T
    assert likeness.dtype == torch.bfloat16
    assert likeness.unique().numel() < 12
    assert 0.985 < likeness.float().mean() < 0.995


def test_neighbours_are_found_under_autocast(bfloat16: None) -> None:
    features, labels = nearly_parallel()
    ids = torch.arange(COUNT)
    found = leave_one_out_accuracy(features, labels, ids, lambda tensor: tensor, limit=COUNT)
    assert found == 1.0


def test_a_linear_probe_learns_the_same_under_autocast() -> None:
    features, labels = nearly_parallel()
    expected = fit_logistic(features, labels, CLASSES, 1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(fit_logistic(features, labels, CLASSES, 1e-3), expected)


def test_masks_are_pasted_alike_under_autocast() -> None:
    seeded = torch.Generator().manual_seed(0)
    masks = torch.rand(3, 28, 28, generator=seeded)
    boxes = torch.tensor([[3.3, 4.7, 90.2, 71.9]]).repeat(3, 1)
    expected = list(paste(masks, boxes, 80, 100))
    with torch.autocast("cpu", torch.bfloat16):
        found = list(paste(masks, boxes, 80, 100))
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("loss", DISTANCES)
def test_distances_to_a_teacher_are_the_same_under_autocast(loss: str) -> None:
    features, _ = nearly_parallel()
    expected = DISTANCES[loss](features[None, ::2], features[None, 1::2])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(DISTANCES[loss](features[None, ::2], features[None, 1::2]), expected)


def test_what_was_set_before_is_set_after() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = True
        with whole_float32(torch.device("cpu")):
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
