"""Two workers with a compiled network: gradients are sent while the backward pass goes on."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch.nn.parallel import DistributedDataParallel

from itpn_ray.training.launch.context import TrainContext
from tests.s3 import free_port
from tests.training.processes import run_together

WORLD, LAYERS, WIDTH = 2, 8, 1024
"""Together more than the 25 MiB that DDP sends at a time."""


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


def images(rank: int) -> Tensor:
    return torch.randn(2, WIDTH, generator=torch.Generator().manual_seed(rank))


def noting(events: list[str], kind: str) -> Callable[..., Any]:
    """A compiler that runs graphs as they are, and notes each run."""

    def compiler(graph: nn.Module, _: object) -> Any:
        def run(*arguments: Any) -> Any:
            events.append(kind)
            return graph(*arguments)

        return make_boxed_func(run)

    return compiler


def _train(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=WORLD)
    worker = TrainContext(rank=rank, world=WORLD, device=torch.device("cpu"))
    events: list[str] = []

    def send(state: object, bucket: dist.GradBucket) -> Any:
        events.append("sent")
        sent = dist.all_reduce(bucket.buffer() / WORLD, async_op=True)
        return sent.get_future().then(lambda future: future.value()[0])

    backend = aot_autograd(
        fw_compiler=noting(events, "forward"), bw_compiler=noting(events, "backward")
    )
    torch.compile = functools.partial(torch.compile, backend=backend)  # type: ignore[assignment]
    plain = network()
    model = worker.wrap_model(plain, sharded=False, compile=torch.compile)
    assert isinstance(model, DistributedDataParallel)
    send.__annotations__.clear()  # PyTorch compares them with types, and here they are strings
    model.register_comm_hook(None, send)
    for _ in range(2):  # in the first step DDP finds out in which order gradients come
        events.clear()
        plain.zero_grad()
        model(images(rank)).sum().backward()
    if rank == 0:
        (folder / "events.json").write_text(json.dumps(events))
        gradients = {name: each.grad for name, each in plain.named_parameters()}
        save_file({name: grad.clone() for name, grad in gradients.items()}, folder / "gradients")  # type: ignore[union-attr]
    dist.destroy_process_group()


@pytest.mark.workers
def test_gradients_are_sent_between_the_parts_of_a_compiled_backward_pass(tmp_path: Path) -> None:
    run_together(_train, (free_port(), tmp_path), WORLD)
    events = json.loads((tmp_path / "events.json").read_text())
    assert events.count("forward") == events.count("backward") > 1
    last_part = len(events) - 1 - events[::-1].index("backward")
    assert events.index("sent") < last_part
    alone = network()
    for rank in range(WORLD):
        (alone(images(rank)).sum() / WORLD).backward()
    found = load_file(tmp_path / "gradients")
    for name, parameter in alone.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-5)
