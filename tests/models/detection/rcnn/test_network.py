from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou, roi_align

from itpn_ray.errors import ConfigError
from itpn_ray.models import (
    Rcnn,
    create_autoencoder,
    create_rcnn,
    layer_ids,
    load_model,
    load_weights,
    no_weight_decay,
    save_model,
)
from itpn_ray.models.detection.base import Detections
from itpn_ray.models.layers.sync_norm import SyncBatchNorm
from tests.models.detection.made import (
    CLASSES,
    Shape,
    alike,
    alone,
    full_mask,
    images,
    rcnn,
    sizes,
    targets,
)
from tests.models.learning import train_until

IMAGES: list[list[Shape]] = [
    [(0, (6, 8, 40, 36)), (1, (28, 30, 62, 60))],
    [(1, (10, 14, 50, 46))],
]
NAMES = ("class", "box", "mask")


def total(model: Rcnn, source_images: list[list[Shape]], seeds: list[int] | None = None) -> Tensor:
    losses = model.losses(
        images(source_images), sizes(len(source_images)), targets(source_images, seeds), alone
    )
    return torch.stack(list(losses.values())).sum()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("stages", [1, 3])
def test_losses_and_detections_have_their_names_and_shapes(stages, masks):
    model = rcnn(stages=stages, masks=masks, drop_path=0.1).train()
    losses = model.losses(images(IMAGES), sizes(2), targets(IMAGES), alone)
    names = NAMES if masks else NAMES[:2]
    suffixes = ("1", "2", "3") if stages == 3 else ("",)
    assert set(losses) == {"rpn_class", "rpn_box", *(n + s for n in names for s in suffixes)}
    assert all(loss.shape == () and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    found = model.eval().detect(images(IMAGES), sizes(2, 50, 60))
    assert len(found) == 2
    for part in found:
        count = len(part.scores)
        assert 0 < count <= 100
        assert part.boxes.shape == (count, 4)
        assert part.labels.dtype == torch.int64
        assert part.labels.max() < CLASSES
        assert (part.masks.shape == (count, 28, 28)) if masks else part.masks is None
        assert (part.boxes <= torch.tensor([60, 50, 60, 50])).all()
        assert (part.boxes >= 0).all()


@pytest.mark.parametrize("images", [[[], IMAGES[1]], [[], []]])
@pytest.mark.parametrize("stages", [1, 3])
def test_images_without_objects_cost_and_teach(images, stages):
    model = rcnn(stages=stages).train()
    loss = total(model, images)
    assert loss.isfinite()
    loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.rounding
def test_an_image_s_losses_do_not_depend_on_its_neighbours():
    model = rcnn(regions=12).train()
    for module in model.modules():
        if isinstance(module, SyncBatchNorm):
            module.eval()
    norms: list[Tensor] = []

    def mean(norm: Tensor) -> Tensor:
        norms.append(norm)
        return norm

    def sums(source_images: list[list[Shape]], drawn: Tensor, seeds: list[int]) -> list[Tensor]:
        """The five losses before they are divided."""
        norms.clear()
        losses = model.losses(drawn, sizes(len(source_images)), targets(source_images, seeds), mean)
        order = [norms[0], norms[0], norms[1], norms[1], norms[2]]
        values = [losses[name] for name in ("rpn_class", "rpn_box", *NAMES)]
        return [value * norm for value, norm in zip(values, order, strict=True)]

    drawn = images(IMAGES)
    both = sums(IMAGES, drawn, [5, 6])
    first = sums(IMAGES[:1], drawn[:1], [5])
    second = sums(IMAGES[1:], drawn[1:], [6])
    assert norms[1] == 12  # fewer than there are, so that the draw matters
    for joint, one, other in zip(both, first, second, strict=True):
        torch.testing.assert_close(joint, one + other, rtol=1e-4, atol=1e-5)


def test_every_draw_is_a_function_of_the_seeds():
    model = rcnn(regions=12, drop_path=0.5).train()
    torch.manual_seed(1)
    first = total(model, IMAGES, [5, 6])
    torch.manual_seed(2)
    assert total(model, IMAGES, [5, 6]) == first
    assert total(model, IMAGES, [5, 7]) != first


@pytest.mark.rounding
def test_an_image_is_detected_alike_alone_and_in_a_batch():
    model = rcnn().eval()
    drawn = images(IMAGES)
    both = model.detect(drawn, sizes(2))
    for i in range(2):
        (lone,) = model.detect(drawn[i : i + 1], sizes(1))
        assert len(lone.scores) > 50
        assert alike(both[i], lone)
    assert not alike(both[0], both[1])


@pytest.mark.parametrize("stages", [1, 3])
def test_gradients_do_not_explode(stages):
    model = rcnn(stages=stages).train()
    total(model, IMAGES).backward()
    gradients = [parameter.grad for parameter in model.parameters()]
    assert 0.1 < torch.nn.utils.get_total_norm(gradients) < 50
    with torch.no_grad():
        for head in model.roi.boxes:
            head.deltas.bias.fill_(1e4)
        model.rpn.head.bbox_pred.bias.fill_(1e4)
    model.zero_grad()
    total(model, IMAGES).backward()
    assert torch.nn.utils.get_total_norm(gradients).isfinite()


def test_bf16_is_enough_for_the_networks_and_boxes_stay_float():
    model = rcnn(stages=3).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model.losses(images(IMAGES), sizes(2), targets(IMAGES), alone)
        found = model.eval().detect(images(IMAGES), sizes(2))
    assert {loss.dtype for loss in losses.values()} == {torch.float32}
    assert all(loss.isfinite() for loss in losses.values())
    assert {part.boxes.dtype for part in found} == {torch.float32}


def test_trunk_and_pyramid_come_from_pre_training_and_only_the_head_is_new(tmp_path):
    source = create_autoencoder("nano", image_size=32, pyramid_width=32, pyramid_depth=1)
    save_model(source, tmp_path / "pixel.safetensors")
    model = rcnn()
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_weights(model, tmp_path / "pixel.safetensors")
    state, given = model.state_dict(), source.state_dict()
    shared = [name for name in given if name.startswith(("trunk.", "pyramid."))]
    assert report.fraction == 1
    assert sorted(report.loaded) == sorted(f"trunk.{name}" for name in shared)
    assert report.resized == ("trunk.trunk.position",)
    for name in shared:
        if name != "trunk.position":
            assert torch.equal(state[f"trunk.{name}"], given[name])
    assert set(report.missing) == {name for name in state if name.startswith(("rpn.", "roi."))}
    for name in report.missing:
        assert torch.equal(state[name], fresh[name])
    assert "mask_token" in report.unexpected


def test_a_deeper_pyramid_gives_its_first_blocks_and_the_rest_is_told():
    source = create_autoencoder("nano", image_size=64, pyramid_width=32)  # depth 2
    model = rcnn()
    report = load_weights(model, source.state_dict())
    assert report.fraction == 1
    assert "trunk.pyramid.blocks2.0.mlp.fc1.weight" in report.loaded
    assert "pyramid.blocks2.1.mlp.fc1.weight" in report.unexpected
    deep = load_weights(rcnn(pyramid_depth=2), source.state_dict())
    assert not any(name.startswith("pyramid.") for name in deep.unexpected)


def test_the_pyramid_can_be_left_new():
    source = create_autoencoder("nano", image_size=64, pyramid_width=32, pyramid_depth=1)
    model = rcnn()
    before = model.trunk.pyramid.out1.mlp.fc1.weight.clone()
    report = load_weights(model, source.state_dict(), pyramid=False)
    assert report.fraction == 1
    assert torch.equal(model.trunk.pyramid.out1.mlp.fc1.weight, before)
    assert "trunk.pyramid.out1.mlp.fc1.weight" in report.missing
    assert torch.equal(model.body.embed.weight, source.trunk.embed.weight)


def test_a_detector_of_other_classes_gives_all_but_the_class_layers():
    source, target = rcnn(num_classes=5, stages=3), rcnn(stages=3)
    report = load_weights(target, source.state_dict())
    layers = ("logits", "deltas")
    expected = {
        f"roi.boxes.{i}.{x}.{y}" for i in range(3) for x in layers for y in ("weight", "bias")
    }
    expected |= {
        f"roi.masks.{i}.predictor.mask_fcn_logits.{y}" for i in range(3) for y in ("weight", "bias")
    }
    assert set(report.mismatched) == set(report.missing) == expected
    assert report.unexpected == ()
    assert torch.equal(target.rpn.head.cls_logits.weight, source.rpn.head.cls_logits.weight)


def test_a_detector_s_trunk_can_be_taken_out_again():
    source = rcnn()
    target = create_autoencoder("nano", image_size=64, pyramid_width=32, pyramid_depth=1)
    report = load_weights(target, source.state_dict(), partial=True)
    assert torch.equal(target.trunk.embed.weight, source.body.embed.weight)
    assert "pyramid.out1.mlp.fc1.weight" in report.loaded


def test_a_file_is_enough_to_have_the_detector_again(tmp_path):
    model = rcnn(stages=3, drop_path=0.2).train()
    model.set_migration(0.25)
    model.losses(images(IMAGES), sizes(2), targets(IMAGES), alone)  # moves the statistics
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert isinstance(again, Rcnn)
    assert again.config == model.config
    assert again.acceleration.ratio == again.body.acceleration.ratio == 0.25
    found, expected = (x.eval().detect(images(IMAGES), sizes(2)) for x in (again, model))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.masks, other.masks)


