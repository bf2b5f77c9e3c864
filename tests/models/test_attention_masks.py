"""Masks handed to attention, over all networks: fused kernels ask for a last stride of 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from itpn_ray.models import Acceleration, create_autoencoder, create_distiller
from tests.models.detection.dinos import dino
from tests.models.detection.made import alone, images, sizes, targets
from tests.models.nets import classifier, make_images

FAMILIES: dict[str, dict[str, Any]] = {
    "nano": {},
    "itpn_base": {"depths": (1, 1, 3), "relative_position": True},
}
WINDOWS = [(0, False, "none")] + [
    (3, gathering, position)
    for gathering, position in product((False, True), ("none", "windows", "windows+cross"))
    if gathering or position != "windows+cross"
]


@contextmanager
def masks_of_attention(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Tensor]]:
    """The masks that PyTorch's attention is called with meanwhile."""
    seen: list[Tensor] = []
    attend = F.scaled_dot_product_attention

    def watched(*args: Any, **options: Any) -> Tensor:
        mask = args[3] if len(args) > 3 else options.get("attn_mask")
        seen.extend([] if mask is None else [mask])
        return attend(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(F, "scaled_dot_product_attention", watched)
        yield seen


def expect_rows_of_neighbours(masks: list[Tensor]) -> None:
    """Each mask broadcasts over (B, h, N, M), and its last numbers lie side by side."""
    assert masks
    for mask in masks:
        assert mask.dim() == 4
        assert mask.stride(-1) == 1, (mask.shape, mask.stride())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("reduction", ["none", "migration", "tome", "random"])
@pytest.mark.parametrize(("window", "gathering", "position"), WINDOWS)
def test_whole_images(
    family: str,
    reduction: str,
    window: int,
    gathering: bool,
    position: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On the grid of the tables and on another one, which windows do not divide."""
    changes = FAMILIES[family]
    net = classifier(family, **changes)
    net.set_acceleration(
        Acceleration(
            reduction=reduction,
            ratio=0.0 if reduction == "none" else 0.3,
            window=window,
            gathering=gathering,
            relative_position=position,
        )
    )
    with masks_of_attention(monkeypatch) as seen, torch.no_grad():
        for view, half in product((make_images(2, 64), make_images(2, 80, 112)), (False, True)):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                net.trunk.stages(view)
    if changes or window or reduction == "tome":
        expect_rows_of_neighbours(seen)
    else:
        assert not seen


@pytest.mark.parametrize("position", [False, True])
def test_masked_images(position: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pre-training sees some of the patches, other ones in each image."""
    settings = {"image_size": 64, "depths": (1, 1, 3), "width": 32, "heads": 2}
    settings |= {"relative_position": position, "pyramid_width": 16}
    mask = torch.zeros(2, 16, dtype=torch.bool)
    mask[0, :7], mask[1, 5:12] = True, True
    pixel = create_autoencoder("itpn_base", decoder_width=32, decoder_depth=1, **settings)
    clip = create_distiller("itpn_base", teacher_dim=32, **settings)
    for network in (pixel, clip):
        with masks_of_attention(monkeypatch) as seen, torch.no_grad():
            network(make_images(2, 64), mask)
        if position:
            expect_rows_of_neighbours(seen)
        else:
            assert not seen


def test_queries_of_a_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of objects do not see each other's groups."""
    shapes = [[(0, (4, 4, 30, 30)), (1, (20, 8, 50, 60))], [(1, (2, 2, 9, 9))]]
    net = dino()
    with masks_of_attention(monkeypatch) as seen, torch.no_grad():
        net.train().losses(images(shapes), sizes(2), targets(shapes), alone)
        net.eval().detect(images(shapes), sizes(2))
    expect_rows_of_neighbours(seen)
    assert len(seen) == 2 * len(net.decoder.layers)
