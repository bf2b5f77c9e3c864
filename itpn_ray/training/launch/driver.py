"""A run from the driver's side: check, claim the folder, start the workers, follow, finish."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

from itpn_ray.costs.prices import prices_of
from itpn_ray.data.doctor.balance import untaught
from itpn_ray.data.store.manifest import read_manifest
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, to_dict, with_absolute_paths
from itpn_ray.formatting import number_of
from itpn_ray.interrupt import Interrupted, answering, keep_sigterm
from itpn_ray.models import LoadReport
from itpn_ray.ray_runtime.start import redirect_ray_output, start_ray
from itpn_ray.runs.folder import EXPORT, LOG, tracking_key
from itpn_ray.runs.follower import TrackingFollower
from itpn_ray.runs.journal import FileJournal
from itpn_ray.runs.lease import Lease
from itpn_ray.runs.mirror import is_uri, kept
from itpn_ray.storage import check_writable, join
from itpn_ray.tasks.registry import task_class
from itpn_ray.terminal.console import Console
from itpn_ray.tracking import create_tracker
from itpn_ray.tracking.base import DataSource, flatten
from itpn_ray.training.averaging import describe_average
from itpn_ray.training.claim import claim_run, earlier_epochs, run_folder, run_uri
from itpn_ray.training.devices import use_gpu, use_gpus
from itpn_ray.training.ending import recorded_end
from itpn_ray.training.exporting import export
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.process import work
from itpn_ray.training.launch.setup import check_fit, make_task, open_splits
from itpn_ray.training.schedule import learning_rate, total_steps
from itpn_ray.training.spending import Spending
from itpn_ray.training.stopping import StopRequest

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

    # For its error alone: a misspelt name is told before any data are opened.
    find_size(config.model.name)
    # Both for their errors alone.
    use_gpus("gpus", config.gpus, config.ray)
    prices_of(config.cost)
    train_split, val_split = open_splits(config)
    check_fit(config, train_split, val_split)
    name = config.tracking.register
    if name and not task_class(config.task).answers():
        raise ConfigError(
            "tracking.register",
            name,
            f"is for networks that answer, and those of {config.task.name} do not",
            "Leave it out",
        )
    report = None
    if config.model.init or config.model.elastic_migration:
        # Building once on the driver tells sizes and ratios that do not fit, here, in seconds.
        task = make_task(config, train_split.classes)
        task.check_elastic(task.build())
        report = task.load_report
    # After what costs nothing, for this writes to the store.
    check_writable(config.out)
    if config.checkpoint.uri:
        check_writable(config.checkpoint.uri)
    return report


def run(
    config: ExperimentConfig, *, command: str, console: Console, parent: str | None = None
) -> Path:
    """Train from the first epoch, or from where the same command stopped, to the last.

    Args:
        config: what to train.
        command: for the run's record.
        console: to tell people.
        parent: the tracker's key of a run that this one is nested in, such as its sweep.

    Returns:
        The run's folder.

    Raises:
        ItpnError: what ``preflight`` finds, a name in use, or an error within the run.
    """
    config = with_absolute_paths(config)
    report = preflight(config)
    folder = run_folder(config)
    with (
        # The lease first: nothing in the run's place may be touched before it is this driver's.
        Lease(config.checkpoint.uri or run_uri(config), name=config.run) as lease,
        kept(config.out, config.run, lease.confirm),
    ):
        # Before the claim, which writes the settings of today.
        earlier = earlier_epochs(config)
        began = claim_run(config, command)
        console.log_to(folder / LOG)
        if earlier is not None and earlier < config.optim.epochs:
            console.say(_extension_line(config, earlier))
        if (folder / EXPORT).exists():
            console.say(f"run {config.run} is complete; nothing to do")
        else:
            # A run that goes on has the weights of its checkpoint, or has told it before.
            if report is not None and not began:
                console.say(f"{config.model.init}: {report}")
            if missing := _never_learned(config):
                console.warn(missing)
            if average := describe_average(config, _steps(config)):
                console.say(f"average of {average}")
            _train(config, folder, began, console, lease, command, parent)
    if parent is not None:
        # The sweep that it is a part of tells at its own end what to do with the weights.
        return folder
    # For its address alone, for the run's own tracker is closed by now.
    tracker = create_tracker(config.tracking, config.out)
    lines = task_class(config.task).load_lines(join(run_uri(config), EXPORT))
    kept_at = {"run": run_uri(config)} if is_uri(config.out) else {}
    console.summary(folder, lines, where={"tracking": tracker.where, **kept_at})
    return folder


def _never_learned(config: ExperimentConfig) -> str:
    """Classes that are evaluated and not trained on, in words; empty where none are."""
    # Pre-training learns no class, whatever the data have.
    missing = task_class(config.task).answers() and untaught(read_manifest(config.data))
    return f"{missing}: never learned, and counted as mistakes" if missing else ""


def _steps(config: ExperimentConfig) -> int:
    """Steps of the whole run."""
    train_split, _ = open_splits(config)
    return total_steps(config.optim, len(train_split) // config.optim.global_batch)


def _extension_line(config: ExperimentConfig, earlier: float) -> str:
    """What an extended run does with the learning rate: it goes on with the longer run's."""
    optim = config.optim
    per_epoch = len(open_splits(config)[0]) // optim.global_batch
    # Without the warm-up, which may be longer than the run was before, and is then refused.
    end = total_steps(dataclasses.replace(optim, epochs=earlier, warmup_epochs=0), per_epoch)
    rate = learning_rate(optim, end, per_epoch)
    return (
        f"run {config.run} is extended from {earlier:g} to {number_of(optim.epochs, 'epoch')}: the "
        f"learning rate follows the schedule of {number_of(optim.epochs, 'epoch')}, {rate:.3g} "
        f"after epoch {earlier:g}"
    )


