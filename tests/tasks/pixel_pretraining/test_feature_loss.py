"""Masked feature modelling against the formula of eq. 4, and what its teacher sees."""

import torch
import torch.nn.functional as F

from itpn_ray.models import create_autoencoder
from itpn_ray.tasks.pixel_pretraining.feature_loss import FeatureModelling
from itpn_ray.tasks.pixel_pretraining.masking import random_mask


def parts() -> tuple:
    torch.manual_seed(0)
    network = create_autoencoder("nano", image_size=64, pyramid_width=16, decoder_depth=1)
    features = FeatureModelling(network.trunk, network.trunk.widths, 16, momentum=0.9)
    images = torch.randn(2, 3, 64, 64)
    visible, mask = random_mask(torch.arange(2), seed=0, epoch=0, tokens=16, ratio=0.75)
    return network, features, images, visible, mask


def test_terms_follow_the_formula() -> None:
    network, features, images, visible, mask = parts()
    pyramid = network(images, mask, visible=visible)["pyramid"]
    terms = features(images, visible, pyramid)
    targets = features.teacher.stages(images, visible)
    for stage, stride in enumerate((4, 8, 16), start=1):
        target = F.layer_norm(targets[stage - 1], targets[stage - 1].shape[-1:])
        expected = (features.heads[stage - 1](pyramid[stride]) - target).square().mean()
        torch.testing.assert_close(terms[f"mfm_stage{stage}"], expected)


def test_hidden_patches_do_not_reach_the_teacher() -> None:
    network, features, images, visible, mask = parts()
    pyramid = network(images, mask, visible=visible)["pyramid"]
    changed = images.clone()
    hidden = mask.view(2, 1, 4, 4).repeat_interleave(16, 2).repeat_interleave(16, 3)
    changed[hidden.expand_as(changed)] = 5.0
    before = features(images, visible, pyramid)
    after = features(changed, visible, pyramid)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_gradients_reach_trunk_and_heads_but_not_the_teacher() -> None:
    network, features, images, visible, mask = parts()
    pyramid = network(images, mask, visible=visible)["pyramid"]
    sum(features(images, visible, pyramid).values()).backward()
    assert all(p.grad is None for p in features.teacher.parameters())
    assert all(p.grad is not None for p in features.heads.parameters())
    assert all(p.grad is not None for p in network.trunk.parameters())


def test_the_teacher_follows() -> None:
    network, features, *_ = parts()
    with torch.no_grad():
        for parameter in network.trunk.parameters():
            parameter.add_(1.0)
    before = features.teacher.position.clone()
    features.follow(network.trunk, step=1000)
    torch.testing.assert_close(features.teacher.position, before + 0.1)
