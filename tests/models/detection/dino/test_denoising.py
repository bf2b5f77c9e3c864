from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from itpn_ray.models.detection.dino.boxes import corners
from itpn_ray.models.detection.dino.decoder import Selection
from itpn_ray.models.detection.dino.denoising import EMPTY, Copies, make_copies, visibility
from itpn_ray.models.detection.dino.levels import Levels
from itpn_ray.models.detection.dino.losses import Predictions
from tests.models.detection.dinos import config, dino
from tests.models.nets import make_images

CONFIG = config(denoising=8)
LABELS = torch.tensor([[2, 0, -1], [1, -1, -1], [-1, -1, -1]])
BOXES = torch.tensor([0.5, 0.4, 0.2, 0.1]).repeat(3, 3, 1)
SEEDS = torch.tensor([11, 12, 13])


def test_groups_hold_each_object_twice():
    copies = make_copies(BOXES, LABELS, SEEDS, CONFIG)
    # 8 copies: 4 groups of two objects, 8 groups of one.
    assert copies.groups[0].tolist() == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert copies.assigned[0].tolist() == [0, 1, -1, -1] * 4
    assert copies.groups[1].tolist() == [group for group in range(1, 9) for _ in range(2)]
    assert copies.assigned[1].tolist() == [0, -1] * 8
    assert copies.groups[2].tolist() == [EMPTY] * 16
    assert copies.assigned[2].tolist() == [-1] * 16
    # All groups of an image together count as one.
    assert copies.weights.sum(1).tolist() == [4.0, 2.0, 0.0]


def test_objects_beyond_the_number_of_copies_make_one_group():
    labels = torch.zeros(1, 9, dtype=torch.int64)
    copies = make_copies(BOXES[:1, :1].repeat(1, 9, 1), labels, SEEDS[:1], CONFIG)
    assert copies.groups.tolist() == [[1] * 18]


def test_objects_may_stand_anywhere_among_the_places():
    labels = torch.tensor([[-1, 2, -1, 0]])
    boxes = torch.rand(1, 4, 4) / 4 + 0.3
    gaps = make_copies(boxes, labels, SEEDS[:1], CONFIG)
    tight = make_copies(boxes[:, [1, 3]], labels[:, [1, 3]], SEEDS[:1], CONFIG)
    torch.testing.assert_close(gaps.boxes, tight.boxes)
    assert gaps.labels.equal(tight.labels)
    assert gaps.assigned.equal(torch.where(tight.assigned >= 0, 2 * tight.assigned + 1, -1))


def test_a_batch_without_objects_has_no_copies():
    copies = make_copies(BOXES[2:], LABELS[2:], SEEDS[2:], CONFIG)
    assert (copies.groups == EMPTY).all()
    assert (copies.assigned == -1).all()
    assert (copies.weights == 0).all()


def test_near_copies_stay_near_and_far_ones_do_not():
    many = config(denoising=4000)
    copies = make_copies(BOXES[:1], LABELS[:1, :1], SEEDS[:1], many)
    sides = corners(copies.boxes[0])  # far inside the image: nothing is cut
    shift = (sides - corners(BOXES[0, 0])).abs() / torch.tensor([0.1, 0.05, 0.1, 0.05])
    near = copies.assigned[0] >= 0
    assert near.sum() == 4000
    assert 0.99 < shift[near].max() < 1.0
    passed = sides[~near][:, :2] >= sides[~near][:, 2:] - 1e-6  # sides that have passed each other
    kept = ~passed.any(1)
    assert shift[~near][kept].min() + 1e-4 >= 1.0
    assert 1.99 < shift[~near][kept].max() < 2.0
    assert shift[near].mean().sub(0.5).abs() < 0.01
    assert copies.boxes.min() >= 0
    assert copies.boxes.max() <= 1


def test_a_quarter_of_the_classes_is_drawn_anew():
    many = config(denoising=8000, num_classes=4)
    labels = make_copies(BOXES[:1], LABELS[:1, :1], SEEDS[:1], many).labels[0]
    share = torch.bincount(labels, minlength=4) / len(labels)
    expected = torch.tensor([1, 1, 13, 1]) / 16  # a quarter of the drawn ones is the old class
    torch.testing.assert_close(share, expected, atol=0.015, rtol=0)


def test_noise_is_a_function_of_the_seed():
    first, again = (make_copies(BOXES, LABELS, SEEDS, CONFIG) for _ in range(2))
    other = make_copies(BOXES, LABELS, SEEDS + 1, CONFIG)
    assert first.boxes.equal(again.boxes)
    assert not first.boxes[:2].isclose(other.boxes[:2]).any(-1).all()
    halves = first.boxes[0].view(4, 4, 4)  # groups
    assert not halves[0].isclose(halves[1]).any()


