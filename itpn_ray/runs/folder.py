"""The run's folder: claimed by one configuration, resumed by the same one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, to_dict
from itpn_ray.tracking.base import flatten
from itpn_ray.training.inputs import Digests, input_digests, read_inputs, write_inputs

CONFIG = "config.json"
FREE_TO_CHANGE = (
    "out",
    "run",
    "workers",
    "gpus",
    "cpus_per_worker",
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
"""Fields that change where or how a run is computed and not what: they may differ on resuming."""


def run_folder(config: ExperimentConfig) -> Path:
    """OUT/RUN, absolute."""
    return Path(config.out).expanduser().absolute() / config.run


def claim(config: ExperimentConfig, command: str) -> tuple[Path, bool]:
    """Make the run's folder, or take it up again where the same run left it.

    The folder, the data and the weights that it began with may have moved since: that they are the
    same is told by their content, see `itpn_ray.training.inputs`.

    Returns:
        The folder, and whether the run has begun before.

    Raises:
        ConfigError: the folder cannot be written, or holds a run with other settings or inputs.
        DataError: the data cannot be read.
        CheckpointError: weights cannot be read.
    """
    folder = run_folder(config)
    path = folder / CONFIG
    digests = input_digests(config)
    plain = {**to_dict(config), "command": command}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text()) if path.exists() else None
        if before is not None:
            _refuse_others(config, changes(before, plain, read_inputs(folder), digests))
        write_inputs(folder, digests)
        path.write_text(json.dumps(plain, indent=1))
    except OSError as error:
        raise ConfigError(
            "out", config.out, f"cannot be written ({error.strerror})", "Choose another --out"
        ) from error
    return folder, before is not None


def changes(
    before: dict[str, Any], now: dict[str, Any], inputs_before: Digests, inputs: Digests
) -> list[str]:
    """What differs between two configurations and their inputs, in words.

    An input is compared by its content where that is known, in place of its path.
    """
    # Compared as JSON has them: what was a tuple is a list there.
    old, new = flatten(before), flatten(json.loads(json.dumps(now)))
    compared = inputs_before.keys() & inputs.keys()
    differ = [f"{name} (other content)" for name in compared if inputs_before[name] != inputs[name]]
    return sorted(differ) + [
        f"{name} (was {old.get(name)!r}, now {new.get(name)!r})"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and name not in compared and not _is_free(name)
    ]


def _is_free(name: str) -> bool:
    parts = tuple(free for free in FREE_TO_CHANGE if free.endswith("."))
    return name in ("command", *FREE_TO_CHANGE) or name.startswith(parts)


def _refuse_others(config: ExperimentConfig, changed: list[str]) -> None:
    if changed:
        raise ConfigError(
            "run",
            config.run,
            f"is in use by a run with other settings: {', '.join(changed[:3])}",
            "Choose another --run, or repeat the command of the first run to resume it",
        )
