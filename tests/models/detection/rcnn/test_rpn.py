from __future__ import annotations

import math

import torch
from torch import Tensor
from torchvision.ops import box_iou

from itpn_ray.models.detection.boxes import encode
from itpn_ray.models.detection.rcnn.rpn import Candidates, ProposalNetwork, proposal_losses
from tests.models.detection.made import alone, objects_of, targets

STRIDES = (4, 8, 16, 32, 64)


def network(proposals: int = 100) -> ProposalNetwork:
    torch.manual_seed(0)
    net = ProposalNetwork(8, STRIDES, proposals)
    for layer in (net.head.cls_logits, net.head.bbox_pred):
        torch.nn.init.normal_(layer.weight, std=0.3)
    return net


def maps(height: int, width: int, batch: int = 1) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(height * 1000 + width)
    return {s: torch.randn(batch, 8, height // s, width // s, generator=generator) for s in STRIDES}


def test_anchors_are_three_shapes_of_eight_strides_at_every_cell():
    (found,) = network()(maps(128, 192), [(128, 192)])
    assert found.counts == tuple(3 * (128 // s) * (192 // s) for s in STRIDES)
    assert len(found.anchors) == len(found.logits) == len(found.deltas) == sum(found.counts)
    for stride, anchors in zip(STRIDES, found.anchors.split(found.counts), strict=True):
        sides = anchors[:3, 2:] - anchors[:3, :2]
        torch.testing.assert_close(
            sides.prod(1).sqrt(), torch.full((3,), 8.0 * stride), rtol=0.05, atol=0
        )
        ratios = sides[:, 1] / sides[:, 0]
        torch.testing.assert_close(ratios, torch.tensor([0.5, 1.0, 2.0]), rtol=0.05, atol=0)
        centres = (anchors[1::3, :2] + anchors[1::3, 2:]) / 2
        assert centres[0].tolist() == [0, 0]
        assert centres[1].tolist() == [stride, 0]
        assert centres[192 // stride].tolist() == [0, stride]


def test_answers_stay_with_their_anchors():
    net = network()
    given = maps(64, 96)
    (found,) = net(given, [(64, 96)])
    logits, deltas = net.head([given[8]])
    row, column, shape = 5, 7, 2
    index = found.counts[0] + (row * 12 + column) * 3 + shape
    assert found.logits[index] == logits[0][0, shape, row, column]
    assert torch.equal(found.deltas[index], deltas[0][0, 4 * shape : 4 * shape + 4, row, column])


def test_padding_of_a_batch_has_no_anchors_and_changes_no_draw():
    net = network()
    small = maps(96, 64)
    padded = {}
    for stride, part in small.items():
        padded[stride] = torch.zeros(2, 8, 160 // stride, 128 // stride)
        padded[stride][0, :, : part.shape[2], : part.shape[3]] = part[0]
    (one,) = net(small, [(90, 60)])
    two = net(padded, [(90, 60), (160, 128)])
    assert one.counts == two[0].counts
    for name in ("anchors", "logits", "deltas"):
        torch.testing.assert_close(getattr(one, name), getattr(two[0], name))
    objects = objects_of(targets([[(0, (5, 5, 45, 40))], [(1, (60, 60, 120, 150))]], [11, 5]))
    norms: list[Tensor] = []

    def mean(norm: Tensor) -> Tensor:
        norms.append(norm)
        return norm

    single = [proposal_losses([two[i]], [objects[i]], mean) for i in range(2)]
    lone = proposal_losses([one], objects[:1], mean)
    both = proposal_losses(two, objects, mean)
    for name in both:
        torch.testing.assert_close(lone[name], single[0][name])
        total = single[0][name] * norms[0] + single[1][name] * norms[1]
        torch.testing.assert_close(both[name] * norms[3], total)


def exact(box: tuple[int, int, int, int]) -> Candidates:
    """Candidates sure of the anchors that overlap the box enough, and pointing at it."""
    (found,) = network()(maps(64, 64), [(64, 64)])
    target = torch.tensor([box], dtype=torch.float32)
    iou = box_iou(found.anchors, target)[:, 0]
    sure = (iou >= 0.7) | (iou == iou.max())
    deltas = encode(found.anchors, target.expand(len(sure), 4), (1.0, 1.0))
    return Candidates(
        anchors=found.anchors,
        logits=torch.where(sure, 20.0, -20.0),
        deltas=deltas.requires_grad_(),
        counts=found.counts,
    )


def test_the_right_answers_cost_nothing_and_propose_the_object():
    box = (10, 12, 44, 45)
    right = exact(box)
    objects = objects_of(targets([[(0, box)]]))
    losses = proposal_losses([right], objects, alone)
    assert max(losses.values()) < 1e-5
    found = network().propose(right, (64, 64))
    torch.testing.assert_close(found[0], torch.tensor(box, dtype=torch.float32))
    assert not found.requires_grad


def test_box_loss_is_the_l1_distance_of_matched_anchors_over_all_sampled():
    box = (10, 12, 44, 45)
    right = exact(box)
    wrong = Candidates(
        anchors=right.anchors,
        logits=right.logits,
        deltas=right.deltas + torch.tensor([0.1, -0.2, 0.3, 0.0]),
        counts=right.counts,
    )
    losses = proposal_losses([wrong], objects_of(targets([[(0, box)]])), alone)
    positives = int((right.logits > 0).sum())
    assert positives < 128
    torch.testing.assert_close(losses["rpn_box"], torch.tensor(0.6 * positives / 256))


def test_normalisers_are_averaged_over_workers():
    right = exact((10, 12, 44, 45))
    objects = objects_of(targets([[(0, (8, 8, 50, 50))]]))
    one = proposal_losses([right], objects, alone)
    two = proposal_losses([right], objects, lambda norm: norm * 2)
    for name in one:
        torch.testing.assert_close(two[name] * 2, one[name])


def test_proposals_lie_in_the_image_and_are_limited():
    net = network(proposals=20)
    (found,) = net(maps(64, 96), [(50, 70)])
    proposals = net.propose(found, (50, 70))
    assert proposals.shape == (20, 4)
    assert (proposals >= 0).all()
    assert (proposals[:, 2] <= 70).all()
    assert (proposals[:, 3] <= 50).all()
    assert (proposals[:, 2:] > proposals[:, :2]).all()


def test_boxes_outside_the_image_are_left_out_and_change_no_others():
    net = network(proposals=4000)
    (found,) = net(maps(64, 96), [(64, 96)])
    away = found.anchors[:, 0] < 8
    deltas = found.deltas.detach().clone()
    deltas[away, 0] = -50.0
    moved = Candidates(
        anchors=found.anchors, logits=found.logits, deltas=deltas, counts=found.counts
    )
    hidden = Candidates(
        anchors=found.anchors,
        logits=found.logits.masked_fill(away, -math.inf),
        deltas=found.deltas,
        counts=found.counts,
    )
    assert away.any()
    proposals = net.propose(moved, (64, 96))
    assert (proposals[:, 2:] > proposals[:, :2]).all()
    others = net.propose(hidden, (64, 96))[: len(proposals)]
    torch.testing.assert_close(proposals, others)
