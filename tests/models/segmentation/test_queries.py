"""Segmenters of queries: shares of workers, places of copies, and what pixels are given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from itpn_ray.models.segmentation.queries.segmenter import QuerySegmenter
from itpn_ray.models.segmentation.queries.targets import image_classes
from tests.models.segmentation.test_network import CLASSES, batch, segmenter

QUERY_HEADS = pytest.mark.parametrize("head", ["mask_dino", "eomt"])


@QUERY_HEADS
def test_shares_of_workers_add_up(head: str) -> None:
    """Workers with one and two images have, weighted by their images, the loss of all three."""
    network = segmenter(head).eval()
    images, masks, seeds = batch()
    masks[0, :, 10:] = -1
    masks[0, :, :10] = 2
    whole = network.losses(images, masks, seeds, lambda value: value)
    shares = [slice(0, 1), slice(1, 3)]
    seen: list[list[Tensor]] = [[], []]

    def losses(worker: int, mean: object) -> dict[str, Tensor]:
        part = shares[worker]
        return network.losses(images[part], masks[part], seeds[part], mean)  # type: ignore[arg-type]

    for worker in (0, 1):
        losses(worker, lambda value, own=seen[worker]: own.append(value) or value)
    means = [(a + b) / 2 for a, b in zip(*seen, strict=True)]
    found = []
    for worker in (0, 1):
        left = iter(means)
        found.append(losses(worker, lambda value, left=left: next(left)))
    for name, value in whole.items():
        joint = found[0][name] / 3 + found[1][name] * 2 / 3
        torch.testing.assert_close(joint, value, rtol=2e-4, atol=1e-5)


@QUERY_HEADS
def test_draws_are_functions_of_the_image(head: str) -> None:
    """What an image teaches does not depend on its place in a batch."""
    network = segmenter(head).eval()
    images, masks, seeds = batch()
    order = [2, 0, 1]
    first = network.losses(images, masks, seeds, lambda value: value)
    second = network.losses(images[order], masks[order], seeds[order], lambda value: value)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-4, atol=1e-5)


@QUERY_HEADS
def test_pixels_belong_to_the_surest_query(head: str) -> None:
    network = segmenter(head).eval()
    assert isinstance(network, QuerySegmenter)
    images, _, _ = batch()
    with torch.no_grad():
        scores = network(images)
        found = network.find(network.maps(images))
    classes = found.queries.logits[-1].softmax(-1)[0]  # (Q, K + 1)
    mask = (found.queries.masks[-1, 0] @ found.features[0].flatten(1)).sigmoid()  # (Q, h * w)
    wanted = sum(
        classes[query, :CLASSES, None] * mask[query] for query in range(network.config.queries)
    )
    assert isinstance(wanted, Tensor)
    torch.testing.assert_close(scores[0].flatten(1), wanted, rtol=1e-4, atol=1e-5)


def test_copies_do_not_see_queries() -> None:
    """What queries find in training is what they find without copies."""
    network = segmenter("mask_dino").eval()
    assert isinstance(network, QuerySegmenter)
    images, masks, seeds = batch()
    copies = network.copies(image_classes(masks, CLASSES), seeds)
    assert copies is not None
    assert (copies.assigned[copies.groups > 0] >= 0).all()  # none is to be rejected
    with torch.no_grad():
        maps = network.maps(images)
        alone, among = network.find(maps), network.find(maps, copies)
    torch.testing.assert_close(among.queries.logits, alone.queries.logits, rtol=1e-4, atol=1e-5)
    assert among.repaired is not None
    assert among.repaired.logits.shape[2] == copies.places == 8
