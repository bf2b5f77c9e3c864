"""A run from the driver's side: check, claim the folder, start the workers, follow, finish."""

from __future__ import annotations

import time
from pathlib import Path

from itpn_ray.errors import CheckpointError
from itpn_ray.experiment import ExperimentConfig, to_dict, with_absolute_paths
from itpn_ray.models import LoadReport
from itpn_ray.models.raw_files import EXPORT
from itpn_ray.ray_runtime.start import redirect_ray_output, start_ray
from itpn_ray.report import write_report
from itpn_ray.runs.folder import CONFIG, claim, run_folder
from itpn_ray.runs.follower import TrackingFollower
from itpn_ray.runs.journal import PLOTS, FileJournal
from itpn_ray.runs.lease import Lease
from itpn_ray.storage import check_writable
from itpn_ray.tasks.config import Classification, Detection
from itpn_ray.terminal.console import Console
from itpn_ray.tracking import create_tracker
from itpn_ray.tracking.base import RunStatus, flatten
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.process import open_checkpoints, work
from itpn_ray.training.launch.setup import check_fit, check_teacher, make_task, open_splits

RAY_LOG = "ray.log"


def preflight(config: ExperimentConfig) -> LoadReport | None:
    """Find in seconds, before a process is started, what would end the run later.

    Returns:
        What the network takes from the initial weights; None where there are none.

    Raises:
        ConfigError: a name, size or place that cannot be used.
        DataError: data that cannot be used.
        CheckpointError: initial weights that cannot be used.
    """
    from itpn_ray.models.config import find_size

    find_size(config.model.name)
    train_split, val_split = open_splits(config)
    check_fit(config, train_split, val_split)
    check_teacher(config, train_split, val_split)
    report = None
    if config.model.init:
        # Building once on the driver tells sizes that do not fit, in this process, in seconds.
        task = make_task(config, train_split.classes)
        task.build()
        report = task.load_report
    check_writable(config.out)
    if config.checkpoint.uri:
        check_writable(config.checkpoint.uri)
    return report


def run(config: ExperimentConfig, *, command: str, console: Console) -> Path:
    """Train from the first epoch, or from where the same command stopped, to the last.

    Returns:
        The run's folder.

    Raises:
        ItpnError: what ``preflight`` finds, a name in use, or an error within the run.
    """
    config = with_absolute_paths(config)
    report = preflight(config)
    with Lease(config.checkpoint.uri or str(run_folder(config)), name=config.run) as lease:
        folder, began = claim(config, command)
        console.log_to(folder / "train.log")
        if (folder / EXPORT).exists():
            console.say(f"run {config.run} is complete; nothing to do")
        else:
            if report is not None:
                console.say(f"{config.model.init}: {report}")
            _train(config, folder, began, console, lease)
    tracker = create_tracker(config.tracking, config.out)
    console.summary(folder, load_lines(config, folder), where={"tracking": tracker.where})
    return folder


def load_lines(config: ExperimentConfig, folder: Path) -> list[str]:
    """The Python that loads what a run has trained."""
    use = 'u1, u2, u3 = model.trunk.stages(model.preprocess("photo.jpg")[None])'
    if isinstance(config.task, Classification):
        use = 'logits = model(model.preprocess("photo.jpg")[None])'
    elif isinstance(config.task, Detection):
        use = '(found,) = model.detect(*model.preprocess("photo.jpg"))'
    return [
        "from itpn_ray.models import load_model",
        f'model = load_model("{folder / EXPORT}")',
        use,
    ]


def _train(
    config: ExperimentConfig, folder: Path, began: bool, console: Console, lease: Lease
) -> None:
    journal = FileJournal(folder)
    journal.event("start" if not began else "restart", workers=config.workers)
    tracker = create_tracker(config.tracking, config.out)
    tracker.start(config.run, flatten(to_dict(config)), key=str(folder))
    status: RunStatus = "FAILED"
    begin = time.time()
    try:
        with console.follow(folder), TrackingFollower(tracker, folder):
            _launch(config, folder, journal, console.verbosity == "verbose")
        lease.check()
        export(config, folder)
        status = "FINISHED"
    finally:
        journal.event("end", status=status, seconds=round(time.time() - begin, 1))
        report = write_report(folder)
        for path in (folder / CONFIG, report, *sorted((folder / PLOTS).glob("*.png"))):
            tracker.log_artifact(path, "plots" if path.parent.name == PLOTS else "")
        tracker.finish(status)


def _launch(config: ExperimentConfig, folder: Path, journal: FileJournal, verbose: bool) -> None:
    if config.workers == "0":
        worker = TrainContext.alone(gpu=config.gpus, threads=int(config.cpus_per_worker))
        work(config, worker, journal, lambda figures: None)
        return
    with start_ray(config.ray, verbose=verbose):
        from itpn_ray.training.launch.ray_trainer import launch

        with redirect_ray_output(folder / RAY_LOG, verbose=verbose):
            launch(config, folder)


def export(config: ExperimentConfig, folder: Path) -> Path:
    """Write the newest checkpoint's weights as ``exported/model.safetensors``.

    Raises:
        CheckpointError: there is no good checkpoint.
    """
    checkpoint = open_checkpoints(config).latest_good()
    if checkpoint is None:
        raise CheckpointError(
            str(folder), None, "holds no good checkpoint", "Repeat the command to train it"
        )
    train_split, _ = open_splits(config)
    task = make_task(config, train_split.classes)
    network = task.build()
    network.load_state_dict(checkpoint.load("network")["network"])
    path = folder / EXPORT
    path.parent.mkdir(exist_ok=True)
    task.export(network, path)
    return path
