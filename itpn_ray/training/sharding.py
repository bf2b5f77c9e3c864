"""FSDP2: a network whose tensors are spread over the workers, for what one GPU cannot hold.

Checkpoints do not know of it: they hold whole tensors, so that a run goes on sharded or not, and
with any number of workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from itpn_ray.models import Trunk
from itpn_ray.models.layers.blocks import Block


def shard(
    network: nn.Module, device: torch.device, world: int, *, bf16: bool, elastic: bool = False
) -> None:
    """Spread every parameter over ``world`` workers, in place.

    Each block, also of teachers and averages, is gathered only while it computes. What lies outside
    the blocks stays gathered during a step, and so do blocks whose parts their trunk uses one by
    one: with relative position, with windows, or when tokens leave.

    Args:
        network: on ``device``.
        device: of this worker.
        world: workers.
        bf16: gather weights in bf16, which is half of what is sent and needs no cast in each layer;
            gradients are summed in float32, and what the optimiser moves stays float32.
        elastic: whether tokens leave in some steps, also if none do now.
    """
    mesh = init_device_mesh(device.type, (world,))
    in_parts = {
        block
        for trunk in network.modules()
        if isinstance(trunk, Trunk)
        and (elastic or trunk.acceleration.active or trunk.home_index is not None)
        for block in trunk.stage3
    }
    # Inputs are left as they are: boxes, labels and draws would lose their digits.
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else None,
        # Summed in float32: bf16 would lose small gradients.
        reduce_dtype=torch.float32 if bf16 else None,
        cast_forward_inputs=False,
    )
    for module in network.modules():
        if isinstance(module, Block) and module not in in_parts:
            fully_shard(module, mesh=mesh, mp_policy=policy)
    # Last, for it takes the parameters that no block has taken.
    fully_shard(network, mesh=mesh, mp_policy=policy)


def gather_full(value: Any) -> Any:
    """A tree with each sharded tensor gathered; every worker must call it on the same tree."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, Mapping):
        return {key: gather_full(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [gather_full(inner) for inner in value]
    return value


def load_network(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """``network.load_state_dict`` of whole tensors, for a network that may be sharded.

    Raises:
        RuntimeError: names or shapes differ.
    """
    held = network.state_dict()
    network.load_state_dict(
        {name: _like(value, held[name]) if name in held else value for name, value in state.items()}
    )


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """``optimizer.load_state_dict`` of whole tensors, for parameters that may be sharded.

    Raises:
        ValueError: the groups differ.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {name: _like(value, parameters[index]) for name, value in entry.items()}
        for index, entry in state["state"].items()
        # Entries beyond the parameters: load_state_dict refuses the groups by itself.
        if index < len(parameters)
    }
    optimizer.load_state_dict({**state, "state": moments})


def _like(value: Any, held: Tensor) -> Any:
    """``value``, cut as ``held`` is; every worker has the whole, so that nothing is sent."""
    # Another shape is left as it is: `load_state_dict` names it.
    if not isinstance(held, DTensor) or not isinstance(value, Tensor) or value.shape != held.shape:
        return value
    # No source rank: by default rank 0 would send what all have.
    return distribute_tensor(
        value.to(held.device), held.device_mesh, held.placements, src_data_rank=None
    )
