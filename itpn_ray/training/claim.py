"""The folder of a training run, claimed by its configuration."""

from __future__ import annotations

from pathlib import Path

from itpn_ray.experiment import ExperimentConfig, to_dict
from itpn_ray.runs.folder import claim, epochs_of, folder_of, settings_before, write_about

FREE_TO_CHANGE = (
    "workers",
    "gpus",
    "cpus_per_worker",
    "deterministic",
    "early_stopping",
    "max_failures",
    "log_every",
    "checkpoint.",
    "tracking.",
    "ray.",
    "loader.",
    "optim.micro_batch",
    "model.compile",
    "model.checkpoint_activations",
)
"""Fields that change how a run is computed and not what: they may differ when it is resumed."""


def run_folder(config: ExperimentConfig) -> Path:
    """OUT/RUN, absolute."""
    return folder_of(config.out, config.run)


def claim_run(config: ExperimentConfig, command: str) -> tuple[Path, bool]:
    """Make the run's folder, or take it up again where the same run left it.

    Returns:
        The folder, and whether the run has begun before.

    Raises:
        ConfigError: see `itpn_ray.runs.folder.claim`.
    """
    folder = run_folder(config)
    before = claim(folder, to_dict(config), command=command, free=FREE_TO_CHANGE)
    write_about(folder, config.task.title, config.task.metrics)
    return folder, before is not None


def earlier_epochs(config: ExperimentConfig) -> float | None:
    """The length that the run was given when it was started before; None where it is new."""
    before = settings_before(run_folder(config))
    return None if before is None else epochs_of(before)
