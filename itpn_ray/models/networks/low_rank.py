"""Low-rank updates of frozen matrices (LoRA: Hu et al., "LoRA", ICLR 2022).

A matrix W (out, in) becomes W + U D with U (out, r) zero at first and D (r, in): the network begins
as it was, and r (out + in) numbers are learned in the place of out x in. The sum is computed
where W is asked for (`torch.nn.utils.parametrize`), so that no layer needs to know of it. Adding it
up for good gives an ordinary network with the same outputs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from itpn_ray.models.layers.blocks import Attention, Mlp, SwiGlu
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.build import build
from itpn_ray.models.trunk.base import Trunk


class LowRank(nn.Module):
    """Adds the product of two thin matrices to a weight.

    Args:
        weight: (out, in), which decides device and type.
        rank: r.
    """

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        out, into = weight.shape
        self.up = nn.Parameter(weight.new_zeros(out, rank))
        self.down = nn.Parameter(torch.empty_like(weight[:1]).expand(rank, into).clone())
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))  # as the paper's code

    def forward(self, weight: Tensor) -> Tensor:
        """Map (out, in) to (out, in) of the same type."""
        # In the weight's own precision, so that what is trained is what is added up at last.
        with torch.autocast(weight.device.type, enabled=False):
            return torch.addmm(weight, self.up, self.down)


def add_low_rank(trunk: Trunk, rank: int, frozen: Iterable[str]) -> None:
    """Freeze parameters, and give the linear layers of attentions and MLPs low-rank updates.

    Args:
        trunk: all of whose other parameters are trained as they are.
        rank: r of every update.
        frozen: names of the trunk's parameters that keep their values.
    """
    parameters = dict(trunk.named_parameters())
    for name in parameters.keys() & set(frozen):
        parameters[name].requires_grad_(False)
    for holder in list(trunk.modules()):
        if isinstance(holder, Attention | Mlp | SwiGlu):
            for layer in holder.children():
                if isinstance(layer, nn.Linear) and not layer.weight.requires_grad:
                    update = LowRank(layer.weight, rank)
                    # "Unsafe" leaves out a trial of the update, for which the meta device has no
                    # autocast to be turned off.
                    parametrize.register_parametrization(layer, "weight", update, unsafe=True)


def merged(network: Network) -> Network:
    """The network with its low-rank updates added up, anew; itself where it has none."""
    updated = {
        f"{name}.weight": layer.weight.detach()
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight")
    }
    if not updated:
        return network
    # Built anew: PyTorch takes updates off the class that a copy shares with its original.
    ordinary = build(network.config).train(network.training)
    kept = {name: t for name, t in network.state_dict().items() if ".parametrizations." not in name}
    ordinary.load_state_dict(kept | updated)
    return ordinary
