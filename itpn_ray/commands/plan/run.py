"""What a run would take: counted from its configuration, and timed in a few real steps."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from itpn_ray.commands.plan.config import PlanConfig
from itpn_ray.commands.plan.cost import PlannedCost, keep, planned_cost
from itpn_ray.costs.prices import prices_of
from itpn_ray.data.loading.order import share
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.errors import ConfigError, ItpnError
from itpn_ray.experiment import ExperimentConfig, without_evaluations
from itpn_ray.formatting import number_of, show_duration
from itpn_ray.models.config import find_size
from itpn_ray.runs.journal import EVENTS, METRICS, FileJournal, read_lines
from itpn_ray.runs.mirror import is_uri
from itpn_ray.terminal.console import Console
from itpn_ray.terminal.item_progress import Count, progress_bar
from itpn_ray.training.advice import find_advice, refuse_long_timing
from itpn_ray.training.averaging import describe_average
from itpn_ray.training.devices import use_gpu
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.process import work
from itpn_ray.training.launch.setup import check_settings, make_task, open_splits
from itpn_ray.training.loop import micro_batches
from itpn_ray.training.schedule import total_steps

BYTES = 4
"""Of a number: weights, gradients and moments are float32."""


@dataclass(frozen=True, kw_only=True)
class RunSize:
    """What the configuration alone tells.

    Attributes:
        parameters: numbers that are trained.
        multiply_adds: of an image's forward pass, by network: all matrix products.
        state_gb: weights, gradients, AdamW's moments and averages of a worker, 10^9 bytes; where
            they are sharded, with the fewest workers.
        workers: most workers.
        share: images a step of the worker with most.
        accumulation: micro-batches a step.
        per_epoch: steps an epoch.
        steps: steps of the run.
    """

    parameters: int
    multiply_adds: dict[str, int]
    state_gb: float
    workers: int
    share: int
    accumulation: int
    per_epoch: int
    steps: int


@dataclass(frozen=True, kw_only=True)
class Timing:
    """What a few steps of one worker's share took on this machine.

    Attributes:
        device: what they ran on.
        seconds: a step, mean.
        phases: of these, by phase.
        memory_gb: most memory used, 10^9 bytes: of the GPU, or of the process on a CPU.
        checkpoint_s: seconds that a checkpoint held the training up.
        fastest: seconds of the fastest step.
        slowest: of the slowest.
    """

    device: str
    seconds: float
    phases: dict[str, float]
    memory_gb: float
    checkpoint_s: float
    fastest: float
    slowest: float


def plan(config: PlanConfig, *, name: str, console: Console) -> tuple[RunSize, Timing | None]:
    """Count, time and say what a run would take.

    Args:
        config: the run, the steps to time.
        name: of the recipe.
        console: where it is said.

    Returns:
        What was counted, and what was timed: None where nothing could be, which is said too.

    Raises:
        ConfigError: no data, no such machine, or settings that could not train on the data.
        DataError: data that cannot be used.
    """
    experiment = config.experiment
    prices = prices_of(experiment.cost)
    train, val = open_splits(experiment)
    check_settings(experiment, train, val)
    size = count(experiment, train)
    problems = [*find_problems(experiment, size), *find_advice(experiment, train)]
    timing = None
    try:
        make_task(experiment, train.classes).check(train, val)
        if config.measured_steps:
            with progress_bar(console, "timing steps") as done:
                timing = measure(experiment, size, config.measured_steps, done)
    # What keeps steps from being timed is told as a problem; what was counted is shown.
    except ItpnError as error:
        problems.append(f"no steps were timed: {error}")
    console.say(f"{name} on {number_of(len(train), 'image')} of {experiment.data}")
    _say_size(console.say, experiment, size)
    if timing is not None:
        _say_timing(console.say, experiment, size, timing, config.measured_steps)
        if prices is not None and experiment.cost.machine:
            cost = planned_cost(
                experiment,
                prices,
                workers=size.workers,
                steps=size.steps,
                step_s=(timing.fastest, timing.slowest),
                checkpoint_s=timing.checkpoint_s,
            )
            console.say(f"  cost           {cost}")
            problems += _cap_problem(experiment, cost)
            keep(experiment, cost)
    for problem in problems:
        console.warn(problem)
    return size, timing


def _say_size(say: Callable[[str], None], config: ExperimentConfig, size: RunSize) -> None:
    say(f"  parameters     {size.parameters / 1e6:,.2f} M trained")
    for part, adds in size.multiply_adds.items():
        say(f"  multiply-adds  {_number(adds / 1e9)} G an image forward: {part}")
    say(
        f"  batch          {config.optim.global_batch:,}: {number_of(size.workers, 'worker')}, "
        f"{number_of(size.share, 'image')} each in "
        f"{number_of(size.accumulation, 'micro-batch', 'micro-batches')}"
    )
    say(
        f"  steps          {size.per_epoch:,} an epoch, {size.steps:,} in "
        f"{number_of(config.optim.epochs, 'epoch')}"
    )
    if average := describe_average(config, size.steps):
        say(f"  average        {average}")
    say(f"  state          {size.state_gb:.2f} GB a worker: weights, gradients, AdamW, averages")


def _say_timing(
    say: Callable[[str], None], config: ExperimentConfig, size: RunSize, timing: Timing, steps: int
) -> None:
    parts = ", ".join(f"{phase} {spent:.2g}" for phase, spent in timing.phases.items())
    hours = size.steps * timing.seconds / 3600
    on_gpus = torch.cuda.is_available() if config.gpus is None else config.gpus
    unit = "GPU-hours" if on_gpus else "worker-hours"
    say(f"  timed on       {timing.device}, {number_of(steps, 'step')} of one worker")
    say(f"  a step         {timing.seconds:.3g} s ({parts})")
    say(f"  memory         {timing.memory_gb:.2f} GB a worker at most")
    say(f"  a checkpoint   holds it up for {timing.checkpoint_s:.2g} s")
    say(
        f"  the run        {show_duration(3600 * hours)}, {_number(size.workers * hours)} "
        f"{unit}; exchange of gradients and evaluations come on top"
    )


def _cap_problem(config: ExperimentConfig, cost: PlannedCost) -> list[str]:
    """Where the run would end at its cap before it is done."""
    cap = config.cost.max_cost
    if not cap or cost.low is None or cost.low <= cap:
        return []
    return [f"--max-cost {cap:g} is less than the run costs at best: it would end before its end"]


def count(config: ExperimentConfig, train: ShardedDataset) -> RunSize:
    """What the configuration alone tells; networks are made on the meta device.

    Raises:
        ConfigError: no such network.
    """
    find_size(config.model.name)
    with torch.device("meta"), warnings.catch_warnings():
        # Initial weights have nowhere to go on the meta device, of which PyTorch warns tensor by
        # tensor; they still decide what is trained.
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
        task = make_task(config, train.classes)
        network = task.build()
    adds = task.multiply_adds(network)
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    state = sum(t.numel() for t in network.state_dict().values())
    # 0 workers: this process alone.
    workers = max(1, config.worker_range[1])
    # The largest share, for all wait for its worker.
    start, stop = max(_shares(config.optim.global_batch, workers), key=lambda s: s[1] - s[0])
    per_epoch = len(train) // config.optim.global_batch
    # The fewest workers: each then holds the most.
    holders = max(1, config.worker_range[0]) if config.sharded else 1
    return RunSize(
        parameters=trained,
        multiply_adds=adds,
        # Beside the state itself: gradients, and AdamW's two moments, of what is trained.
        state_gb=BYTES * (state + 3 * trained) / 1e9 / holders,
        workers=workers,
        share=stop - start,
        accumulation=micro_batches(config.optim, workers),
        per_epoch=per_epoch,
        steps=total_steps(config.optim, per_epoch),
    )


def find_problems(config: ExperimentConfig, size: RunSize) -> list[str]:
    """Where the run would do otherwise than its numbers suggest."""
    problems = []
    batch = config.optim.global_batch
    if 0 < size.per_epoch < size.accumulation:
        problems.append(
            f"an epoch has {number_of(size.per_epoch, 'step')}, fewer than the {size.accumulation} "
            "micro-batches that each of them accumulates: use a smaller --optim.global-batch or "
            "more --workers"
        )
    shares = sorted({stop - start for start, stop in _shares(batch, size.workers)})
    if len(shares) > 1:
        problems.append(
            f"a batch of {batch:,} does not divide among {size.workers} workers: shares of "
            f"{shares[0]} and {shares[-1]} images, and all wait for the largest"
        )
    if size.share % size.accumulation:
        least = size.share // size.accumulation
        problems.append(
            f"a share of {size.share} does not divide into {size.accumulation} micro-batches: they "
            f"have {least} or {least + 1} images"
        )
    return problems


def _shares(batch: int, workers: int) -> list[tuple[int, int]]:
    return [share(batch, rank, workers) for rank in range(workers)]


def measure(
    config: ExperimentConfig, size: RunSize, steps: int, done: Count = lambda done, total: None
) -> Timing:
    """Run the training loop on one worker's share for some steps, and read what it recorded.

    The first step warms up and does not count. What it writes is removed.

    Args:
        config: the run.
        size: what it counts.
        steps: to time.
        done: takes how many steps are done, and how many there are.

    Raises:
        ConfigError: the run wants a GPU and there is none here, or the steps would take too long.
        ItpnError: what would end the run itself.
    """
    if config.gpus and not torch.cuda.is_available():
        raise ConfigError(
            "gpus",
            True,
            "there is no GPU here",
            "Plan on a machine as the run would use, or for the CPU with --no-gpus",
        )
    gpu = use_gpu("gpus", config.gpus)
    worker = TrainContext.alone(gpu=gpu, threads=int(config.cpus_per_worker))
    if worker.device.type == "cpu":
        refuse_long_timing(sum(size.multiply_adds.values()), size.share, steps + 1)
    place = None if is_uri(config.out) else Path(config.out).expanduser()
    if place is not None:
        place.mkdir(parents=True, exist_ok=True)
    # In the run's own place, so that the checkpoint is timed on the disk that it will go to.
    with tempfile.TemporaryDirectory(dir=place, prefix="plan-") as out:
        train, _ = open_splits(config)
        trial = _trial(config, size, steps + 1, len(train), out)
        folder = Path(out) / trial.run
        done(0, steps + 1)  # the first step of a large network takes minutes
        work(trial, worker, _StepCounter(folder, done, steps + 1), lambda metrics: None)
        # Without the first step, which warms up.
        records = list(read_lines(folder / METRICS))[1:]
        events = list(read_lines(folder / EVENTS))
    phases = {
        phase: statistics.mean(record[f"{phase}_s"] for record in records)
        for phase in ("reading", "computing", "updating")
    }
    on_gpu = worker.device.type == "cuda"
    steps_s = [sum(record[f"{phase}_s"] for phase in phases) for record in records]
    return Timing(
        device=torch.cuda.get_device_name(worker.device) if on_gpu else "CPU",
        seconds=sum(phases.values()),
        phases=phases,
        memory_gb=(
            torch.cuda.max_memory_allocated(worker.device) / 1e9 if on_gpu else peak_memory() / 1e9
        ),
        # There is one at least: the last step is saved in any case.
        checkpoint_s=next(e["seconds"] for e in events if e["event"] == "checkpoint"),
        fastest=min(steps_s),
        slowest=max(steps_s),
    )


def peak_memory() -> int:
    """Most memory that this process has had, bytes."""
    told = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS tells bytes, the other systems KiB.
    return told if sys.platform == "darwin" else 1024 * told


class _StepCounter(FileJournal):
    """A journal that tells how many steps there are records of."""

    def __init__(self, folder: Path, done: Count, steps: int) -> None:
        super().__init__(folder)
        self._done = done
        self._steps = steps

    def write(self, kind: str, record: dict[str, Any]) -> None:
        """Take one record."""
        super().write(kind, record)
        if kind == "metrics":
            self._done(record["step"], self._steps)


def _trial(
    config: ExperimentConfig, size: RunSize, steps: int, images: int, out: str
) -> ExperimentConfig:
    """The run cut down to some steps of one worker's share."""
    # As many epochs as make these steps.
    epochs = steps / (images // size.share)
    plain = without_evaluations(config)
    return dataclasses.replace(
        plain,
        run="plan",
        out=out,
        # In this process, without Ray.
        workers="0",
        log_every=1,
        optim=dataclasses.replace(
            config.optim,
            global_batch=size.share,
            epochs=epochs,
            # The run's own warm-up may be longer than these few steps, and would be refused.
            warmup_epochs=0,
            warmup_steps=0,
        ),
        loader=dataclasses.replace(config.loader, transport="threads"),
        checkpoint=dataclasses.replace(plain.checkpoint, uri=""),
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
