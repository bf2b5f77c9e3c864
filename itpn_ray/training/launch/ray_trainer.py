"""Training workers under Ray Train."""

from __future__ import annotations

import shutil
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from itpn_ray.costs.prices import SPOT
from itpn_ray.errors import ItpnError
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.ray_runtime import compat, train_compat
from itpn_ray.ray_runtime.nodes import living_nodes
from itpn_ray.ray_runtime.placement import (
    SpotFirst,
    accelerator_of,
    check_accelerators,
    spot_first,
)
from itpn_ray.ray_runtime.places import missing_places
from itpn_ray.ray_runtime.start import environment, is_private
from itpn_ray.runs.journal import FileJournal, Journal, RemoteJournal
from itpn_ray.training.devices import device_line, with_devices
from itpn_ray.training.launch.network import RayAddressConfig
from itpn_ray.training.launch.places import check_seen, local_files, shared_places, unpack


def error_of_ours(failed: TrainingFailedError) -> ItpnError | None:
    """What a worker raised, if it is an error of ours: the first by rank."""
    failures = getattr(failed, "worker_failures", {})  # the controller's own failures have none
    ours = (failures[rank] for rank in sorted(failures) if isinstance(failures[rank], ItpnError))
    return next(ours, None)


def must_end(failed: TrainingFailedError) -> bool:
    """Whether a restart would only meet the failure again."""
    return error_of_ours(failed) is not None


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
    journal = _journal(folder)
    config = _placed(config, journal)
    placement = _placement(config, journal)
    with shared_places(config) as token:
        loop_config = {
            "config": to_dict(config),
            "journal": journal,
            "files": local_files(config),
            "token": token,
            "reports": bool(callbacks),
        }
        _fit_again(config, folder, loop_config, callbacks, placement)


def _fit_again(
    config: ExperimentConfig,
    folder: Path,
    loop_config: dict[str, Any],
    callbacks: list[Any] | None,
    placement: SpotFirst | None,
) -> None:
    """Train to the end, restarting what is lost."""
    # A Ray Train that would restart after any error restarts nothing: that is done here.
    by_ray = train_compat.can_end_runs()
    failures = 0
    while True:
        try:
            retries = config.max_failures if by_ray else 0
            _fit(config, folder, loop_config, callbacks, retries, placement)
            return
        except TrainingFailedError as failed:
            error = error_of_ours(failed)
            if error is not None:
                # What Ray wraps it in says nothing more to the user.
                raise error from None
            failures += 1
            if by_ray or 0 <= config.max_failures < failures:
                raise


def _fit(
    config: ExperimentConfig,
    folder: Path,
    loop_config: dict[str, Any],
    callbacks: list[Any] | None,
    max_failures: int,
    placement: SpotFirst | None,
) -> None:
    """Train to the end, or until workers failed more often than ``max_failures``."""
    # A folder for each attempt: Ray Train would resume its own state from an old one.
    attempt = folder / "ray" / f"{time.time():.0f}"
    fewest, most = config.worker_range
    scaling: dict[str, Any] = {
        # A pair lets Ray Train resize the group; one number keeps it.
        "num_workers": most if fewest == most else (fewest, most),
        "elastic_resize_monitor_interval_s": config.ray.resize_interval_s,
        "use_gpu": bool(config.gpus),
        "resources_per_worker": _resources(config),
    }
    private = is_private()
    torch_config = TorchConfig if private else RayAddressConfig
    trainer = train_compat.trainer_class(private=private, must_end=must_end, placement=placement)(
        _worker,
        train_loop_config=loop_config,
        torch_config=torch_config(
            backend="nccl" if config.gpus else "gloo", timeout_s=round(config.hang_timeout_s)
        ),
        scaling_config=ScalingConfig(**scaling),
        run_config=RunConfig(
            name=attempt.name,
            storage_path=str(attempt.parent),
            failure_config=FailureConfig(max_failures=max_failures),
            callbacks=callbacks,
        ),
    )
    try:
        with environment(compat.UNWATCHED if private else {}):
            trainer.fit()
    finally:
        # Ray's own bookkeeping: our checkpoints and journal are the run's state.
        shutil.rmtree(attempt, ignore_errors=True)


def _placed(config: ExperimentConfig, journal: Journal) -> ExperimentConfig:
    """The experiment with its devices decided; tells which, and what has to be waited for.

    Raises:
        ConfigError: the cluster has not, and cannot get, what the workers need; or its GPUs are of
            several kinds.
    """
    gpus = cluster_gpus()
    config = with_devices(config, gpus)
    journal.event("device", message=device_line(config, gpus))
    if config.gpus:
        check_accelerators(living_nodes(), config.placement)
    missing = missing_places(_resources(config), config.worker_range[0])
    if missing:
        journal.event("waiting", message=missing)
    return config


def _placement(config: ExperimentConfig, journal: Journal) -> SpotFirst | None:
    """How workers prefer spot machines; None where there is nothing to prefer."""
    nodes = living_nodes()
    here = ray.get_runtime_context().get_node_id()
    if any(node.id == here and node.market == SPOT for node in nodes):
        journal.event("placement", message="the driver runs on a spot machine, which may go")
    return spot_first(
        nodes,
        _resources(config),
        config.worker_range,
        config.placement,
        grows=compat.max_resources() is not None,
        tell=partial(journal.event, "placement"),
    )


def cluster_gpus() -> int:
    """GPUs of the Ray that this process is connected to, as far as PyTorch can use them."""
    gpus = round(ray.cluster_resources().get("GPU", 0))
    # Ray counts what the machine has; a PyTorch without CUDA can use none of it.
    return min(gpus, torch.cuda.device_count()) if is_private() else gpus


def _resources(config: ExperimentConfig) -> dict[str, float]:
    """What a worker needs, by Ray's names."""
    gpu = {"GPU": 1.0, **accelerator_of(config.placement)} if config.gpus else {}
    return {"CPU": config.cpus_per_worker, **gpu}


def _journal(folder: Path) -> Journal:
    """What workers write to: the folder itself, or where they may be elsewhere, an actor here."""
    if is_private():
        return FileJournal(folder)
    # Pinned: the run's folder is on the disk of the driver's machine.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # No CPU: it must not take a worker's place.
    keeper = ray.remote(FileJournal).options(num_cpus=0, scheduling_strategy=here)
    return RemoteJournal(keeper.remote(folder))


def _worker(payload: dict[str, Any]) -> None:
    """One Ray Train worker."""
    # Only here: Ray Train's controller imports this module too, and needs none of it.
    from itpn_ray.training.launch.context import TrainContext
    from itpn_ray.training.launch.process import work

    config = from_dict(payload["config"])
    check_seen(config, payload["token"])
    config = unpack(config, payload["files"])
    worker = TrainContext.in_group(config)
    report = ray.train.report if payload["reports"] else _ignore
    work(config, worker, payload["journal"], report)


def _ignore(metrics: dict[str, float]) -> None:
    """Outside a sweep nobody waits for the metrics: the journal has them."""
