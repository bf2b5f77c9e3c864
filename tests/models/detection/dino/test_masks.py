"""Masks of DINO's queries: where they are judged, how they are read, and that they are learned."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from itpn_ray.errors import ConfigError, DataError
from itpn_ray.models import Dino, load_model, load_weights, save_model
from itpn_ray.models.detection.base import UNKNOWN, Targets
from itpn_ray.models.detection.dino.masks import (
    MARGIN,
    POINTS,
    WEIGHTS,
    draw_points,
    mask_losses,
    pairs_of_copies,
    pairs_of_objects,
    read_masks,
)
from tests.models.detection.dinos import dino
from tests.models.detection.made import Shape, alone, full_mask, images, sizes, targets
from tests.models.learning import train_until
from tests.models.nets import make_images as noise

TWO: list[Shape] = [(1, (4, 4, 30, 34)), (0, (34, 20, 60, 58))]
ONE: list[Shape] = [(0, (6, 10, 40, 44))]
TERMS = {f"{part}{name}" for part in ("", "denoising_") for name in WEIGHTS}


def masked(**changes: object) -> Dino:
    """A small detector with masks."""
    return dino(**{"levels": 4, "masks": True, **changes})


def pixels(side: int) -> Tensor:
    """(1, 2, side / 4, side / 4): x and y of the centres of the cells of stride 4."""
    centres = 4 * (torch.arange(side // 4) + 0.5)
    across = centres.expand(side // 4, -1)
    return torch.stack([across, across.T])[None]


def test_points_lie_around_their_objects_and_know_the_mask():
    given = targets([TWO], [5])
    points = draw_points(pixels(64), given, sizes(1))
    assert points.features.shape == (1, 2, POINTS, 2)
    assert points.known.tolist() == [[1, 1]]
    right = 0
    for number, shape in enumerate(TWO):
        x, y = points.features[0, number].unbind(-1)
        x1, y1, x2, y2 = shape[1]
        # Features are repeated beyond the centres of the outermost cells, two pixels from the rim.
        for place, low, high in ((x, x1, x2), (y, y1, y2)):
            margin = MARGIN * (high - low)
            assert place.min() >= max(2, low - margin) - 1e-3
            assert place.max() <= min(62, high + margin) + 1e-3
        truth = full_mask(shape, 64, 64)[y.long(), x.long()]
        right += int((truth == points.inside[0, number]).sum())
        assert 0.2 < points.inside[0, number].mean() < 0.8
    # All but those at the edge of a shape, where a pixel and a cell of the mask differ.
    assert right > 0.93 * 2 * POINTS


def test_points_are_functions_of_the_images_seed():
    batch = targets([ONE, TWO], [8, 5])
    alone_targets = targets([TWO], [5])
    features = pixels(64).expand(2, -1, -1, -1)
    both = draw_points(features, batch, sizes(2))
    single = draw_points(features[:1], alone_targets, sizes(1))
    assert torch.equal(both.features[1], single.features[0])
    assert torch.equal(both.inside[1], single.inside[0])
    assert both.known.tolist() == [[1, 0], [1, 1]]


def test_a_mask_is_read_inside_its_box():
    side = 64
    shape: Shape = (1, (8, 16, 56, 48))
    mask = full_mask(shape, side, side)
    # 10 where the shape is and -10 elsewhere, averaged over the cells of stride 4.
    features = torch.nn.functional.avg_pool2d(20 * mask[None, None] - 10, 4)[0]
    box = torch.tensor([shape[1]], dtype=torch.float32)
    (read,) = read_masks(features, torch.ones(1, 1), box)
    assert read.shape == (28, 28)
    cells = (torch.arange(28) + 0.5) / 28
    x, y = (8 + 48 * cells).long(), (16 + 32 * cells).long()
    agreed = ((read > 0.5).float() == mask[y[:, None], x]).float().mean()
    assert agreed > 0.97
    assert read_masks(features, torch.ones(0, 1), box[:0]).shape == (0, 28, 28)


def test_pairs():
    assigned = torch.tensor([[[-1, 1, -1, 0], [-1, -1, -1, -1]]])  # one set, two images
    query, place, weight = pairs_of_objects(assigned, 3)
    assert weight.tolist() == [[[1, 1, 0], [0, 0, 0]]]
    assert query[0, 0, :2].tolist() == [3, 1]
    assert place.tolist() == [[[0, 1, 2]] * 2]
    copies, own, weight = pairs_of_copies(assigned[0], torch.full((2, 4), 0.5), 2)
    assert copies.shape == own.shape == weight.shape == (2, 2, 4)
    assert own[1, 0].tolist() == [0, 1, 0, 0]
    assert weight[1].tolist() == [[0, 0.5, 0, 0.5], [0, 0, 0, 0]]


def test_right_masks_cost_least_and_unknown_ones_nothing():
    given = targets([TWO], [5])
    points = draw_points(pixels(64), given, sizes(1))
    # One channel that knows the truth, in the place of what a network has learned.
    points = dataclasses.replace(points, features=2 * points.inside[..., None] - 1)
    pairs = pairs_of_objects(torch.tensor([[[0, 1]]]), 2)
    right = mask_losses(torch.full((1, 1, 2, 1), 20.0), pairs, points)
    wrong = mask_losses(torch.full((1, 1, 2, 1), -20.0), pairs, points)
    assert all(value < 0.01 for value in right.values())
    assert all(wrong[name] > 1.5 * WEIGHTS[name] for name in WEIGHTS)
    assert given.masks is not None
    given.masks[:, 1] = UNKNOWN
    bare = draw_points(pixels(64), given, sizes(1))
    assert bare.known.tolist() == [[1, 0]]
    halved = dataclasses.replace(points, known=bare.known)
    one = mask_losses(torch.full((1, 1, 2, 1), -20.0), pairs, halved)
    assert all(one[name] < 0.7 * wrong[name] for name in WEIGHTS)


def test_losses_and_detections_have_masks():
    net = masked(stirred=True)
    losses = net.losses(images([TWO, [], ONE]), sizes(3), targets([TWO, [], ONE]), alone)
    assert losses.keys() > TERMS
    assert all(losses[name] > 0 for name in TERMS)
    valid = torch.tensor([[64, 64], [40, 64], [33, 20]])
    for found in net.eval().detect(noise(3, 64), valid):
        assert found.masks is not None
        assert found.masks.shape == (len(found.scores), 28, 28)
        assert found.masks.min() >= 0
        assert found.masks.max() <= 1


def test_masks_only_add_weights():
    """A detector of boxes gives all that it has to one with masks."""
    net, boxes = masked(), dino(stirred=True, levels=4)
    report = load_weights(net, boxes.state_dict(), partial=True)
    assert set(report.loaded) > {"decoder.class_head.weight", "decoder.norm.weight"}
    own = ("mask_layers.", "decoder.mask_head.", "trunk.pyramid.")
    assert all(name.startswith(own) for name in report.missing)
    assert not report.mismatched
    assert not report.unexpected


def test_a_batch_without_masks_is_refused():
    made = targets([ONE])
    bare = Targets(boxes=made.boxes, labels=made.labels, masks=None, seeds=made.seeds)
    with pytest.raises(DataError, match="the batch has none"):
        masked().losses(images([ONE]), sizes(1), bare, alone)
    with pytest.raises(ConfigError, match="leaves no map of stride 4"):
        dino(levels=5, masks=True)


def test_saving_and_loading(tmp_path):
    net = masked(stirred=True).eval()
    save_model(net, tmp_path / "model.safetensors", {"classes": "[]"})
    loaded = load_model(tmp_path / "model.safetensors")
    assert isinstance(loaded, Dino)
    found = [each.detect(noise(1, 64), sizes(1))[0].masks for each in (net, loaded)]
    assert all(one is not None for one in found)
    torch.testing.assert_close(*found)


@pytest.mark.rounding
def test_masks_are_learned():
    """A small detector draws the shapes of two images, from nothing."""
    net = masked(channels=64, encoder_layers=1, decoder_layers=2).train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    batch = [TWO, ONE]
    given, made = images(batch), targets(batch)

    def step(number: int) -> None:
        optimizer.zero_grad()
        seeds = torch.tensor([2 * number, 2 * number + 1])
        losses = net.losses(given, sizes(2), dataclasses.replace(made, seeds=seeds), alone)
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()

    @torch.no_grad()
    def learned() -> bool:
        found = net.eval().detect(given, sizes(2))
        net.train()
        return all(_draws(one, shapes) for one, shapes in zip(found, batch, strict=True))

    train_until(learned, step, most=400)


def _draws(found, shapes: list[Shape]) -> bool:
    """Whether the surest detection near each shape has its mask."""
    for shape in shapes:
        apart = (found.boxes - torch.tensor(shape[1])).abs().amax(1)
        number = int(apart.argmin())
        if apart[number] > 4:
            return False
        x1, y1, x2, y2 = shape[1]
        cells = (torch.arange(28) + 0.5) / 28
        x, y = (x1 + (x2 - x1) * cells).long(), (y1 + (y2 - y1) * cells).long()
        truth = full_mask(shape, 64, 64)[y[:, None], x] > 0.5
        mask = found.masks[number] > 0.5
        if (truth & mask).sum() / (truth | mask).sum() < 0.8:
            return False
    return True