def test_copies_do_not_depend_on_the_rest_of_the_batch():
    together = make_copies(BOXES, LABELS, SEEDS, CONFIG)
    fuller = torch.zeros(1, 7, dtype=torch.int64)
    mates = make_copies(
        torch.cat([BOXES[:, :1].repeat(1, 7, 1), torch.rand(1, 7, 4)]),
        torch.cat([torch.nn.functional.pad(LABELS, (0, 4), value=-1), fuller]),
        torch.tensor([*SEEDS.tolist(), 5]),
        config(denoising=70),
    )
    alone = make_copies(BOXES[:1], LABELS[:1], SEEDS[:1], config(denoising=70))
    own = alone.places
    assert own == 140
    assert mates.places == 140
    for name in ("labels", "boxes", "groups", "assigned", "weights"):
        assert getattr(mates, name)[0, :own].equal(getattr(alone, name)[0]), name
    single = make_copies(BOXES[1:2], LABELS[1:2], SEEDS[1:2], CONFIG)
    assert together.boxes[1].equal(single.boxes[0])


def test_visibility_by_definition():
    groups = torch.tensor([[1, 1, 2, EMPTY, 0, 0], [1, 2, EMPTY, EMPTY, 0, EMPTY]])
    seen = visibility(groups)
    assert seen.shape == (2, 1, 6, 6)
    for image in range(2):
        for q in range(6):
            for k in range(6):
                same = bool(groups[image, q] == groups[image, k])
                assert seen[image, 0, q, k] == same
    assert seen.any(-1).all()


class Decoding:
    """One image with two objects before the decoder of a detector whose parts all matter."""

    def __init__(self) -> None:
        torch.set_grad_enabled(False)
        self.net = dino(stirred=True, denoising=6).eval()
        sizes = torch.tensor([[64, 64]])
        self.tokens: Tensor
        self.levels: Levels
        self.tokens, self.levels = self.net.encode(make_images(1, 64), sizes)
        self.selected: Selection = self.net.select(self.tokens, self.levels)
        self.copies: Copies = make_copies(BOXES[:1], LABELS[:1], SEEDS[:1], self.net.config)
        torch.set_grad_enabled(True)

    def moved(
        self, copies: Copies | None = None, selected: Selection | None = None
    ) -> tuple[list[int], bool, bool]:
        """Groups, and whether queries, whose outputs change; and whether all of a query's do."""
        with torch.no_grad():
            before = self._run(self.copies, self.selected)
            after = self._run(copies or self.copies, selected or self.selected)
        difference = torch.maximum(
            (before.logits - after.logits).abs().amax((0, 1, 3)),
            (before.boxes - after.boxes).abs().amax((0, 1, 3)),
        )
        changed = difference > 1e-5
        own, queries = changed[: self.copies.places], changed[self.copies.places :]
        groups = self.copies.groups[0]
        return sorted(set(groups[own].tolist())), bool(queries.any()), bool(queries.all())

    def _run(self, copies: Copies, selected: Selection) -> Predictions:
        return self.net.decode(self.tokens, self.levels, selected, copies)


def test_groups_see_neither_each_other_nor_the_queries():
    made = Decoding()
    groups = made.copies.groups
    assert set(groups[0].tolist()) == {1, 2, 3}
    for group in (1, 2, 3):
        inside = (groups == group).nonzero()[0]  # one copy of the group
        boxes, labels = made.copies.boxes.clone(), made.copies.labels.clone()
        boxes[0, inside[1]] += 0.1
        labels[0, inside[1]] = (labels[0, inside[1]] + 1) % 3
        assert made.moved(replace(made.copies, boxes=boxes)) == ([group], False, False)
        assert made.moved(replace(made.copies, labels=labels)) == ([group], False, False)


def test_all_of_a_group_see_each_other():
    made = Decoding()
    boxes = made.copies.boxes.clone()
    boxes[0, 0] += 0.1
    with torch.no_grad():
        before = made._run(made.copies, made.selected)
        after = made._run(replace(made.copies, boxes=boxes), made.selected)
    assert ((before.logits - after.logits)[:, 0, :4].abs().amax((0, 2)) > 1e-5).all()


def test_queries_see_each_other_and_no_copy_sees_them():
    made = Decoding()
    anchors = made.selected.anchors.clone()
    anchors[0, 3] *= 0.8
    assert made.moved(selected=replace(made.selected, anchors=anchors)) == ([], True, True)
