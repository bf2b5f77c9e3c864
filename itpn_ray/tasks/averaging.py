"""The moving average of weights: teacher of the feature loss, and the model that is evaluated."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import nn


class Averaging(nn.Module):
    """Base of modules that may keep a moving average of a module which is trained.

    The average is one of the parts. It starts as a copy, always evaluates and needs no gradients.
    """

    kept_as: ClassVar[str] = "average"
    """Name of the part, by which checkpoints know it."""
    decay: float

    def __init__(self) -> None:
        super().__init__()
        # None until `keep_average`: `follow` and `evaluated` ask networks without an average too.
        setattr(self, self.kept_as, None)

    def keep_average(self, source: nn.Module, decay: float) -> None:
        """Start the average of ``source``, with a decay that :func:`decay_at` warms up."""
        self.decay = decay
        # Evaluated at all times: its drop paths must draw nothing, nor its norms move.
        setattr(self, self.kept_as, copy.deepcopy(source).requires_grad_(False).eval())

    def train(self, mode: bool = True) -> Averaging:
        """Set the mode of all parts but the average."""
        super().train(mode)
        average = getattr(self, self.kept_as)
        if average is not None:
            # Module.train has just switched it with the other parts.
            average.eval()
        return self

    def follow(self, source: nn.Module, step: int) -> None:
        """Move the average towards ``source`` after a step, 0 at the first of the run."""
        average = getattr(self, self.kept_as)
        if average is not None:
            update_average(average, source, decay_at(self.decay, step))


def decay_at(decay: float, step: int) -> float:
    """The decay of a step: ``decay``, warmed up so that short runs forget the first weights too.

    With a constant 0.9999 the average of a run of 200 steps is still 98 % untrained. Early averages
    are therefore short: ``(1 + t) / (10 + t)`` until that exceeds ``decay``, as timm and TensorFlow
    have it. A function of the step alone, so that a resumed run goes on with the same bits.

    Args:
        decay: of the warmed-up average, in [0, 1]; with 1 it never moves.
        step: t, 0 at the first step of the run.
    """
    # 1 is exempt: an average that is to stand still must not be warmed up.
    return decay if decay == 1.0 else min(decay, (1 + step) / (10 + step))


def first_fraction(decay: float, steps: int) -> float:
    """The fraction that the first weights still have in the average after ``steps`` steps."""
    fraction = 1.0
    for step in range(steps):
        # From here on the decay is constant, and the rest a power.
        if decay_at(decay, step) == decay:
            return fraction * decay ** (steps - step)
        fraction *= decay_at(decay, step)
    return fraction


@torch.no_grad()
def update_average(average: nn.Module, source: nn.Module, momentum: float) -> None:
    """``average <- momentum * average + (1 - momentum) * source``, in place (paper, 3.4).

    Floating-point parameters and buffers are averaged; other buffers are copied.

    Args:
        average: module whose tensors follow; same names and shapes as ``source``.
        source: module being trained.
        momentum: fraction of the old average that stays, in [0, 1].
    """
    # keep_vars, or else state_dict returns plain tensors, and no parameter is told apart below.
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
            # Counters of batches and the like have no meaningful mean.
            tensor.copy_(value)
    for pairs in (parameters, buffers):
        if pairs:
            # All tensors in one call: a network has hundreds, each too small to keep a GPU busy.
            averages, values = zip(*pairs, strict=True)
            torch._foreach_lerp_(averages, values, 1.0 - momentum)
