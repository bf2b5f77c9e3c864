"""What every training process does, under Ray, under torchrun, or alone."""

from __future__ import annotations

from collections.abc import Callable

from itpn_ray.experiment import ExperimentConfig
from itpn_ray.runs.journal import Journal
from itpn_ray.training.best import Best
from itpn_ray.training.checkpoint.writer import CheckpointStore
from itpn_ray.training.claim import checkpoint_uri
from itpn_ray.training.determinism import deterministic
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.preemption import PreemptionNotice
from itpn_ray.training.launch.setup import make_task, open_splits, share_of
from itpn_ray.training.loop import TrainingParts, train
from itpn_ray.training.memory import fits_memory

Reporter = Callable[[dict[str, float]], None]


def open_checkpoints(config: ExperimentConfig) -> CheckpointStore:
    """The run's checkpoints: where the configuration says, or in the run's folder."""
    return CheckpointStore(
        checkpoint_uri(config),
        keep_last=config.checkpoint.keep_last,
        keep_every=config.checkpoint.keep_every,
    )


def work(
    config: ExperimentConfig, worker: TrainContext, journal: Journal, evaluated: Reporter
) -> None:
    """Train this worker's share to the end of the run.

    Args:
        config: the experiment.
        worker: this process.
        journal: where records go.
        evaluated: called by every rank with the metrics of each evaluation.

    Raises:
        ConfigError: ``config.deterministic``, and an operation has no such algorithm.
        RunError: the GPU has too little memory; names what to lower.
    """
    train_split, val_split = open_splits(config)
    task = make_task(config, train_split.classes)
    share = share_of(config, worker)
    fits = fits_memory(config, share.eval_batch)
    with fits, deterministic(config.deterministic), PreemptionNotice() as notice:
        train(
            TrainingParts(
                config=config,
                task=task,
                worker=worker,
                journal=journal,
                store=open_checkpoints(config),
                train=task.train_loader(train_split, share),
                val=task.eval_loader(val_split, share),
                preempted=notice,
                evaluated=evaluated,
                best=Best(task.headline),
            )
        )
