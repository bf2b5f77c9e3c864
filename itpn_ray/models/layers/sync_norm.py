"""Batch normalisation whose statistics are those of all workers' batches together."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class SyncBatchNorm(nn.BatchNorm2d):
    """As `nn.SyncBatchNorm`, but on CPUs too, and where a worker has nothing to normalise.

    Alone it is `nn.BatchNorm2d`. Mean and variance are summed one after the other, so that a large
    mean costs the variance no digits.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (R, C, H, W) to (R, C, H, W)."""
        together = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        if not self.training or (len(x) and not together):
            return super().forward(x)
        count = _AllSum.apply(x.new_full((), x.numel() // x.shape[1], dtype=torch.float32))
        # Where no worker has anything, 0 / 1 and not 0 / 0.
        some = count.clamp(min=1)
        mean = _AllSum.apply(x.sum((0, 2, 3), dtype=torch.float32)) / some  # (C,)
        # About the mean: the difference of mean squares would lose digits.
        centred = x.float() - mean[:, None, None]
        variance = _AllSum.apply(centred.square().sum((0, 2, 3))) / some
        self._follow(mean.detach(), variance.detach(), count)
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)

    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Move the running statistics as `nn.BatchNorm2d` does; not at all without a batch."""
        assert self.momentum is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        # No step where no worker had anything.
        step = self.momentum * (count > 0)
        self.running_mean.lerp_(mean, step)
        # The unbiased variance, with n - 1, as nn.BatchNorm2d keeps it.
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), step)


class _AllSum(torch.autograd.Function):
    """The sum over workers; each worker's gradient is the sum of all workers' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        del ctx
        return _all_sum(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        del ctx
        # Every worker's sum has x in it, so its gradient comes from all of them.
        return _all_sum(grads[0])


def _all_sum(x: Tensor) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(total)
    return total
