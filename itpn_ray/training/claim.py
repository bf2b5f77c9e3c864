"""The folder of a training run, claimed by its configuration."""

from __future__ import annotations

from pathlib import Path

from itpn_ray.experiment import ExperimentConfig, to_dict
from itpn_ray.runs.folder import claim, epochs_of, folder_of, settings_before
from itpn_ray.training.inputs import input_digests

FREE_TO_CHANGE = (
    "out",
    "run",
    "workers",
    "gpus",
    "cpus_per_worker",
    "deterministic",
    "early_stopping",
    "max_failures",
    "log_every",
    "checkpoint",
    "tracking",
    "ray",
    "loader",
    "optim.micro_batch",
    "model.compile",
    "model.checkpoint_activations",
)
"""Fields that change where or how a run is computed and not what: they may differ on resuming."""


def run_folder(config: ExperimentConfig) -> Path:
    """OUT/RUN, absolute."""
    return folder_of(config.out, config.run)


def claim_run(config: ExperimentConfig, command: str) -> tuple[Path, bool]:
    """Make the run's folder, or take it up again where the same run left it.

    Returns:
        The folder, and whether the run has begun before.

    Raises:
        ConfigError: see `itpn_ray.runs.folder.claim`.
        DataError: data, features or the folder cannot be read.
        CheckpointError: weights cannot be read.
    """
    folder = run_folder(config)
    digests = input_digests(config)
    before = claim(folder, to_dict(config), inputs=digests, command=command, free=FREE_TO_CHANGE)
    return folder, before is not None


def earlier_epochs(config: ExperimentConfig) -> float | None:
    """The length that the run was given when it was started before; None where it is new."""
    before = settings_before(run_folder(config))
    return None if before is None else epochs_of(before)
