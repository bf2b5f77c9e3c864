"""A run's weights as a file: at its end, and of a run that has not ended, on demand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.experiment import ExperimentConfig, from_dict
from itpn_ray.models.weights.raw_files import in_folder
from itpn_ray.models.zoo import is_zoo, zoo_file
from itpn_ray.runs.folder import CONFIG, EXPORT
from itpn_ray.runs.mirror import fetched, is_uri
from itpn_ray.storage import local_copy
from itpn_ray.training.checkpoint.writer import Checkpoint
from itpn_ray.training.launch.process import open_checkpoints
from itpn_ray.training.launch.setup import make_task, open_splits

UNFINISHED = "exported/step-{step:09d}.safetensors"
"""The weights of a checkpoint of a run that has not ended."""


def export(config: ExperimentConfig, folder: Path) -> Path:
    """Write ``exported/model.safetensors``, the weights that a run ends with: averaged, where it
    averages.

    They are those of the newest checkpoint, or of the best with ``checkpoint.keep_best``.

    Raises:
        CheckpointError: there is no good checkpoint.
    """
    return _write(config, _checkpoint(config), folder / EXPORT)


def weight_file(named: str, say: Callable[[str], None]) -> Path:
    """The weight file that is meant: a file, that of a run's or the Hub's folder, of ``zoo:NAME``.

    Of a run that has not ended, its checkpoint is exported, beside where the trained weights will
    be, unless an earlier call has done so.

    Args:
        named: a file or a run's folder.
        say: called with which checkpoint was taken.

    Raises:
        CheckpointError: there is no such file, or the folder holds no weights.
        DataError: the data of a run that has not ended cannot be read.
    """
    path = zoo_file(named) if is_zoo(named) else _here(named)
    if not path.is_dir():
        return path
    found = in_folder(path)
    if found is not None or not (path / CONFIG).is_file():
        return found or path / EXPORT
    config = _config_of(path)
    checkpoint = _checkpoint(config)
    file = path / UNFINISHED.format(step=checkpoint.step)
    say(
        f"run {config.run} has not ended: its checkpoint of step {checkpoint.step} is taken "
        f"(epoch {checkpoint.epoch:.4g} of {config.optim.epochs:g})"
    )
    if not file.is_file():
        # One at most is kept: the weights of an earlier step were asked for then, not now.
        for older in file.parent.glob("step-*.safetensors"):
            older.unlink()
        _write(config, checkpoint, file)
    return file


def _here(named: str) -> Path:
    """The file or folder that is meant, on this machine; remote ones are fetched.

    Raises:
        CheckpointError: there is nothing under the URI.
    """
    if not is_uri(named):
        return Path(named).expanduser().absolute()
    try:
        # What has a suffix is a file, anything else the folder of a run.
        return local_copy(named) if Path(named).suffix else fetched(named)
    except FileNotFoundError as error:
        raise CheckpointError(
            named, None, "does not exist", "Check the address of the run or the file"
        ) from error


def _config_of(folder: Path) -> ExperimentConfig:
    """The configuration of a run, wherever its folder lies by now."""
    plain = json.loads((folder / CONFIG).read_text())
    # The record also holds the command, which is no setting.
    plain.pop("command", None)
    try:
        config = from_dict(plain)
    except (ConfigError, KeyError, TypeError) as error:
        raise CheckpointError(
            str(folder / CONFIG),
            None,
            "is not the configuration of a training run",
            "Give the folder of a pre-training, fine-tuning or detection run, or a weight file",
        ) from error
    if is_uri(config.out):  # fetched: the checkpoints lie where the run is kept
        return config
    # A run's folder may have been moved or renamed since.
    return dataclasses.replace(config, run=folder.name, out=str(folder.parent))


def _checkpoint(config: ExperimentConfig) -> Checkpoint:
    store = open_checkpoints(config)
    checkpoint = store.best() if config.checkpoint.keep_best else None
    checkpoint = checkpoint or store.latest_good()
    if checkpoint is None:
        raise CheckpointError(
            store.uri, None, "holds no good checkpoint", "Repeat the command to train the run"
        )
    return checkpoint


def _write(config: ExperimentConfig, checkpoint: Checkpoint, path: Path) -> Path:
    train_split, _ = open_splits(config)
    task = make_task(config, train_split.classes)
    network = task.build()
    # This part alone is fetched and verified; an optimiser's moments are twice as large.
    network.load_state_dict(checkpoint.load("network")["network"])
    path.parent.mkdir(exist_ok=True)
    task.export(network, path)
    return path
