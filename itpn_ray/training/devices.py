"""GPU or CPU: what was asked for, or else a GPU where there is one."""

from __future__ import annotations

import dataclasses

import torch

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.formatting import number_of
from itpn_ray.ray_runtime.config import RayConfig

_ON_CPU = {
    "gpu": "Give --no-gpu to use the CPU",
    "gpus": "Give --no-gpus to use the CPU",
}


def use_gpu(field: str, asked: bool | None) -> bool:
    """Whether this machine's work runs on a GPU.

    Args:
        field: name of the setting, for the message.
        asked: its value; None: where there is one.

    Raises:
        ConfigError: one is asked for, and there is none.
    """
    there = torch.cuda.is_available()
    if asked and not there:
        raise ConfigError(field, True, "there is no GPU here", _ON_CPU[field])
    return there if asked is None else asked


def use_gpus(field: str, asked: bool | None, ray: RayConfig) -> bool:
    """Whether workers under Ray get a GPU each: on a cluster elsewhere only if asked for.

    Raises:
        ConfigError: one is asked for on this machine, and there is none.
    """
    # What this machine has says nothing of a cluster elsewhere.
    return bool(asked) if ray.is_elsewhere else use_gpu(field, asked)


def with_devices(config: ExperimentConfig, gpus: int) -> ExperimentConfig:
    """The experiment with its devices decided: a GPU a worker, where there are enough of them.

    Args:
        config: the experiment.
        gpus: how many there are.
    """
    if config.gpus is not None:
        return config
    # All workers or none: gradients cannot be averaged between devices of two kinds.
    return dataclasses.replace(config, gpus=gpus >= max(1, config.worker_range[0]))


def device_line(config: ExperimentConfig, gpus: int) -> str:
    """What `with_devices` chose, for people."""
    workers = max(1, config.worker_range[0])
    device = "GPU" if config.gpus else "CPU"
    few = f"{number_of(gpus, 'GPU')} {'is' if gpus == 1 else 'are'} too few"
    why = "" if config.gpus or not gpus else f": {few} for {number_of(workers, 'worker')}"
    return f"{workers} on a {device} each{why}"
