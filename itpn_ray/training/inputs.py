"""What a run reads, recognised by its content: all of it may move, but not change."""

from __future__ import annotations

import hashlib
from pathlib import Path

from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import CheckpointError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.models.weights.raw_files import locate
from itpn_ray.training.launch.setup import make_task


def input_digests(config: ExperimentConfig) -> dict[str, str]:
    """SHA-256 (hex) of all that a run reads, by the field that names it.

    Raises:
        DataError: data or features are missing or damaged.
        CheckpointError: a weight file is missing, or cannot be fetched.
    """
    manifest = read_manifest(config.data)
    found = {"data": manifest.digest}
    if config.model.init:
        # A remote file is copied to this machine, where building the network has it from.
        found["model.init"] = _file_digest(locate(config.model.init))
    return found | make_task(config, manifest.classes).input_digests()


def _file_digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            str(path), None, f"cannot be read: {error}", "Check the path"
        ) from error
