"""The whole state of a run: taken for a checkpoint, and put back.

Everything random is a function of (seed, epoch, sample id), so that weights, averages, optimiser
and the step are the whole state.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from itpn_ray.errors import CheckpointError, told_by
from itpn_ray.experiment import ExperimentConfig, to_dict
from itpn_ray.runs.journal import Journal
from itpn_ray.training.best import Best
from itpn_ray.training.checkpoint.writer import CheckpointStore
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.sharding import gather_full, load_network, load_optimizer


def full_state(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    step: int,
    config: ExperimentConfig,
    best: Best,
) -> dict[str, Any]:
    """What a checkpoint holds: ``network`` with its averages, ``optimizer``, ``progress``.

    Every worker calls it: where the network is sharded, its tensors are gathered.
    """
    return {
        "network": gather_full(network.state_dict()),
        "optimizer": gather_full(optimizer.state_dict()),
        "progress": {"step": step, "config": to_dict(config), "best": best.state()},
    }


def restore(
    store: CheckpointStore,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    worker: TrainContext,
    journal: Journal,
    best: Best,
) -> int:
    """Put the newest good checkpoint back and return its step; 0 where there is none.

    ``best`` takes back what it was.

    Rank 0 chooses, so that all ranks load the same one, and only one looks through the store.

    Raises:
        CheckpointError: the checkpoint is of another network.
    """
    chosen = store.latest_good() if worker.is_main else None
    # The other ranks add 0, so that the sum is the first one's step.
    step = int(worker.reduce(torch.tensor([0 if chosen is None else chosen.step])).item())
    if step == 0:
        if worker.is_main:
            journal.rewind(0)  # what a run recorded that ended before its first checkpoint
            journal.event("begin", step=0, workers=worker.world)
        return 0
    checkpoint = chosen or store.load(step)
    state = checkpoint.load()
    try:
        load_network(network, state["network"])
        load_optimizer(optimizer, state["optimizer"])
        best.load(state["progress"].get("best", {}))
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            checkpoint.uri,
            None,
            f"holds another network ({told_by(error)})",
            "Use another --run, or the model that the checkpoint was trained with",
        ) from error
    if worker.is_main:
        journal.rewind(step)
        journal.event(
            "resume",
            step=step,
            workers=worker.world,
            saved=checkpoint.manifest.time,
            passed_over=list(checkpoint.problems),
        )
    return step
