from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from itpn_ray.models.layers.sync_norm import SyncBatchNorm
from tests.training.processes import run_together

ROWS = (5, 1, 0)  # of each worker


def batch() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 50 + torch.randn(sum(ROWS), 4, 3, 3, generator=generator)


def step(norm: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """One forward and backward pass whose loss tells places apart."""
    weights = torch.arange(4 * 9.0).view(4, 3, 3).sin()
    x = x.clone().requires_grad_()
    y = norm(x)
    (y.square() * weights).sum().backward()
    return {
        "y": y.detach(),
        "x": x.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
    }


def fill(norm: nn.Module) -> nn.Module:
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, 1.5, 2.0]))
        norm.bias.copy_(torch.tensor([0.1, -0.2, 0.3, 0.0]))
    return norm


def take_part(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=len(ROWS)
    )
    mine = batch().split(ROWS)[rank]
    torch.save(step(fill(SyncBatchNorm(4)), mine), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.workers
def test_workers_together_normalise_as_one_with_the_whole_batch(tmp_path):
    run_together(take_part, (str(tmp_path),), len(ROWS))
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(len(ROWS))]
    expected = step(fill(nn.BatchNorm2d(4)), batch())
    for name in ("y", "x"):
        joined = torch.cat([part[name] for part in found])
        torch.testing.assert_close(joined, expected[name], rtol=1e-4, atol=1e-4)
    for name in ("weight", "bias"):
        total = sum(part[name] for part in found)
        torch.testing.assert_close(total, expected[name], rtol=1e-4, atol=1e-3)
    for name in ("mean", "var"):
        for part in found:
            torch.testing.assert_close(part[name], expected[name])


def test_alone_it_is_batch_norm():
    found, expected = step(fill(SyncBatchNorm(4)), batch()), step(fill(nn.BatchNorm2d(4)), batch())
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


def test_nothing_to_normalise_changes_nothing():
    found = step(fill(SyncBatchNorm(4)), batch()[:0])
    assert found["y"].shape == (0, 4, 3, 3)
    for name, value in (("weight", 0.0), ("bias", 0.0), ("mean", 0.0), ("var", 1.0)):
        assert torch.equal(found[name], torch.full((4,), value))


def test_running_statistics_serve_in_eval_mode():
    norm = fill(SyncBatchNorm(4)).eval()
    one = batch()[:1]
    torch.testing.assert_close(norm(batch())[:1], norm(one))
