"""What timm asks of every model in its own tests, of those that are registered with it."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import timm
import torch
from timm.models import FeatureInfo, get_pretrained_cfg
from torch import Tensor, nn

import itpn_ray.models.timm  # noqa: F401  registers the networks
from itpn_ray.errors import ConfigError
from itpn_ray.models.config import SIZES

NANO = "fast_itpn_nano"
SMALL = {"img_size": 32, "num_classes": 5}


@pytest.fixture
def model() -> Any:
    torch.manual_seed(0)
    return timm.create_model(NANO, **SMALL).eval()


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(images).square().sum().backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


@pytest.mark.parametrize("name", SIZES)
def test_default_config_names_what_is_there(name: str) -> None:
    config = get_pretrained_cfg(name)
    assert config is not None
    with torch.device("meta"):
        model = timm.create_model(name)
        assert model(torch.empty(1, *config.input_size)).shape == (1, config.num_classes)
    names = model.state_dict().keys()
    assert {f"{config.first_conv}.weight", f"{config.classifier}.weight"} <= names
    assert model.get_classifier() is model.get_submodule(config.classifier)
    assert model.get_classifier().in_features == model.num_features == model.head_hidden_size
    with torch.device("meta"):
        headless = timm.create_model(name, num_classes=0)
    assert f"{config.classifier}.weight" not in headless.state_dict()


def test_features_then_head_are_the_model(model: Any, images: Tensor) -> None:
    features = model.forward_features(images)
    assert features.shape == (2, 4, model.num_features)
    assert torch.equal(model.forward_head(features), model(images))
    pooled = model.forward_head(features, pre_logits=True)
    assert pooled.shape == (2, model.num_features)
    assert torch.equal(model.head(pooled), model(images))


def test_every_weight_gets_a_gradient_and_checkpointing_changes_none(
    model: Any, images: Tensor
) -> None:
    model.train()
    nn.init.normal_(model.head.weight)  # so small at first that gradients would be lost
    plain = gradients(model, images)
    model.set_grad_checkpointing()
    kept = gradients(model, images)
    assert all(torch.equal(plain[name], kept[name]) for name in plain)
    model.set_grad_checkpointing(False)
    assert not model.trunk.checkpointing


def test_reset_classifier(model: Any, images: Tensor) -> None:
    features = model.forward_features(images)
    model.reset_classifier(0)
    assert torch.equal(model(images), model.forward_head(features, pre_logits=True))
    model.reset_classifier(0, "avg")
    model.reset_classifier(3)
    assert model(images).shape == (2, 3)
    for pooling in ("", "max"):
        with pytest.raises(ConfigError, match="global_pool"):
            model.reset_classifier(3, pooling)


def test_copies_and_pickles_compute_the_same(model: Any, images: Tensor) -> None:
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(images), model(images))
        assert other.pretrained_cfg == model.pretrained_cfg


def test_intermediates_are_those_that_features_only_gives(model: Any, images: Tensor) -> None:
    info = FeatureInfo(model.feature_info, out_indices=(0, 1, 2))
    last, maps = model.forward_intermediates(images)
    assert torch.equal(last, model.forward_features(images))
    assert [features.shape[1] for features in maps] == info.channels()
    assert [32 // features.shape[-1] for features in maps] == info.reduction()
    torch.manual_seed(0)
    backbone = timm.create_model(NANO, features_only=True, **SMALL).eval()
    assert all(map(torch.equal, backbone(images), maps))
    only = model.forward_intermediates(images, indices=[-1, 0], intermediates_only=True)
    assert all(map(torch.equal, only, (maps[2], maps[0])))


@pytest.mark.parametrize("out_indices", [(0,), (2, 1), (-1, -3), 2])
def test_out_indices(out_indices: Any, images: Tensor) -> None:
    backbone = timm.create_model(NANO, features_only=True, out_indices=out_indices, **SMALL)
    channels, reduction = backbone.feature_info.channels(), backbone.feature_info.reduction()
    for features, width, stride in zip(backbone(images), channels, reduction, strict=True):
        assert features.shape == (2, width, 32 // stride, 32 // stride)


def test_pruned_models_still_give_their_intermediates(model: Any, images: Tensor) -> None:
    whole = model.forward_intermediates(images, indices=2, intermediates_only=True)
    assert model.prune_intermediate_layers(2, prune_norm=True) == [1, 2]
    pruned = model.forward_intermediates(images, indices=2, intermediates_only=True)
    assert all(map(torch.equal, pruned, whole))
    assert isinstance(model.get_classifier(), nn.Identity)


def test_torch_export_takes_it(model: Any, images: Tensor) -> None:
    program = torch.export.export(model, (images,))
    torch.testing.assert_close(program.module()(images), model(images))
