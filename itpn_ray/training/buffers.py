"""The buffers of a network as they were before a step, for a step that is not applied.

Statistics of batch norms and their counters move in the forward pass, before anyone knows whether
the step is finite.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class Buffers:
    """A copy of all buffers that checkpoints hold; the others are constants.

    Args:
        network: on its device; it may be sharded, which leaves buffers whole.
    """

    def __init__(self, network: nn.Module) -> None:
        # Not `buffers()`: those left out of files are constants, such as tables of indices.
        tensors = network.state_dict(keep_vars=True).values()
        self._live: list[Tensor] = [t for t in tensors if not isinstance(t, nn.Parameter)]
        self._kept = [tensor.clone() for tensor in self._live]

    def keep(self) -> None:
        """Copy them."""
        for kept, live in zip(self._kept, self._live, strict=True):
            kept.copy_(live)

    def restore(self) -> None:
        """Put back what was kept last."""
        for kept, live in zip(self._kept, self._live, strict=True):
            live.copy_(kept)

    def finite(self) -> Tensor:
        """Whether they are, a bool scalar: a loss can be finite where a variance has overflowed."""
        floats = [tensor for tensor in self._live if tensor.is_floating_point()]
        # The largest absolute value: one number for all, infinite or NaN if any of theirs is.
        return torch.isfinite(torch.nn.utils.get_total_norm(floats, math.inf))
