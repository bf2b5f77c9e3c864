from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import generalized_box_iou_loss

from itpn_ray.errors import DataError
from itpn_ray.models.config import PyramidConfig, find_size
from itpn_ray.models.detection.base import UNKNOWN
from itpn_ray.models.detection.rcnn.config import RcnnConfig
from itpn_ray.models.detection.rcnn.regions import Objects, mask_targets, pool_regions
from itpn_ray.models.detection.rcnn.roi_head import RoiHead
from tests.models.detection.made import CLASSES, alone, objects_of, targets

OBJECT = (10, 12, 50, 52)


def head(stages: int = 1, *, masks: bool = True, regions: int = 512) -> RoiHead:
    """In eval mode, so that no region depends on another; with offsets that matter."""
    torch.manual_seed(0)
    config = RcnnConfig(
        trunk=find_size("nano").trunk,
        pyramid=PyramidConfig(width=8),
        num_classes=CLASSES,
        stages=stages,
        masks=masks,
        fc_width=16,
        regions=regions,
    )
    made = RoiHead(config).eval()
    for box_head in made.boxes:
        torch.nn.init.normal_(box_head.deltas.weight, std=0.3)
        torch.nn.init.normal_(box_head.logits.weight, std=0.3)
    return made


def maps(batch: int = 1, side: int = 64) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        stride: torch.randn(batch, 8, side // stride, side // stride, generator=generator)
        for stride in (4, 8, 16, 32)
    }


def proposals(*overlaps: float) -> Tensor:
    """Boxes whose IoU with `OBJECT` is as asked: parts of it, cut from below."""
    x1, y1, x2, y2 = OBJECT
    boxes = [(x1, y1, x2, y1 + overlap * (y2 - y1)) for overlap in overlaps]
    return torch.tensor(boxes, dtype=torch.float32).view(-1, 4)


def objects() -> list[Objects]:
    return objects_of(targets([[(1, OBJECT)]]))


def test_losses_are_those_of_decoded_boxes_classes_and_masks_of_the_true_class():
    net, features = head(), maps()
    near = proposals(0.9, 0.6, 0.3, 0.1)
    found = net.losses(features, [near], objects(), [(64, 64)], alone)
    boxes = torch.cat([objects()[0].boxes, near])
    true = torch.tensor([1, 1, 1, CLASSES, CLASSES])
    logits, deltas = net.boxes[0](pool_regions(features, [boxes], 7))
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    reached = coder.decode_single(deltas[:3].flatten(1), boxes[:3]).view(3, CLASSES, 4)[:, 1]
    aims = torch.tensor([OBJECT], dtype=torch.float32).expand(3, 4)
    giou = generalized_box_iou_loss(reached, aims, reduction="sum")
    assert giou > 0.1
    torch.testing.assert_close(found["box"], 10 * giou / 5)
    torch.testing.assert_close(found["class"], F.cross_entropy(logits, true))
    inside = net.masks[0](pool_regions(features, [boxes[:3]], 14), true[:3])
    truth = mask_targets(objects()[0].masks.expand(3, -1, -1), aims, boxes[:3], 28)
    assert 0.2 < truth.mean() < 0.95
    expected = F.binary_cross_entropy_with_logits(inside, truth)
    torch.testing.assert_close(found["mask"], expected)


def test_objects_whose_mask_is_not_known_count_in_all_losses_but_that_of_masks():
    net, features = head(), maps()
    both = targets([[(1, OBJECT), (0, (2, 2, 30, 8))]])
    whole = net.losses(features, [proposals(0.9, 0.1)], objects_of(both), [(64, 64)], alone)
    both.masks[0, 1] = UNKNOWN
    found = net.losses(features, [proposals(0.9, 0.1)], objects_of(both), [(64, 64)], alone)
    first = targets([[(1, OBJECT)]])
    lone = net.losses(features, [proposals(0.9, 0.1)], objects_of(first), [(64, 64)], alone)
    torch.testing.assert_close(found["box"], whole["box"])
    torch.testing.assert_close(found["class"], whole["class"])
    torch.testing.assert_close(found["mask"], lone["mask"])
    assert not torch.allclose(found["mask"], whole["mask"])
    both.masks[0] = UNKNOWN
    none = net.losses(features, [proposals(0.9)], objects_of(both), [(64, 64)], alone)
    assert none["mask"] == 0
    none["mask"].backward()
    # Every worker has a gradient for every weight, whatever its images hold.
    assert all(weight.grad is not None for weight in net.masks.parameters())


