"""From a configuration to the parts of a run: task, data, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from itpn_ray.data.store.shards import ShardedDataset, open_train_and_val
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.formatting import number_of
from itpn_ray.tasks.base import AnyTask, TaskSetup, WorkerShare
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.registry import task_class
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.schedule import total_steps


def make_task(config: ExperimentConfig, classes: Sequence[str]) -> AnyTask:
    """The task that the configuration names."""
    setup = TaskSetup(
        config=config.task,
        model=config.model,
        augment=config.augment,
        loader=config.loader,
        data=config.data,
        classes=classes,
        seed=config.seed,
        global_batch=config.optim.global_batch,
    )
    return task_class(config.task)(setup)


def share_of(config: ExperimentConfig, worker: TrainContext) -> WorkerShare:
    """What this worker's loaders read."""
    return WorkerShare(
        rank=worker.rank,
        world=worker.world,
        pin=worker.device.type == "cuda",
        eval_batch=eval_batch(config, worker.world),
    )


def eval_batch(config: ExperimentConfig, world: int) -> int:
    """Images a worker evaluates at once: as many as it trains on at once."""
    share = max(1, config.optim.global_batch // max(world, 1))
    # No more than a training step takes at once, which fits into memory.
    return min(share, config.optim.micro_batch or share)


def open_splits(config: ExperimentConfig) -> tuple[ShardedDataset, ShardedDataset]:
    """The prepared train and val splits.

    Raises:
        ConfigError: no data was named.
        DataError: it is not a folder of prepared data, or a split is missing.
    """
    if not config.data:
        raise ConfigError(
            "data",
            config.data,
            "names no prepared data",
            "Give --data, written by `itpn-ray prepare`",
        )
    return open_train_and_val(config.data)


def check_fit(config: ExperimentConfig, train: ShardedDataset, val: ShardedDataset) -> None:
    """Refuse, before anything starts, what could not train.

    Raises:
        ConfigError: see `check_settings`, or what the task refuses.
        CheckpointError: the teacher's file is missing or foreign.
        DataError: what the task refuses.
    """
    check_settings(config, train, val)
    make_task(config, train.classes).check(train, val)


def check_settings(config: ExperimentConfig, train: ShardedDataset, val: ShardedDataset) -> None:
    """Refuse data of another kind than the task's, then settings that could not train on it.

    Raises:
        ConfigError: an epoch has no step, there are fewer steps than the warm-up takes, a trunk of
            random weights would be frozen, or something is said of initial weights and there are
            none.
        DataError: the data is of another kind than the task needs.
    """
    # The kind first: settings mended for the wrong data would have been mended in vain.
    for dataset in (train, val):
        task_class(config.task).check_split(dataset)
    batch = config.optim.global_batch
    if len(train) < batch:
        raise ConfigError(
            "optim.global_batch",
            batch,
            f"an epoch of {number_of(len(train), 'image')} would have 0 steps",
            # Whole pairs, as global batches are.
            f"Use at most {len(train) // 2 * 2} with --optim.global-batch",
        )
    _check_init(config.model)
    most = config.worker_range[1]
    if most > batch // 2:
        raise ConfigError(
            "workers",
            config.workers,
            f"a global batch of {batch} has pairs for {number_of(batch // 2, 'worker')}",
            "Use fewer workers or a larger --optim.global-batch",
        )
    steps = total_steps(config.optim, len(train) // batch)
    if config.optim.warmup_steps >= steps:
        raise ConfigError(
            "optim.warmup_steps",
            config.optim.warmup_steps,
            f"the run has {number_of(steps, 'step')}",
            "Warm up for fewer with --optim.warmup-steps",
        )


def _check_init(model: ModelConfig) -> None:
    """Refuse what says something of initial weights where there are none."""
    if model.init:
        return
    trained = "Name trained ones with --model.init"
    unused = "there are no initial weights that it could be about"
    refused = {
        "freeze_trunk": ("would keep the random weights of a new trunk", trained),
        "lora_rank": ("would update the random weights of a new trunk", trained),
        "init_key": (unused, "Name them with --model.init, or leave it out"),
        "partial_init": (unused, "Name them with --model.init, or leave it out"),
    }
    for name, (cause, hint) in refused.items():
        if value := getattr(model, name):
            raise ConfigError(f"model.{name}", value, cause, hint)
