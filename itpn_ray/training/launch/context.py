"""One training process: its rank, device, collectives, and the wrapping of the network."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from itpn_ray.allocator import keep_pages
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.training.sharding import shard

Compile = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True, kw_only=True)
class TrainContext:
    """A training process among ``world`` of them.

    Attributes:
        rank: 0 .. world - 1.
        world: number of processes.
        device: where the network lives.
    """

    rank: int
    world: int
    device: torch.device

    @staticmethod
    def alone(*, gpu: bool, threads: int) -> TrainContext:
        """The only worker, in this process."""
        return _settle(0, 1, 0, gpu=gpu, threads=threads)

    @staticmethod
    def in_group(config: ExperimentConfig) -> TrainContext:
        """A worker of the process group that Ray Train or torchrun has announced."""
        gpu = bool(config.gpus)
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if not dist.is_initialized():
            patience = timedelta(seconds=config.hang_timeout_s)
            dist.init_process_group("nccl" if gpu else "gloo", timeout=patience)
        return _settle(
            dist.get_rank(),
            dist.get_world_size(),
            local_rank,
            gpu=gpu,
            threads=int(config.cpus_per_worker),
        )

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def bf16(self) -> bool:
        """Whether networks compute in bf16: on a GPU; a CPU computes in float32."""
        return self.device.type == "cuda"

    def reduce(self, tensor: Tensor, op: Any = dist.ReduceOp.SUM) -> Tensor:
        """Combine a tensor over all workers, in place, and return it."""
        if self.world > 1:
            # NCCL reduces on GPUs only, and callers may hold the tensor on the CPU.
            held = tensor.to(self.device)
            dist.all_reduce(held, op)
            tensor.copy_(held)
        return tensor

    def wrap_model(
        self,
        network: nn.Module,
        *,
        sharded: bool,
        compile: Compile | None,
        elastic: bool = False,
    ) -> nn.Module:
        """The network as it is called in a step: compiled where asked, gradients averaged.

        Compiled inside DDP: as it is called by DDP, its graph is cut where gradients are sent, and
        they are sent while the backward pass goes on.

        Args:
            network: on this worker's device; FSDP2 replaces its parameters, DDP keeps them.
            sharded: spread it over the workers (FSDP2) instead of repeating it on each (DDP).
            compile: gives what is called in its place, compiled; None: it is not compiled.
            elastic: whether tokens leave in some steps, also if none do now.
        """
        if self.world > 1 and sharded:
            shard(network, self.device, self.world, bf16=self.bf16, elastic=elastic)
        called = network if compile is None else compile(network)
        if self.world == 1 or sharded:
            return called
        ids = [self.device.index] if self.device.type == "cuda" else None
        # Gradients as views of the buckets that are sent: one copy of them less.
        return DistributedDataParallel(called, device_ids=ids, gradient_as_bucket_view=True)

    def average_gradients(self, model: nn.Module, network: nn.Module, now: bool) -> None:
        """Whether the next backward pass averages gradients over workers, or only adds to them."""
        if self.world > 1:
            if isinstance(network, FSDPModule):
                network.set_requires_gradient_sync(now)
            else:
                # What DDP's no_sync() sets for the length of a with block.
                model.require_backward_grad_sync = now  # type: ignore[assignment]

    def autocast(self) -> Any:
        """See `bf16`."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()


def _settle(rank: int, world: int, local_rank: int, *, gpu: bool, threads: int) -> TrainContext:
    """Choose the device and its numerics."""
    if not gpu:
        # Steps on a CPU are faster with it, see `itpn_ray.allocator`.
        keep_pages()
        torch.set_num_threads(max(1, threads))
        return TrainContext(rank=rank, world=world, device=torch.device("cpu"))
    # Under Ray each worker sees its own GPU alone, or all of the node's in order of local rank.
    index = local_rank if torch.cuda.device_count() > local_rank else 0
    device = torch.device("cuda", index)
    torch.cuda.set_device(device)
    # Matrices outside autocast; metrics that need float32 turn it off themselves.
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    return TrainContext(rank=rank, world=world, device=device)