def test_each_stage_asks_for_more_overlap_and_counts_less():
    net, features = head(3), maps()
    near = proposals(0.55, 0.65, 0.75)
    for stage, positives in enumerate((4, 3, 2)):
        (sampled,) = net._sample([near], objects(), stage)
        assert len(sampled.matched) == positives
        assert sampled.labels.tolist() == [1] * positives + [CLASSES] * (4 - positives)
    found = net.losses(features, [near], objects(), [(64, 64)], alone)
    names = [f"{name}{stage}" for stage in (1, 2, 3) for name in ("class", "box", "mask")]
    assert list(found) == names
    first = _with_stages(net, 1).losses(features, [near], objects(), [(64, 64)], alone)
    torch.testing.assert_close(found["box1"], first["box"])
    sampled = net._sample([near], objects(), 0)
    (moved,) = net._refine_sampled(sampled, *_outputs(net, features, near), [(64, 64)], 0)
    (again,) = net._sample([moved], objects(), 1)
    logits, _ = net.boxes[1](pool_regions(features, [again.boxes], 7))
    torch.testing.assert_close(found["class2"], 0.5 * F.cross_entropy(logits, again.labels))


def _with_stages(net: RoiHead, stages: int) -> RoiHead:
    """The same first stages alone."""
    fewer = head(stages)
    fewer.load_state_dict(
        {name: tensor for name, tensor in net.state_dict().items() if name in fewer.state_dict()}
    )
    return fewer


def _outputs(net: RoiHead, features: dict[int, Tensor], near: Tensor) -> tuple[Tensor, Tensor]:
    boxes = net._sample([near], objects(), 0)[0].boxes
    logits, deltas = net.boxes[0](pool_regions(features, [boxes], 7))
    return logits.detach(), deltas.detach()


def test_later_stages_start_where_the_true_class_leads_without_the_objects_own_boxes():
    net, features = head(3), maps()
    near = proposals(0.9, 0.2)
    (sampled,) = net._sample([near], objects(), 0)
    assert sampled.given.sum() == 1
    logits, deltas = _outputs(net, features, near)
    (moved,) = net._refine_sampled([sampled], logits, deltas, [(64, 64)], 0)
    kept = ~sampled.given
    guess = torch.where(sampled.labels == 1, 1, logits[:, :-1].argmax(1))[kept]
    coder = BoxCoder((10.0, 10.0, 5.0, 5.0))
    reached = coder.decode_single(deltas[kept].flatten(1), sampled.boxes[kept]).view(2, CLASSES, 4)
    expected = reached[torch.arange(2), guess].clamp(0, 64)
    torch.testing.assert_close(moved, expected)


def test_samples_hold_a_quarter_of_positives_at_most():
    net = head(regions=8)
    many = proposals(*[0.9] * 20, *[0.1] * 20)
    (sampled,) = net._sample([many], objects(), 0)
    assert len(sampled.matched) == 2
    assert len(sampled.boxes) == 8


def test_normalisers_are_averaged_over_workers():
    net, near = head(3), proposals(0.9, 0.6, 0.3)
    one = net.losses(maps(), [near], objects(), [(64, 64)], alone)
    two = net.losses(maps(), [near], objects(), [(64, 64)], lambda norm: 2 * norm)
    for name in one:
        torch.testing.assert_close(2 * two[name], one[name])


