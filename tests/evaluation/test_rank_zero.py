"""Work on rank 0 with what all workers found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch.distributed as dist

from itpn_ray.errors import DataError
from itpn_ray.evaluation.rank_zero import on_rank_zero
from tests.training.processes import run_together


def refuse(parts: list[int]) -> None:
    raise DataError("parts", parts, "are refused", "Give others")


def take_part(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    worked_at = []

    def join(parts: list[dict[int, str]]) -> list[str]:
        worked_at.append(rank)
        return [f"{key}{value}" for part in parts for key, value in part.items()]

    found = on_rank_zero({rank: "abc"[: rank + 1]}, join)
    with pytest.raises(DataError, match=r"parts = \[0, 1\]: are refused") as error:
        on_rank_zero(rank, refuse)
    found.append(str(on_rank_zero(rank, sum)))  # the group goes on after an error
    Path(folder, f"{rank}.txt").write_text(f"{found} {worked_at} {error.value.hint}")
    dist.destroy_process_group()


@pytest.mark.workers
def test_two_workers_have_one_result(tmp_path: Path) -> None:
    run_together(take_part, (str(tmp_path),), 2)
    told = "['0a', '1ab', '1']"
    assert (tmp_path / "0.txt").read_text() == f"{told} [0] Give others"
    assert (tmp_path / "1.txt").read_text() == f"{told} [] Give others"


def test_one_worker_needs_no_group() -> None:
    assert on_rank_zero(3, lambda parts: [*parts, 4]) == [3, 4]
    with pytest.raises(DataError, match="refused"):
        on_rank_zero(3, refuse)
