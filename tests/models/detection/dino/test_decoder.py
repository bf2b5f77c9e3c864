from __future__ import annotations

import math

import torch
from torch import Tensor

from itpn_ray.models.detection.dino.boxes import logit
from itpn_ray.models.detection.dino.decoder import Selection
from itpn_ray.models.detection.dino.levels import Levels
from itpn_ray.models.detection.dino.losses import Predictions
from tests.models.detection.dinos import dino
from tests.models.nets import make_images

SIZES = torch.tensor([[64, 64], [64, 40]])
NET = dino(stirred=True)
LAYERS = NET.config.decoder_layers


def encoded() -> tuple[Tensor, Levels, Selection]:
    with torch.no_grad():
        tokens, levels = NET.encode(make_images(2, 64), SIZES)
        return tokens, levels, NET.select(tokens, levels)


def decoded(anchors: Tensor | None = None) -> tuple[Predictions, list[Tensor], Tensor]:
    """Predictions, the steps d[i] of all layers, and the anchors."""
    tokens, levels, selected = encoded()
    anchors = selected.anchors if anchors is None else anchors
    steps: list[Tensor] = []

    def keep(_: object, __: object, step: Tensor) -> None:
        step.retain_grad()
        steps.append(step)

    hook = NET.decoder.box_head.register_forward_hook(keep)
    contents = NET.query_contents.weight.expand(2, -1, -1)
    visible = torch.ones(2, 1, 20, 20, dtype=torch.bool)
    made = NET.decoder(contents, anchors, tokens, levels, visible)
    hook.remove()
    return made, steps, anchors


def test_predictions_by_the_rule():
    made, steps, anchors = decoded()
    assert made.boxes.shape == (LAYERS, 2, 20, 4)
    assert made.logits.shape == (LAYERS, 2, 20, 3)
    before = anchors  # b'[i - 1]
    for layer, step in enumerate(steps):
        moved = (logit(before) + step).sigmoid()  # b'[i], and what layer i is judged by
        torch.testing.assert_close(made.boxes[layer], moved)
        before = moved
    assert (made.boxes[0] - anchors).abs().max() > 0.01
    assert (made.boxes[2] - made.boxes[1]).abs().max() > 0.01


def test_each_step_learns_from_two_layers():
    anchors = encoded()[2].anchors.requires_grad_()
    for judged in range(LAYERS):
        made, steps, _ = decoded(anchors)
        made.boxes[judged].sum().backward()
        boxes = made.boxes[judged].detach()
        for layer, step in enumerate(steps):
            if layer in (judged, judged - 1):
                assert step.grad is not None
                assert (step.grad.abs() > 0).float().mean() > 0.9
            else:  # later steps come after; earlier ones are cut off
                assert step.grad is None or step.grad.abs().max() == 0
        last = steps[judged].grad
        assert last is not None
        # Nothing but the sigmoid lies between a step and its own box.
        torch.testing.assert_close(last, boxes * (1 - boxes))
    assert anchors.grad is None


def test_classes_do_not_move_boxes():
    made, steps, _ = decoded()
    made.logits.sum().backward()
    assert all(step.grad is None or step.grad.abs().max() == 0 for step in steps)


def test_queries_are_the_surest_tokens():
    tokens, levels, selected = encoded()
    select = NET.select
    guesses, allowed = levels.anchors()
    with torch.no_grad():
        hidden = select.norm(select.linear(tokens))
        scores = select.class_head(hidden).amax(-1)
        boxes = (logit(guesses) + select.box_head(hidden)).sigmoid()
    for image in range(2):
        order = sorted(
            allowed[image].nonzero()[:, 0].tolist(),
            key=lambda token: -scores[image, token].item(),
        )[:20]
        torch.testing.assert_close(selected.anchors[image], boxes[image, order])
    assert selected.usable.all()
    torch.testing.assert_close(selected.anchors, selected.predictions.boxes[0])


def test_selection_is_mixed():
    """The decoder's losses reach the encoder's tokens, but not its heads (DINO, 3.4)."""
    tokens, levels = NET.encode(make_images(2, 64), SIZES)
    selected = NET.select(tokens, levels)
    made = NET.decode(tokens, levels, selected)
    heads = list(NET.select.parameters())
    wanted = [*heads, NET.query_contents.weight, tokens]
    grads = torch.autograd.grad(made.boxes.sum() + made.logits.sum(), wanted, allow_unused=True)
    assert all(grad is None for grad in grads[: len(heads)])
    assert all(grad is not None and grad.abs().max() > 0 for grad in grads[len(heads) :])


def test_an_image_with_fewer_tokens_than_queries():
    sizes = torch.tensor([[64, 64], [8, 8]])
    with torch.no_grad():
        tokens, levels = NET.encode(make_images(2, 64), sizes)
        selected = NET.select(tokens, levels)
    allowed = levels.anchors()[1].sum(1).tolist()
    assert allowed[0] > 20 > allowed[1]
    assert selected.usable.sum(1).tolist() == [20, allowed[1]]
    assert selected.anchors.isfinite().all()


def test_at_first_scores_are_low_and_boxes_stay():
    net = dino()
    with torch.no_grad():
        tokens, levels = net.encode(make_images(1, 64), SIZES[:1])
        selected = net.select(tokens, levels)
        made = net.decode(tokens, levels, selected)
    for found in (selected.predictions, made):
        assert 0.003 < found.logits.sigmoid().mean() < 0.03
    torch.testing.assert_close(made.boxes, selected.anchors.expand(3, -1, -1, -1))
    guesses, _ = levels.anchors()
    distance = torch.cdist(selected.anchors, guesses, p=1).amin(-1)
    assert distance.max() < 1e-5


def test_attention_looks_around_at_first():
    net = dino(attention_heads=4)
    attention = net.encoder.layers[0].self_attn
    offsets = attention.sampling_offsets.bias.view(4, 5, 4, 2)  # heads, levels, points, (x, y)
    for head in range(4):
        for point in range(4):
            angle = head * math.pi / 2
            direction = torch.tensor([math.cos(angle), math.sin(angle)])
            wanted = (direction * (point + 1)).expand(5, 2)
            torch.testing.assert_close(offsets[head, :, point], wanted, atol=1e-5, rtol=0)
    assert attention.sampling_offsets.weight.abs().max() == 0
    assert attention.attention_weights.weight.abs().max() == 0


def test_padding_is_not_read():
    def run() -> tuple[Tensor, Levels, Predictions]:
        with torch.no_grad():
            tokens, levels = NET.encode(make_images(2, 64), SIZES)
            return tokens, levels, NET.decode(tokens, levels, NET.select(tokens, levels))

    tokens, levels, made = run()
    hooks = [
        project.register_forward_hook(lambda _, __, out, v=valid: out + 3.0 * ~v[:, None])
        for project, valid in zip(NET.projections, levels.valid, strict=True)
    ]
    others, _, same = run()
    for hook in hooks:
        hook.remove()
    assert not tokens.allclose(others)
    torch.testing.assert_close(tokens[levels.mask], others[levels.mask])
    torch.testing.assert_close(made.boxes, same.boxes)
    torch.testing.assert_close(made.logits, same.logits)