def test_masks_are_needed_where_there_are_mask_heads():
    real = objects()[0]
    bare = Objects(boxes=real.boxes, labels=real.labels, masks=None, seed=real.seed)
    with pytest.raises(DataError, match="masks"):
        head().losses(maps(), [proposals(0.9)], [bare], [(64, 64)], alone)
    losses = head(masks=False).losses(maps(), [proposals(0.9)], [bare], [(64, 64)], alone)
    assert set(losses) == {"class", "box"}


def say(net: RoiHead, stage: int, logits: list[float], deltas: list[list[float]]) -> None:
    """Let a stage answer the same everywhere."""
    for layer, values in ((net.boxes[stage].logits, logits), (net.boxes[stage].deltas, deltas)):
        torch.nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor(values).flatten())


def test_a_cascade_moves_boxes_thrice_and_averages_its_logits():
    net = head(3)
    still = [0.0] * 4
    say(net, 0, [1.0, 0.0, -9.0, 0.0], [[1.0, 0, 0, 0], still, still])  # + 0.1 of the width
    say(net, 1, [0.0, 4.0, -9.0, 0.0], [still, [4.0, 0, 0, 0], still])  # + 0.2
    say(net, 2, [0.0, 2.0, -9.0, 0.0], [still, [9.0, 0, 0, 0], still])  # + 0.3
    (found,) = net.detect(maps(), [torch.tensor([[0.0, 10.0, 20.0, 40.0]])], [(64, 64)])
    scores = torch.tensor([1 / 3, 2.0, -9.0, 0.0]).softmax(0)
    assert found.labels.tolist() == [1, 0]
    torch.testing.assert_close(found.scores, scores[[1, 0]])
    torch.testing.assert_close(found.boxes[0], torch.tensor([12.0, 10.0, 32.0, 40.0]))
    torch.testing.assert_close(found.boxes[1], torch.tensor([6.0, 10.0, 26.0, 40.0]))


def test_repeated_boxes_count_once_a_class_and_unsure_ones_not_at_all():
    net = head(masks=False)
    say(net, 0, [2.0, 1.0, -2.0, 0.0], [[0.0] * 4] * 3)
    boxes = torch.tensor([[5.0, 5.0, 30.0, 30.0], [6.0, 5.0, 30.0, 30.0], [35.0, 35.0, 60.0, 60.0]])
    (found,) = net.detect(maps(), [boxes], [(64, 64)])
    assert sorted(found.labels.tolist()) == [0, 0, 1, 1]
    assert found.masks is None
    assert (found.scores.sort(descending=True).values == found.scores).all()


def test_detections_are_cut_at_the_image_and_limited():
    net = head()
    say(net, 0, [1.0, 1.0, 1.0, 0.0], [[3.0, 3.0, 0.0, 0.0]] * 3)
    corner = torch.rand(200, 2, generator=torch.Generator().manual_seed(0)) * 40
    boxes = torch.cat([corner, corner + 6], dim=1)
    few, many = net.detect(maps(2), [boxes[:0], boxes], [(64, 64), (40, 32)])
    assert few.boxes.shape == (0, 4)
    assert few.masks.shape == (0, 28, 28)
    assert many.boxes.shape == (100, 4)
    assert many.masks.shape == (100, 28, 28)
    assert ((many.masks > 0) & (many.masks < 1)).all()
    assert (many.boxes >= 0).all()
    assert (many.boxes[:, [1, 3]] <= 40).all()
    assert (many.boxes[:, [0, 2]] <= 32).all()


def test_masks_are_those_of_the_found_class_averaged_over_stages():
    net = head(3)
    for stage in range(3):
        say(net, stage, [3.0, -9.0, -9.0, 0.0], [[0.0] * 4] * 3)
        layer = net.masks[stage].predictor.mask_fcn_logits
        torch.nn.init.zeros_(layer.weight)
        with torch.no_grad():
            layer.bias.copy_(torch.tensor([float(stage), 9.0, 9.0]))
    (found,) = net.detect(maps(), [torch.tensor([[5.0, 5.0, 30.0, 30.0]])], [(64, 64)])
    expected = torch.tensor([0.0, 1.0, 2.0]).sigmoid().mean()
    torch.testing.assert_close(found.masks, expected.expand(1, 28, 28))
