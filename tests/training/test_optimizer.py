"""Parameter groups: layer decay and weight decay."""

import dataclasses

import torch
from torch import nn

from itpn_ray.experiment import OptimConfig
from itpn_ray.training.optimizer import make_optimizer, parameter_groups, set_learning_rate


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))


IDS = {"0.weight": 0, "0.bias": 0, "1.weight": 2, "1.bias": 2}
CONFIG = OptimConfig(
    global_batch=8, epochs=1, warmup_epochs=0, lr=1.0, layer_decay=0.5, weight_decay=0.1
)


def test_groups_scale_by_depth_and_spare_the_undecayed() -> None:
    groups = parameter_groups(network(), IDS, {"0.bias", "1.bias"}, CONFIG)
    found = {tuple(g["names"]): (g["lr_scale"], g["weight_decay"]) for g in groups}
    assert found == {
        ("0.weight",): (0.25, 0.1),
        ("0.bias",): (0.25, 0.0),
        ("1.weight",): (1.0, 0.1),
        ("1.bias",): (1.0, 0.0),
    }


def test_the_trunk_learns_at_a_rate_of_its_own() -> None:
    slow = dataclasses.replace(CONFIG, layer_decay=1.0, backbone_lr_scale=0.1)
    groups = parameter_groups(network(), IDS, set(), slow)
    assert {group["names"][0][0]: group["lr_scale"] for group in groups} == {"0": 0.1, "1": 1.0}


def test_frozen_parameters_are_left_out() -> None:
    net = network()
    net[0].requires_grad_(False)
    names = [name for g in parameter_groups(net, IDS, set(), CONFIG) for name in g["names"]]
    assert names == ["1.bias", "1.weight"]


def test_rate_reaches_each_group_scaled() -> None:
    net = network()
    optimizer = make_optimizer(net, IDS, set(), CONFIG)
    set_learning_rate(optimizer, 0.2)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.05, 0.2]
