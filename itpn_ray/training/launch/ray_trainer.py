"""Training workers under Ray Train."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.failure_handling import (
    DefaultFailurePolicy,
    FailureDecision,
)
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from itpn_ray.errors import ItpnError
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.ray_runtime.places import missing_places
from itpn_ray.ray_runtime.start import environment, is_private
from itpn_ray.runs.journal import FileJournal, Journal, RemoteJournal
from itpn_ray.training.devices import device_line, with_devices
from itpn_ray.training.launch.network import RayAddressConfig
from itpn_ray.training.launch.places import check_shared, ship, unpack

UNWATCHED = {
    # Nobody drains the node of a private Ray, or reads what Ray Train measures.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
}


class Trainer(TorchTrainer):
    """Ray Train without helpers that have nothing to do, and without restarts that change nothing.

    Each helper is an actor that wakes up 150 times a second, on cores that train. One hands out Ray
    Datasets, of which a run has none. In a private Ray, one tidies up after a controller that dies
    before its cluster, which does not happen; and one asks for machines, of which there is one.
    """

    def _create_default_callbacks(self) -> list[Any]:
        idle = (DatasetsCallback, *([PlacementGroupCleanerCallback] if is_private() else []))
        return [
            callback
            for callback in super()._create_default_callbacks()
            if not isinstance(callback, idle)
        ]

    def _register_sigint_handler(self, controller: Any) -> None:
        """Leave Ctrl-C to the driver, which has the workers save first."""

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        retries = parts["failure_policy"].failure_config
        parts["failure_policy"] = FailurePolicy(retries)
        workers = parts["scaling_policy"]
        if is_private() and isinstance(workers, FixedScalingPolicy):
            parts["scaling_policy"] = PrivateScalingPolicy(workers.scaling_config)
        return super()._initialize_and_run_controller(**parts)


class PrivateScalingPolicy(FixedScalingPolicy):
    """A fixed number of workers on one machine: nobody is asked, again and again, for others."""

    def _send_resource_request(self) -> None: ...

    def _maybe_send_resource_request(self) -> None: ...

    def _cancel_resource_request(self) -> None: ...


class FailurePolicy(DefaultFailurePolicy):
    """Ray Train's own, but an error of ours ends the run: a restart would meet it again."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> Any:
        """Retry or raise."""
        if error_of_ours(training_failed_error) is not None:
            return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def error_of_ours(failed: TrainingFailedError) -> ItpnError | None:
    """What a worker raised, if it is an error of ours: the first by rank."""
    failures = getattr(failed, "worker_failures", {})  # the controller's own failures have none
    for _, failure in sorted(failures.items()):
        raised = getattr(failure, "_base_exc", failure)  # as Ray Train wraps what its workers raise
        if isinstance(raised, ItpnError):
            return raised
    return None


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
    attempt = folder / "ray" / f"{time.time():.0f}"
    fewest, most = config.worker_range
    journal = _journal(folder)
    config = _placed(config, journal)
    check_shared(config)
    torch_config = TorchConfig if is_private() else RayAddressConfig
    trainer = Trainer(
        _worker,
        train_loop_config={
            "config": to_dict(config),
            "journal": journal,
            "files": ship(config),
            "reports": bool(callbacks),
        },
        torch_config=torch_config(
            backend="nccl" if config.gpus else "gloo", timeout_s=round(config.hang_timeout_s)
        ),
        scaling_config=ScalingConfig(
            num_workers=most if fewest == most else (fewest, most),
            elastic_resize_monitor_interval_s=config.ray.resize_interval_s,
            use_gpu=bool(config.gpus),
            resources_per_worker=_resources(config),
        ),
        run_config=RunConfig(
            name=attempt.name,
            storage_path=str(attempt.parent),
            failure_config=FailureConfig(max_failures=config.max_failures),
            callbacks=callbacks,
        ),
    )
    try:
        with environment(UNWATCHED if is_private() else {}):
            trainer.fit()
    except TrainingFailedError as failed:
        error = error_of_ours(failed)
        if error is None:
            raise
        raise error from None
    finally:
        # Ray's own bookkeeping: our checkpoints and journal are the run's state.
        shutil.rmtree(attempt, ignore_errors=True)


def _placed(config: ExperimentConfig, journal: Journal) -> ExperimentConfig:
    """The experiment with its devices decided; tells which, and what has to be waited for.

    Raises:
        ConfigError: the cluster has not, and cannot get, what the workers need.
    """
    gpus = round(ray.cluster_resources().get("GPU", 0))
    if is_private():
        gpus = min(gpus, torch.cuda.device_count())
    config = with_devices(config, gpus)
    journal.event("device", message=device_line(config, gpus))
    missing = missing_places(_resources(config), config.worker_range[0])
    if missing:
        journal.event("waiting", message=missing)
    return config


def _resources(config: ExperimentConfig) -> dict[str, float]:
    """What a worker needs, by Ray's names."""
    return {"CPU": config.cpus_per_worker, **({"GPU": 1.0} if config.gpus else {})}


def _journal(folder: Path) -> Journal:
    """What workers write to: the folder itself, or where they may be elsewhere, an actor here."""
    if is_private():
        return FileJournal(folder)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    keeper = ray.remote(FileJournal).options(num_cpus=0, scheduling_strategy=here)
    return RemoteJournal(keeper.remote(folder))


def _worker(payload: dict[str, Any]) -> None:
    """One Ray Train worker."""
    # Only here: Ray Train's controller imports this module too, and needs none of it.
    from itpn_ray.training.launch.context import TrainContext
    from itpn_ray.training.launch.process import work

    config = unpack(from_dict(payload["config"]), payload["files"])
    worker = TrainContext.in_group(config)
    report = ray.train.report if payload["reports"] else _ignore
    work(config, worker, payload["journal"], report)


def _ignore(figures: dict[str, float]) -> None:
    """Outside a sweep nobody waits for the figures: the journal has them."""
