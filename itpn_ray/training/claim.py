"""The folder of a training run, claimed by its configuration."""

from __future__ import annotations

from pathlib import Path

from itpn_ray.experiment import FREE_TO_CHANGE, ExperimentConfig, as_saved_today, to_dict
from itpn_ray.runs.folder import CHECKPOINTS, claim, epochs_of, settings_before, write_about
from itpn_ray.runs.mirror import is_uri, run_place
from itpn_ray.storage import join
from itpn_ray.training.inputs import input_digests


def run_folder(config: ExperimentConfig) -> Path:
    """OUT/RUN, absolute; where OUT is a URI, the folder in which the run is worked on here."""
    return run_place(config.out, config.run)


def run_uri(config: ExperimentConfig) -> str:
    """Where the run is kept: a path of this machine, or a URI that all machines reach."""
    return join(config.out, config.run) if is_uri(config.out) else str(run_folder(config))


def checkpoint_uri(config: ExperimentConfig) -> str:
    """Where the run's checkpoints lie: where the configuration says, or with the run."""
    return config.checkpoint.uri or join(run_uri(config), CHECKPOINTS)


def claim_run(config: ExperimentConfig, command: str) -> bool:
    """Make the run's folder, or take it up again where the same run left it.

    Returns:
        Whether the run has begun before.

    Raises:
        ConfigError: see `itpn_ray.runs.folder.claim`.
        DataError: data, features or the folder cannot be read.
        CheckpointError: weights cannot be read.
    """
    folder = run_folder(config)
    before = claim(
        folder,
        to_dict(config),
        inputs=input_digests(config),
        command=command,
        free=FREE_TO_CHANGE,
        as_saved_today=as_saved_today,
    )
    write_about(folder, config.task.title, config.task.metrics)
    return before is not None


def earlier_epochs(config: ExperimentConfig) -> float | None:
    """The length that the run was given when it was started before; None where it is new."""
    before = settings_before(run_folder(config))
    return None if before is None else epochs_of(before)
