"""The run's folder: claimed by one configuration; of an evaluation, renewed by the next."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from itpn_ray.commands.config import EvaluateConfig
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, to_dict
from itpn_ray.report import REPORT
from itpn_ray.runs.journal import EVENTS, METRICS, PLOTS, RESULTS, STATUS
from itpn_ray.tracking.base import flatten

CONFIG = "config.json"
EVALUATED = (
    *(METRICS, EVENTS, RESULTS, REPORT, "train.log", "detections_r*.json"),
    *(f"{PLOTS}/*", f"{STATUS}/*"),
)
"""What an evaluation writes, beside its settings."""
EXPORT = "exported/model.safetensors"
"""The trained weights; there once the run has come to its end."""
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
    return Path(config.out).expanduser().absolute() / config.run


def claim(config: ExperimentConfig, command: str) -> tuple[Path, bool]:
    """Make the run's folder, or take it up again where the same run left it.

    A run may be extended: asked for more epochs than before, it goes on from its last checkpoint.

    Returns:
        The folder, and whether the run has begun before.

    Raises:
        ConfigError: the folder cannot be written, or holds a run with other settings.
    """
    folder = run_folder(config)
    path = folder / CONFIG
    plain = {**to_dict(config), "command": command}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text()) if path.exists() else None
        if before is not None:
            _refuse_other_settings(config, before, plain)
            if before["optim"]["epochs"] < config.optim.epochs:
                _make_way(folder, before["optim"]["epochs"])
        path.write_text(json.dumps(plain, indent=1))
    except OSError as error:
        raise ConfigError(
            "out", config.out, f"cannot be written ({error.strerror})", "Choose another --out"
        ) from error
    return folder, before is not None


def renew(config: EvaluateConfig, command: str) -> tuple[Path, str]:
    """Make the folder of an evaluation, rid of all that an earlier one wrote.

    Returns:
        The folder, and the weights that the earlier evaluation was of; empty where there was none.

    Raises:
        ConfigError: the folder cannot be written, or holds something else than an evaluation.
    """
    folder = Path(config.out).expanduser().absolute() / config.run
    path = folder / CONFIG
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = json.loads(path.read_text()) if path.exists() else {}
        if any(folder.iterdir()) and not {"weights", "migration"} <= before.keys():
            raise ConfigError(
                "run",
                config.run,
                f"{folder} holds something else than an evaluation",
                "Choose another --run",
            )
        path.write_text(json.dumps({**dataclasses.asdict(config), "command": command}, indent=1))
        for earlier in (found for name in EVALUATED for found in folder.glob(name)):
            earlier.unlink()
    except OSError as error:
        raise ConfigError(
            "out", config.out, f"cannot be written ({error.strerror})", "Choose another --out"
        ) from error
    return folder, str(before.get("weights", ""))


def earlier_epochs(config: ExperimentConfig) -> float | None:
    """The length that the run was given when it was started before; None where it is new."""
    path = run_folder(config) / CONFIG
    return json.loads(path.read_text())["optim"]["epochs"] if path.exists() else None


def _make_way(folder: Path, epochs: float) -> None:
    """Rename the weights of the shorter run: while they are there, a run counts as ended."""
    path = folder / EXPORT
    if path.exists():
        path.rename(path.with_name(f"model-{epochs:g}-epochs.safetensors"))


def _refuse_other_settings(
    config: ExperimentConfig, before: dict[str, Any], now: dict[str, Any]
) -> None:
    # Compared as JSON has them: what was a tuple is a list there.
    old, new = flatten(before), flatten(json.loads(json.dumps(now)))
    changed = [
        name
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and name != "command"
        and not (name == "optim.epochs" and before["optim"]["epochs"] < config.optim.epochs)
        and not name.startswith(FREE_TO_CHANGE)
    ]
    if changed:
        shown = ", ".join(f"{n} (was {old.get(n)!r}, now {new.get(n)!r})" for n in changed[:3])
        raise ConfigError(
            "run",
            config.run,
            f"is in use by a run with other settings: {shown}",
            "Choose another --run, or repeat the command of the first run to resume it",
        )
