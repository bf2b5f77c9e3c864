"""AdamW or Muon with layer decay: parameters grouped by depth and by whether they decay."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Any

import torch
from timm.optim import Muon
from torch import nn

from itpn_ray.experiment import OptimConfig


def parameter_groups(
    network: nn.Module, layer_ids: Mapping[str, int], no_weight_decay: Set[str], config: OptimConfig
) -> list[dict[str, Any]]:
    """Groups of trainable parameters that share learning-rate scale and weight decay.

    A parameter of depth i among depths 0..top learns at ``layer_decay ** (top - i)`` times the
    rate, and ``backbone_lr_scale`` times that where i < top. ``no_weight_decay`` names those
    without weight decay.

    Returns:
        Dicts for the optimiser with ``params``, ``names``, ``decays``, ``weight_decay`` and
        ``lr_scale``, in an order that depends on the names alone.
    """
    top = max(layer_ids.values())
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    # By name: a checkpoint's optimiser state goes by the order of the groups.
    for name, parameter in sorted(network.named_parameters()):
        if not parameter.requires_grad:
            continue
        decays = name not in no_weight_decay
        depth = layer_ids[name]
        group = groups.setdefault(
            (depth, decays),
            {
                "params": [],
                "names": [],
                "decays": decays,
                "weight_decay": config.weight_decay if decays else 0.0,
                # The top keeps the full rate, and each layer below it a factor less.
                "lr_scale": config.layer_decay ** (top - depth)
                * (config.backbone_lr_scale if depth < top else 1.0),
            },
        )
        group["params"].append(parameter)
        group["names"].append(name)
    return [groups[key] for key in sorted(groups)]


def make_optimizer(
    network: nn.Module, layer_ids: Mapping[str, int], no_weight_decay: Set[str], config: OptimConfig
) -> torch.optim.Optimizer:
    """Fused AdamW, or Muon, over :func:`parameter_groups`.

    Muon moves the matrices that decay; vectors, position tables and tokens are AdamW's. Its update
    has the root mean square of AdamW's (Liu et al., "Muon is scalable for LLM training", 2025).
    """
    described = parameter_groups(network, layer_ids, no_weight_decay, config)
    groups = [
        {key: value for key, value in group.items() if key not in ("names", "decays")}
        for group in described
    ]
    betas = (config.beta1, config.beta2)
    if config.optimizer == "muon":
        for group, about in zip(groups, described, strict=True):
            # Vectors and tokens are no matrices that could be orthogonalised: AdamW takes them.
            group["use_fallback"] = not about["decays"]
        return Muon(groups, lr=config.lr, betas=betas)
    return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its scaled share of the rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]
