from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import itpn_ray.models.timm  # noqa: F401  registers the networks
from itpn_ray.errors import ConfigError
from itpn_ray.models import create_model, layer_ids, no_weight_decay, save_model

NANO = "fast_itpn_nano"


ONCE_IMPORTED = """
import sys
finders = list(sys.meta_path)
import itpn_ray.models
from itpn_ray.models.config import SIZES
print("torch" in sys.modules, "timm" in sys.modules, sys.meta_path == finders)
import timm
print(timm.is_model("itpn_base"), timm.is_model("fast_itpn_nano"))
import itpn_ray.models.timm
print(set(SIZES) <= set(timm.list_models()))
"""


def test_timm_knows_the_names_once_they_are_imported_for_it():
    run = subprocess.run(
        [sys.executable, "-c", ONCE_IMPORTED], capture_output=True, text=True, check=True
    )
    alone, before, after = run.stdout.splitlines()
    assert alone == "False False True"  # the networks' names cost neither torch nor timm
    assert before == "False False"
    assert after == "True"


def test_create_model_takes_timms_arguments():
    model = timm.create_model(NANO, num_classes=3, img_size=64, drop_path_rate=0.2)
    assert model.config.trunk.image_size == 64
    assert model.config.trunk.drop_path == 0.2
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert model.pretrained_cfg["classifier"] == "head"


@pytest.mark.parametrize("wrong", [{"in_chans": 1}, {"global_pool": "max"}, {"widht": 3}])
def test_arguments_that_these_networks_lack_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        timm.create_model(NANO, **wrong)


def test_features_only_gives_the_stages_that_are_asked_for():
    torch.manual_seed(0)
    features = timm.create_model(NANO, features_only=True, out_indices=(0, -1)).eval()
    assert features.feature_info.channels() == [32, 128]
    assert features.feature_info.reduction() == [4, 16]
    images = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        fine, coarse = features(images)
        stages = features.model.trunk.stages(images)
    assert fine.shape == (2, 32, 16, 8)
    assert coarse.shape == (2, 128, 4, 2)
    torch.testing.assert_close(coarse.flatten(2).mT, stages[2][:, :, 0, 0])
    # A cell of the fine map: patch (2, 1) is number 5, its row 3 and column 2 lie at (11, 6).
    torch.testing.assert_close(fine[:, :, 11, 6], stages[0][:, 5, 3, 2])


def test_features_can_have_channels_last_and_the_norm():
    model = create_model("nano", num_classes=0)
    images = torch.randn(1, 3, 32, 32)
    plain = model.forward_intermediates(images, 1, intermediates_only=True)
    last = model.forward_intermediates(images, 1, norm=True, output_fmt="NHWC")
    assert last[1][0].shape == (1, 2, 2, 128)
    torch.testing.assert_close(model.norm(plain[0].permute(0, 2, 3, 1)), last[1][0])
    torch.testing.assert_close(last[0], last[1][0].flatten(1, 2))


@pytest.mark.parametrize("wrong", [(3,), (-4, 0), ()])
def test_stages_that_are_not_there_are_refused(wrong):
    with pytest.raises(ConfigError, match="out_indices"):
        timm.create_model(NANO, features_only=True, out_indices=wrong)


def test_reset_classifier_is_part_of_the_model(tmp_path):
    model = create_model("nano", num_classes=4)
    model.reset_classifier(7)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert model.config.num_classes == model.num_classes == 7
    model.reset_classifier(0)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 128)
    with pytest.raises(ConfigError, match="pooling"):
        model.reset_classifier(2, "max")


def test_timm_loads_files_of_this_package(tmp_path):
    torch.manual_seed(1)
    model = create_model("nano", num_classes=3, image_size=64)
    save_model(model, tmp_path / "model.safetensors")
    other = timm.create_model(
        NANO, num_classes=3, img_size=64, checkpoint_path=str(tmp_path / "model.safetensors")
    )
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model.eval()(images), other.eval()(images), rtol=0, atol=0)


@pytest.mark.parametrize("name", [NANO, "itpn_base"])
def test_timms_layer_decay_scales_by_our_layer_ids(name):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=2)
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, no_weight_decay_list=model.no_weight_decay(), layer_decay=0.9
    )
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    ids, top = layer_ids(model), max(layer_ids(model).values())
    spared = no_weight_decay(model)
    seen = set()
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["lr_scale"] == pytest.approx(0.9 ** (top - ids[name]))
            assert group["weight_decay"] == (0 if name in spared else 0.05)
            seen.add(name)
    assert seen == set(ids)


def test_coarse_groups_are_the_stages():
    model = create_model("nano")
    group = model.group_matcher(coarse=True)
    assert group("trunk.embed.weight") == 0
    assert group("trunk.merge1.reduce.weight") == group("trunk.stage1.0.mlp.fc1.weight") == 1
    assert group("trunk.stage3.2.mlp.w3.bias") == 3
    assert group("head.bias") == 4
