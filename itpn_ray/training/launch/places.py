"""What a run reads and writes must be there on every machine of a cluster.

A private Ray has one machine, and nothing is to be checked or sent.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.models.zoo import is_zoo
from itpn_ray.runs.mirror import is_uri
from itpn_ray.training.claim import checkpoint_uri

ANSWER_S = 60.0
"""Seconds in which a node must say what it sees."""


def check_shared(config: ExperimentConfig) -> None:
    """Refuse a local folder that another machine of the cluster does not see.

    Checkpoints are looked for by a file written here for the purpose; data and features by their
    manifests. Machines that join later cannot be asked.

    Raises:
        ConfigError: names the setting, and the machine that does not see the folder.
    """
    others = _other_nodes()
    if not others:
        return
    checkpoints = checkpoint_uri(config)
    if not is_uri(checkpoints):
        # A file that cannot have been there: another machine may have a folder of the same name.
        token = Path(checkpoints) / f"seen-{secrets.token_hex(8)}"
        token.parent.mkdir(parents=True, exist_ok=True)
        token.touch()
        try:
            _require("out", config.out, str(token), others, "Give --out s3://BUCKET/PREFIX")
        finally:
            token.unlink()
    for field, folder in (
        ("data", config.data),
        ("task.features", getattr(config.task, "features", "")),
    ):
        if folder and not is_uri(folder):
            manifest = str(Path(folder) / "manifest.json")
            _require(field, folder, manifest, others, "Prepare it under s3://BUCKET/PREFIX")


def _require(field: str, place: str, path: str, nodes: Mapping[str, str], hint: str) -> None:
    """Raise ConfigError unless every node sees a file."""
    for node, seen in _ask(nodes, lambda: os.path.exists(path)).items():
        if not seen:
            raise ConfigError(
                field,
                place,
                f"is a folder of this machine, which {nodes[node]} does not see",
                f"{hint}, or a folder that all machines mount",
            )


def _other_nodes() -> dict[str, str]:
    """Id -> address of the living nodes but this one."""
    here = ray.get_runtime_context().get_node_id()
    return {
        node["NodeID"]: node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["NodeID"] != here
    }


def _ask(nodes: Mapping[str, str], question: Callable[[], bool]) -> dict[str, bool]:
    """What each node answers."""
    # No CPU, for training may hold them all; no retry, for a lost node is an answer.
    task = ray.remote(question).options(num_cpus=0, max_retries=0)
    answers = {
        node: task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)
        ).remote()
        for node in nodes
    }
    found = ray.get(list(answers.values()), timeout=ANSWER_S)
    return dict(zip(answers, found, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shipped:
    """A local file of the driver's, for workers on machines that have no such file.

    Attributes:
        name: of the file.
        sha256: of its content, hex.
        content: reference to it in Ray's object store, uint8 (bytes,).
    """

    name: str
    sha256: str
    content: Any

    def here(self) -> str:
        """A copy on this machine, shared by its workers; one that is there already is taken."""
        folder = Path(tempfile.gettempdir()) / f"itpn_ray_shipped_{os.getuid()}" / self.sha256[:16]
        target = folder / self.name
        if not target.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            # Several workers of a machine may write it at once; each replaces a whole file.
            part = target.with_name(f".{target.name}.{os.getpid()}")
            ray.get(self.content).tofile(part)
            part.replace(target)
        return str(target)


def ship(config: ExperimentConfig) -> dict[str, Shipped]:
    """The local files that workers need, put into Ray's object store once, by setting."""
    if not _other_nodes():
        return {}
    named = {"init": config.model.init, "teacher": getattr(config.task, "teacher", "")}
    return {
        field: _shipped(Path(path).expanduser())
        for field, path in named.items()
        if path and not is_uri(path) and not is_zoo(path)
    }


def _shipped(path: Path) -> Shipped:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    # Mapped, so that the file is copied into the object store once and never into this process.
    content = np.memmap(path, dtype=np.uint8, mode="r")
    return Shipped(name=path.name, sha256=digest, content=ray.put(np.asarray(content)))


def unpack(config: ExperimentConfig, files: Mapping[str, Shipped]) -> ExperimentConfig:
    """The experiment as a worker uses it: with the copies of the shipped files on its machine."""
    if "init" in files:
        model = dataclasses.replace(config.model, init=files["init"].here())
        config = dataclasses.replace(config, model=model)
    if "teacher" in files:
        task: Any = dataclasses.replace(config.task, **{"teacher": files["teacher"].here()})
        config = dataclasses.replace(config, task=task)
    return config
