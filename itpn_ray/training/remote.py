"""Training workers under Ray Train."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from itpn_ray.errors import ItpnError
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.training.keeper import JournalKeeper, RemoteJournal


def launch(config: ExperimentConfig, folder: Path, *, callbacks: list[Any] | None = None) -> None:
    """Train with Ray workers until the last epoch, restarting what is lost.

    Args:
        config: the experiment.
        folder: the run's folder, on this machine.
        callbacks: of Ray Train; with any, each evaluation is also reported to Ray.

    Raises:
        ItpnError: the run met an error that a restart would meet again.
        ray.train.TrainingFailedError: workers were lost more often than ``max_failures``.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    keeper: Any = (
        ray.remote(JournalKeeper).options(num_cpus=0, scheduling_strategy=here).remote(folder)
    )
    attempt = folder / "ray" / f"{time.time():.0f}"
    fewest, most = config.worker_range
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "config": to_dict(config),
            "keeper": keeper,
            "reports": bool(callbacks),
        },
        torch_config=TorchConfig(
            backend="nccl" if config.gpus else "gloo", timeout_s=round(config.hang_timeout_s)
        ),
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=most if fewest == most else (fewest, most),  # type: ignore[arg-type]
            elastic_resize_monitor_interval_s=config.ray.resize_interval_s,
            use_gpu=config.gpus,
            resources_per_worker={
                "CPU": config.cpus_per_worker,
                **({"GPU": 1} if config.gpus else {}),
            },
        ),
        run_config=RunConfig(
            name=attempt.name,
            storage_path=str(attempt.parent),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=callbacks,
        ),
    )
    try:
        trainer.fit()
    except ray.train.TrainingFailedError:
        fatal = ray.get(keeper.fatal.remote())
        if fatal is None:
            raise
        raise fatal from None
    finally:
        # Ray's own bookkeeping: our checkpoints and journal are the run's state.
        shutil.rmtree(attempt, ignore_errors=True)
    fatal = ray.get(keeper.fatal.remote())
    if fatal is not None:
        raise fatal


def _worker(payload: dict[str, Any]) -> None:
    """One Ray Train worker."""
    keeper = payload["keeper"]
    if ray.get(keeper.fatal.remote()) is not None:
        return
    # Only here: Ray Train's controller imports this module too, and needs none of it.
    from itpn_ray.training.work import work
    from itpn_ray.training.worker import Worker

    config = from_dict(payload["config"])
    worker = Worker.in_group(config)
    report = ray.train.report if payload["reports"] else _ignore
    try:
        work(config, worker, RemoteJournal(keeper), report)
    except ItpnError as error:
        ray.get(keeper.end_with.remote(error))
        raise


def _ignore(figures: dict[str, float]) -> None:
    """Outside a sweep nobody waits for the figures: the journal has them."""