def test_layers_decay_as_the_authors_detection_does():
    with torch.device("meta"):
        model = create_rcnn("base", num_classes=80, stages=3)
    ids = layer_ids(model)
    assert ids["trunk.trunk.embed.weight"] == ids["trunk.trunk.position"] == 0
    assert (
        ids["trunk.trunk.stage2.2.mlp.fc1.weight"] == ids["trunk.trunk.merge2.reduce.weight"] == 0
    )
    assert ids["trunk.trunk.stage3.0.norm1.weight"] == 1
    assert ids["trunk.trunk.stage3.23.norm1.weight"] == 24
    for name in ("trunk.pyramid.lateral1.weight", "rpn.head.bbox_pred.bias"):
        assert ids[name] == 31
    assert ids["roi.boxes.2.logits.weight"] == ids["roi.masks.0.predictor.conv5_mask.weight"] == 31
    assert set(ids) == {name for name, _ in model.named_parameters()}
    spared = no_weight_decay(model)
    assert "trunk.trunk.position" in spared
    assert "roi.boxes.0.body.0.1.weight" in spared
    assert "roi.boxes.0.logits.weight" not in spared


def test_the_published_size_has_the_authors_widths():
    with torch.device("meta"):
        model = create_rcnn("base", num_classes=80)
    assert model.trunk.strides == (4, 8, 16, 32, 64)
    assert set(model.trunk.channels.values()) == {256}
    assert model.config.dense.pool == "avg"
    convolution = 256 * 256 * 9
    proposals = convolution + 256 + 256 * 3 + 3 + 256 * 12 + 12
    box = 4 * (convolution + 2 * 256) + 256 * 49 * 1024 + 1024 + 1024 * 81 + 81 + 1024 * 320 + 320
    mask = 4 * (convolution + 256) + 256 * 256 * 4 + 256 + 256 * 80 + 80
    head = sum(p.numel() for n, p in model.named_parameters() if n.startswith(("rpn.", "roi.")))
    assert head == proposals + box + mask


