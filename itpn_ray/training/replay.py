"""A step whose loss is not finite, kept so that it can be looked at again."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path
from typing import NoReturn

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from itpn_ray.errors import RunError
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.formatting import number_of
from itpn_ray.runs.journal import Journal
from itpn_ray.tasks.base import AnyTask
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.elastic import fixed_at
from itpn_ray.training.launch.setup import make_task
from itpn_ray.training.sharding import gather_full

BATCH = "batch."
NETWORK = "network."


def stop_with_replay(
    config: ExperimentConfig,
    network: nn.Module,
    batch: Batch,
    journal: Journal,
    *,
    task: AnyTask,
    step: int,
    rank: int,
) -> NoReturn:
    """Keep weights and batch of the step, and stop; ``task`` has built the network.

    Raises:
        RunError: always; names the file and how to replay it.
    """
    # With the r of this step alone: a replayed network goes through no steps.
    config = dataclasses.replace(config, model=fixed_at(config.model, config.seed, step))
    tensors = {f"{BATCH}{name}": value.contiguous().cpu() for name, value in batch.items()}
    tensors |= {
        # Cloned, for safetensors refuses tensors that share memory.
        f"{NETWORK}{name}": value.clone().cpu()
        for name, value in gather_full(network.state_dict()).items()
    }
    name = f"replay-step{step}-rank{rank}.safetensors"
    # By way of a file, for the journal takes bytes: it may be on another machine.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        known = {
            "config": json.dumps(to_dict(config)),
            "classes": json.dumps(task.classes),
            "from_files": json.dumps(task.from_files),
        }
        save_file(tensors, path, metadata=known)
        journal.file(name, path.read_bytes())
    journal.event("diverged", step=step, rank=rank, replay=name)
    raise RunError(
        "loss",
        None,
        f"was not finite for {number_of(config.optim.max_skipped_steps, 'step')} in a row, the "
        f"last one step {step}; none of them was applied",
        f"Look at the batch and weights kept in {name} in the run's folder with "
        "itpn_ray.training.replay.replay(path), or lower --optim.lr",
    )


@torch.no_grad()
def replay(path: str | Path) -> dict[str, Tensor]:
    """Loss terms of a kept step, computed again on this machine's CPU in float32.

    The file holds all that is needed: neither the data nor the initial weights are read.
    """
    network, batch = load_step(path)
    # In training mode, as in the step that failed.
    return network.train()(batch)


def load_step(path: str | Path) -> tuple[nn.Module, Batch]:
    """Network and batch of a kept step."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    config = from_dict(json.loads(metadata["config"]))
    # The kept weights replace the initial ones, whose file may not be here.
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, init=""))
    task = make_task(config, json.loads(metadata["classes"]))
    # Files of older versions have none: what they cannot do without is read, as it was then.
    task.from_files = json.loads(metadata.get("from_files", "{}"))
    network = task.build()
    network.load_state_dict(
        {name.removeprefix(NETWORK): t for name, t in tensors.items() if name.startswith(NETWORK)}
    )
    batch = {name.removeprefix(BATCH): t for name, t in tensors.items() if name.startswith(BATCH)}
    return network, batch
