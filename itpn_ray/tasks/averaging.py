"""The moving average of weights: teacher of the feature loss, and evaluation model."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def update_average(average: nn.Module, source: nn.Module, momentum: float) -> None:
    """``average <- momentum * average + (1 - momentum) * source``, in place (paper, 3.4).

    Floating-point parameters and buffers are averaged; other buffers are copied.

    Args:
        average: module whose tensors follow; same names and shapes as ``source``.
        source: module being trained.
        momentum: share of the old average that stays, in [0, 1].
    """
    followed = dict(source.state_dict(keep_vars=True))
    # Apart, since sharding spreads parameters over the workers and leaves buffers whole.
    parameters, buffers = [], []
    for name, tensor in average.state_dict(keep_vars=True).items():
        value = followed[name].detach()
        if isinstance(tensor, nn.Parameter):
            parameters.append((tensor, value))
        elif tensor.is_floating_point():
            buffers.append((tensor, value))
        else:
            tensor.copy_(value)
    for pairs in (parameters, buffers):
        if pairs:
            averages, values = zip(*pairs, strict=True)
            torch._foreach_lerp_(averages, values, 1.0 - momentum)
