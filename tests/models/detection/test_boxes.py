from __future__ import annotations

import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import generalized_box_iou_loss

from itpn_ray.models.detection.boxes import (
    IGNORED,
    NOTHING,
    decode,
    encode,
    giou_loss,
    match,
    sample,
)
from itpn_ray.rng import Stream


def boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = 100 * torch.rand(count, 2, generator=generator)
    return torch.cat([corner, corner + 5 + 60 * torch.rand(count, 2, generator=generator)], dim=1)


def test_offsets_are_those_of_torchvision():
    here, there = boxes(50, 0), boxes(50, 1)
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    deltas = encode(here, there, (10.0, 5.0))
    torch.testing.assert_close(deltas, coder.encode_single(there, here), rtol=1e-4, atol=1e-4)
    far = 3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(decode(here, far, (10.0, 5.0)), coder.decode_single(far, here))


def test_decoding_undoes_encoding():
    here, there = boxes(50, 0), boxes(50, 1)
    reached = decode(here, encode(here, there, (20.0, 10.0)), (20.0, 10.0))
    torch.testing.assert_close(reached, there, rtol=1e-4, atol=1e-3)


def test_absurd_offsets_stay_finite_and_stop_growing():
    deltas = torch.tensor([[0.0, 0.0, 1e4, 1e4]], requires_grad=True)
    reached = decode(torch.tensor([[0.0, 0.0, 16.0, 16.0]]), deltas, (1.0, 1.0))
    torch.testing.assert_close(reached[0, 2:] - reached[0, :2], torch.full((2,), 1000.0))
    reached.sum().backward()
    assert torch.equal(deltas.grad[0, 2:], torch.zeros(2))


def test_boxes_stand_for_the_object_that_they_overlap_most():
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 12.0, 10.0]])
    candidates = torch.tensor([
        [0.0, 0.0, 10.0, 10.0],
        [2.0, 0.0, 12.0, 9.0],
        [0.0, 0.0, 10.0, 4.5],  # IoU 0.45 and 0.33
        [20.0, 20.0, 30.0, 30.0],
    ])  # fmt: skip
    matched = match(candidates, objects, positive=0.7, negative=0.3)
    assert matched.tolist() == [0, 1, IGNORED, NOTHING]
    assert match(candidates, objects, positive=0.5, negative=0.5).tolist() == [0, 1, -1, -1]
    assert match(candidates, objects[:0], positive=0.5, negative=0.5).tolist() == [-1] * 4


def test_the_nearest_boxes_of_an_object_are_rescued_from_an_overlap_on():
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    twice = torch.tensor([[0.0, 0.0, 10.0, 4.0]]).repeat(2, 1)
    farther = torch.tensor([[0.0, 0.0, 10.0, 3.5]])
    candidates = torch.cat([twice, farther])
    matched = match(candidates, objects, positive=0.7, negative=0.3, rescue=0.3)
    assert matched.tolist() == [0, 0, IGNORED]
    matched = match(candidates, objects, positive=0.7, negative=0.5, rescue=0.45)
    assert matched.tolist() == [NOTHING] * 3


def test_samples_hold_few_positives_and_are_filled_with_negatives():
    matched = torch.tensor([0] * 40 + [NOTHING] * 100 + [IGNORED] * 100)
    seed = torch.tensor([7])
    index, taken = sample(matched, seed, Stream.REGIONS, count=64, share=0.25)
    assert taken.all()
    assert (matched[index[:16]] == 0).all()
    assert (matched[index[16:]] == NOTHING).all()
    assert len(index) == len(index.unique()) == 64
    few, taken = sample(matched[30:50], seed, Stream.REGIONS, count=64, share=0.25)
    assert len(few.unique()) == taken.sum() == 20
    none, _ = sample(matched[:0], seed, Stream.REGIONS, count=64, share=0.25)
    assert len(none) == 0


def test_places_of_a_sample_that_are_of_no_use_come_last():
    matched = torch.tensor([0] * 30 + [NOTHING] * 5 + [IGNORED] * 10)
    index, taken = sample(matched, torch.tensor([7]), Stream.REGIONS, count=20, share=0.25)
    assert taken.tolist() == [True] * 10 + [False] * 10
    assert (matched[index[:5]] == 0).all()
    assert (matched[index[5:10]] == NOTHING).all()


def test_samples_are_functions_of_their_seed_and_turn():
    matched = torch.full((1000,), NOTHING)

    def draw(seed: int, stream: int = Stream.REGIONS, turn: int = 0) -> list[int]:
        index, _ = sample(matched, torch.tensor([seed]), stream, count=20, share=0.5, turn=turn)
        return index.tolist()

    torch.manual_seed(1)
    first = draw(3)
    torch.manual_seed(2)
    assert draw(3) == first
    for other in (draw(4), draw(3, turn=1), draw(3, Stream.ANCHORS)):
        assert other != first


def test_the_giou_loss_is_torchvisions_with_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    corner, side = torch.rand(2, 200, 4, generator=generator).chunk(2, dim=-1)
    boxes, targets = torch.cat([corner, corner + side], dim=-1)  # some apart, some overlapping
    boxes[0], targets[1] = targets[0], 0.0  # the same box; a box that is a point
    found, wanted = boxes.clone().requires_grad_(), boxes.clone().requires_grad_()
    losses = giou_loss(found, targets)
    expected = generalized_box_iou_loss(wanted, targets)
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(found.grad, wanted.grad)
