"""What a run reads and writes must be there on every machine of a cluster."""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.models.zoo import is_zoo
from itpn_ray.ray_runtime.machines import SHARED, Shipped, require_seen, shared_folder, ship
from itpn_ray.storage import is_s3, join
from itpn_ray.training.claim import checkpoint_uri


@contextmanager
def shared_places(config: ExperimentConfig) -> Iterator[str]:
    """Refuse a local folder that another machine of the cluster does not see.

    Checkpoints are looked for by a file written here for the purpose; data and features by their
    manifests.

    Yields:
        That file, for `check_seen` on machines that join meanwhile; empty where none is needed.

    Raises:
        ConfigError: names the setting, and the machine that does not see the folder.
    """
    for field, folder in (
        ("data", config.data),
        ("task.features", getattr(config.task, "features", "")),
    ):
        if folder and not is_s3(folder):
            manifest = os.path.abspath(join(folder, "manifest.json"))
            require_seen(field, folder, manifest, "Prepare it under s3://BUCKET/PREFIX")
    hint = "Give --out s3://BUCKET/PREFIX"
    with shared_folder("out", config.out, checkpoint_uri(config), hint) as token:
        yield token


def check_seen(config: ExperimentConfig, token: str) -> None:
    """What a worker does first: its machine may have joined after `shared_places` has asked.

    Raises:
        ConfigError: this machine does not see the folder.
    """
    if token and not os.path.exists(token):
        raise ConfigError(
            "out",
            config.out,
            f"is a folder that {socket.gethostname()}, which has joined the run, does not see",
            f"Give --out s3://BUCKET/PREFIX, {SHARED}",
        )


def local_files(config: ExperimentConfig) -> dict[str, Shipped]:
    """The local files that workers need, put into Ray's object store once, by setting."""
    named = {"init": config.model.init, "teacher": getattr(config.task, "teacher", "")}
    # Names of the zoo mean the same on every machine.
    shipped = {field: ship(path) for field, path in named.items() if not is_zoo(path)}
    return {field: file for field, file in shipped.items() if file is not None}


def unpack(config: ExperimentConfig, files: Mapping[str, Shipped]) -> ExperimentConfig:
    """The experiment as a worker uses it: with the copies of the shipped files on its machine."""
    if "init" in files:
        model = dataclasses.replace(config.model, init=files["init"].here())
        config = dataclasses.replace(config, model=model)
    if "teacher" in files:
        task: Any = dataclasses.replace(config.task, **{"teacher": files["teacher"].here()})
        config = dataclasses.replace(config, task=task)
    return config
