"""What a run reads, told by its content: data, features and weights may move, but not change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.data.store.teacher_features import read_features
from itpn_ray.errors import CheckpointError, DataError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.tasks.clip_pretraining.teacher import teacher_digest
from itpn_ray.tasks.pretraining_config import ClipPretraining

Digests = Mapping[str, str]
"""Field that names an input -> SHA-256 (hex) of what it names."""
INPUTS = "inputs.json"
"""File in a run's folder with what `input_digests` gave when the run began."""


def input_digests(config: ExperimentConfig) -> Digests:
    """Digests of all that a run reads.

    Raises:
        DataError: data or features are missing or damaged.
        CheckpointError: a weight file is missing.
    """
    found = {"data": read_manifest(config.data).digest}
    if config.model.init and "://" not in config.model.init:
        found["model.init"] = _file_digest(config.model.init)
    task = config.task
    if isinstance(task, ClipPretraining) and task.features:
        found["task.features"] = read_features(task.features).digest
    elif isinstance(task, ClipPretraining):
        found["task.teacher"] = teacher_digest(task.teacher)
    return found


def read_inputs(folder: Path) -> Digests:
    """The digests that a run's folder holds; none in the folder of an older version.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / INPUTS
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(found, dict):
        raise _damaged(path)
    return found


def write_inputs(folder: Path, digests: Digests) -> None:
    """Keep the digests in a run's folder."""
    (folder / INPUTS).write_text(json.dumps(digests, indent=1))


def _file_digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(path, None, f"cannot be read: {error}", "Check the path") from error


def _damaged(path: Path) -> DataError:
    return DataError(
        str(path), None, "is damaged", "Delete it if the data and weights are the run's own"
    )
