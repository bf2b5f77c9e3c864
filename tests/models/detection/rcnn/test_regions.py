from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from itpn_ray.models.detection.rcnn import regions
from itpn_ray.models.detection.rcnn.regions import mask_targets, pool_regions
from tests.models.detection.made import box_mask, full_mask, objects_of, targets


def test_padding_holds_no_objects():
    given = targets(
        [[(1, (5, 5, 20, 30))], [], [(0, (1, 2, 9, 8)), (1, (3, 3, 30, 40))]], [7, 8, 9]
    )
    objects = objects_of(given)
    assert [part.labels.tolist() for part in objects] == [[1], [], [0, 1]]
    assert objects[0].boxes.tolist() == [[5, 5, 20, 30]]
    assert objects[1].boxes.shape == (0, 4)
    assert objects[1].masks.shape == (0, 112, 112)
    assert [part.seed.tolist() for part in objects] == [[7], [8], [9]]


def test_regions_are_read_where_they_are():
    """Maps that hold the coordinates of their cells' centres tell where each output was read."""
    maps = {}
    for stride in (4, 8, 16, 32, 64):
        cells = (torch.arange(512 // stride) + 0.5) * stride
        across = cells[None, :].expand(len(cells), -1)
        maps[stride] = torch.stack([across, across.T])[None]  # (1, 2, h, w): x, y
    boxes = torch.tensor([
        [100.0, 80.0, 140.0, 150.0], [50.0, 60.0, 170.0, 200.0], [40.0, 90.0, 300.0, 390.0],
    ])  # fmt: skip
    pooled = pool_regions(maps, [boxes], 7)
    share = (torch.arange(7) + 0.5) / 7
    for box, read in zip(boxes, pooled, strict=True):
        x, y = (box[i] + share * (box[i + 2] - box[i]) for i in (0, 1))
        torch.testing.assert_close(read[0], x[None, :].expand(7, 7), rtol=0, atol=0.1)
        torch.testing.assert_close(read[1], y[:, None].expand(7, 7), rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("side", "stride"), [(10, 4), (111, 4), (113, 8), (223, 8), (225, 16), (449, 32), (900, 32)]
)
def test_large_regions_are_read_from_coarse_maps(side, stride):
    maps = {s: torch.full((1, 1, 1024 // s, 1024 // s), float(s)) for s in (4, 8, 16, 32, 64)}
    box = torch.tensor([[50.0, 60.0, 50.0 + side, 60.0 + side]])
    assert (pool_regions(maps, [box], 7) == stride).all()


def test_regions_belong_to_their_images():
    maps = {
        s: torch.tensor([1.0, 2.0]).view(2, 1, 1, 1).expand(2, 1, 64 // s, 64 // s)
        for s in (4, 8, 16, 32)
    }
    box = torch.tensor([[5.0, 5.0, 40.0, 40.0]])
    pooled = pool_regions(maps, [box, box.repeat(2, 1)], 2)
    assert pooled.mean((1, 2, 3)).tolist() == [1, 2, 2]
    assert pool_regions(maps, [box[:0], box[:0]], 2).shape == (0, 1, 2, 2)


@pytest.mark.parametrize("count", [0, 1, 40])
def test_picking_boxes_out_changes_no_bit(monkeypatch, count):
    """What a CPU does is what a GPU does, of which nothing is asked to count boxes."""
    torch.manual_seed(0)
    maps = {
        stride: torch.randn(2, 3, 512 // stride, 512 // stride, requires_grad=True)
        for stride in regions.REGION_STRIDES
    }
    corner = 300 * torch.rand(2, count, 2)
    boxes = list(torch.cat([corner, corner + 2 + 400 * torch.rand(2, count, 2) ** 3], dim=2))
    found = {}
    for name in ("_pool_apart", "_pool_all"):
        monkeypatch.setattr(regions, "_pool_apart", getattr(regions, name))
        pooled = pool_regions(maps, boxes, 7)
        weights = torch.arange(pooled.numel()).reshape(pooled.shape).sin()
        found[name] = [pooled, *torch.autograd.grad((pooled * weights).sum(), maps.values())]
    for apart, all_of_them in zip(*found.values(), strict=True):
        assert torch.equal(apart, all_of_them)


@pytest.mark.parametrize("label", [0, 1])
def test_mask_targets_are_a_crop_of_the_full_mask(label):
    shape = (label, (20, 30, 90, 110))
    boxes = torch.tensor([
        [20.0, 30.0, 90.0, 110.0], [10.0, 20.0, 60.0, 90.0], [40.5, 50.5, 70.0, 128.0],
        [0.0, 0.0, 128.0, 128.0],
    ])  # fmt: skip
    own = torch.tensor([shape[1]], dtype=torch.float32).expand(4, 4)
    found = mask_targets(box_mask(shape).expand(4, -1, -1), own, boxes, 28)
    whole = full_mask(shape, 128, 128).expand(4, 1, 128, 128)
    expected = (
        roi_align(whole, list(boxes.split(1)), 28, sampling_ratio=0, aligned=True)[:, 0] >= 0.5
    )
    assert found.shape == (4, 28, 28)
    assert set(found.unique().tolist()) <= {0.0, 1.0}
    assert ((found == expected).float().mean((1, 2)) > 0.98).all()
    assert found[1].mean() > 0.3


def test_nothing_lies_outside_an_object():
    full = torch.ones(1, 112, 112, dtype=torch.uint8)
    own = torch.tensor([[0.0, 0.0, 1120.0, 1120.0]])
    beside = torch.tensor([[1121.0, 0.0, 1401.0, 280.0]])
    assert mask_targets(full, own, beside, 28).sum() == 0