@pytest.mark.parametrize("change", [{"stages": 2}, {"regions": 0}, {"num_classes": 0}])
def test_values_that_do_not_fit_are_named(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        rcnn(**change)


def finds(found: Detections, shape: Shape, objects: int) -> bool:
    """Whether the shape is among the surest detections: its box, class and mask."""
    overlap = box_iou(torch.tensor([shape[1]]).float(), found.boxes[:objects])[0]
    if not len(overlap):
        return False
    best = int(overlap.argmax())
    own = found.boxes[best : best + 1]
    seen = roi_align(full_mask(shape, 64, 64)[None, None], [own], 28, aligned=True)[0, 0]
    return bool(
        overlap[best] > 0.7
        and found.labels[best] == shape[0]
        and found.scores[best] > 0.5
        and ((found.masks[best] > 0.5) == (seen > 0.5)).float().mean() > 0.9
    )


@pytest.mark.rounding
@pytest.mark.parametrize("stages", [1, 3])
def test_two_images_are_learned(stages):
    model = rcnn(stages=stages, pyramid_width=64, fc_width=128, regions=32 // stages).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    drawn, size = images(IMAGES), sizes(2)

    def losses(step: int) -> dict[str, Tensor]:
        return model.losses(drawn, size, targets(IMAGES, [2 * step, 2 * step + 1]), alone)

    def step(number: int) -> None:
        torch.stack(list(losses(number).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    first = {name: loss.item() for name, loss in losses(0).items()}
    # The other losses grow with the share of regions that lie on an object.
    falling = ["rpn_class", "rpn_box", *(name for name in first if name.startswith("mask"))]

    @torch.no_grad()
    def learned() -> bool:
        found = model.eval().detect(drawn, size)
        model.train()
        last = losses(0)
        return all(last[name] < 0.5 * first[name] for name in falling) and all(
            finds(detections, shape, len(shapes))
            for shapes, detections in zip(IMAGES, found, strict=True)
            for shape in shapes
        )

    train_until(learned, step, most=150)