def _train(
    config: ExperimentConfig,
    folder: Path,
    began: bool,
    console: Console,
    lease: Lease,
    command: str,
    parent: str | None,
) -> None:
    tracker = create_tracker(config.tracking, config.out)
    tracker.start(config.run, flatten(to_dict(config)), key=tracking_key(folder), parent=parent)
    tracker.log_source(command, _source(config))
    journal = FileJournal(folder)
    journal.event("start" if not began else "restart", workers=config.workers)
    with recorded_end(journal, folder, tracker, console):
        with console.follow(folder), TrackingFollower(tracker, folder):
            _launch(config, folder, journal, console.verbosity == "verbose")
        lease.check()
        # Only with the lease: another driver may have taken over the run meanwhile.
        weights = export(config, folder)
        if config.tracking.register:
            tracker.log_model(weights, config.tracking.register)


def _source(config: ExperimentConfig) -> DataSource:
    """The data, for the tracker."""
    manifest = read_manifest(config.data)
    images = {name: split.count for name, split in manifest.splits.items()}
    return DataSource(uri=config.data, digest=manifest.digest, images=images)


def _launch(config: ExperimentConfig, folder: Path, journal: FileJournal, verbose: bool) -> None:
    """Train until the last epoch.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; where workers train, they have saved a checkpoint.
        CapReached: the machines have cost ``max_cost``; the same.
    """
    # One that a killed driver has left must not stop this one.
    journal.take_back_stop()
    request = StopRequest(journal)
    try:
        if config.workers == "0":
            with answering(request, signal.SIGINT), keep_sigterm():  # the worker answers SIGTERM
                gpu = use_gpu("gpus", config.gpus)
                journal.event("device", message="GPU" if gpu else "CPU")
                worker = TrainContext.alone(gpu=gpu, threads=int(config.cpus_per_worker))
                with _spending(config, folder, request):
                    work(config, worker, journal, lambda metrics: None)
        else:
            _launch_on_ray(config, folder, request, verbose)
        request.check()
    except Interrupted:
        # If both asked, the cap's reason is told, not the signal.
        request.check()
        raise
    finally:
        journal.take_back_stop()


def _launch_on_ray(
    config: ExperimentConfig, folder: Path, request: StopRequest, verbose: bool
) -> None:
    with (
        redirect_ray_output(folder / RAY_LOG, verbose=verbose),
        start_ray(config.ray, verbose=verbose),
    ):
        from itpn_ray.training.launch.ray_trainer import launch

        with (
            answering(request, signal.SIGINT, signal.SIGTERM),
            _spending(config, folder, request),
        ):
            launch(config, folder)


def _spending(config: ExperimentConfig, folder: Path, request: StopRequest) -> Spending:
    return Spending(folder, config.cost, prices_of(config.cost), request)
