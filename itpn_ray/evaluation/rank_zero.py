"""Work on what all workers have found, where sums over tensors do not do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch.distributed as dist

P = TypeVar("P")
R = TypeVar("R")


def on_rank_zero(part: P, work: Callable[[list[P]], R]) -> R:
    """Bring the parts of all workers to rank 0, work there, and give the result to all of them.

    Every worker of the process group must call it at the same point; alone, or where there is no
    group, it is ``work([part])``.

    Args:
        part: this worker's; anything that can be pickled.
        work: called on rank 0 only, with the parts in the order of the ranks.

    Returns:
        What ``work`` returned.

    Raises:
        Exception: what ``work`` raised, on every worker, so that none waits for ever.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return work([part])
    is_main = dist.get_rank() == 0
    parts: list[Any] | None = [None] * dist.get_world_size() if is_main else None
    # Objects are pickled: tensors of unequal size need no padding.
    dist.gather_object(part, parts)
    answer: list[Any] = [None, None]  # result, error
    if parts is not None:
        try:
            answer[0] = work(parts)
        except Exception as error:
            answer[1] = error
    dist.broadcast_object_list(answer)
    result, failure = answer
    if failure is not None:
        # Raised on every rank, or the others would wait for ever.
        raise failure
    return result
