"""Speeds before any trial: every network that the space can ask for, timed where trials train."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError
from itpn_ray.evaluation.speed import Speed
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.ray_runtime.tasks import run_on_ray
from itpn_ray.tasks.config import TaskConfig
from itpn_ray.tasks.elastic import metric_at
from itpn_ray.tasks.registry import task_class
from itpn_ray.tasks.trained import EvaluationPlace
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.setup import make_task
from itpn_ray.tuning.config import COMPILED, ONNX, TORCH, SweepConfig, trial
from itpn_ray.tuning.onnx_speed import onnx_speeds
from itpn_ray.tuning.space import Dimension, Point, combinations, stage_of

FILE = "speeds.json"
SHAPING = (
    *("name", "image_size", "migration", "window", "gathering", "window_position"),
    *("relative_position", "convolution"),
)
"""Fields of the network that its speed depends on; those of a task: `TaskConfig.speed_fields`."""


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How fast one network is.

    Attributes:
        throughput: images/s of batches.
        latency_ms: of one image alone, median, milliseconds.
    """

    throughput: Speed
    latency_ms: float


Timings = Mapping[str, Timing]
"""By what `key_of` says of a network."""


def key_of(config: ExperimentConfig) -> str:
    """What tells networks of different speeds apart."""
    model, task = config.model, config.task
    own = {f"task.{name}": getattr(task, name) for name in task.speed_fields}
    return json.dumps({**{name: getattr(model, name) for name in SHAPING}, **own})


def shaping(dimensions: Sequence[Dimension], task: TaskConfig) -> tuple[Dimension, ...]:
    """The dimensions that the speed of a trial of ``task`` depends on.

    Raises:
        ConfigError: one is a range, of which no list of networks can be timed.
    """
    paths = {f"model.{name}" for name in SHAPING} | {f"task.{name}" for name in task.speed_fields}
    found = [one for one in stage_of(dimensions, "finetune") if one.path in paths]
    for one in found:
        if one.kind != "choice":
            raise ConfigError(
                f"space.{one.path}",
                one.kind,
                "decides the speed, which is measured before the trials",
                "Name its values: choice V1 V2",
            )
    return tuple(found)


def free_of_speed(dimensions: Sequence[Dimension], task: TaskConfig) -> tuple[Dimension, ...]:
    """The dimensions that the speed of no trial of ``task`` depends on."""
    decisive = shaping(dimensions, task)
    return tuple(one for one in dimensions if one not in decisive)


def networks(config: SweepConfig) -> list[ExperimentConfig]:
    """Settings of fine-tuning for each network that trials can ask for, without initial weights."""
    # What is not in SHAPING is taken to leave the speed as it is: the first value serves.
    start = {one.name: one.values[0] for one in config.dimensions}
    return [
        one
        for point in combinations(shaping(config.dimensions, config.finetune.task))
        for one in served(trial(config, "", "speed", {**start, **point}, init="")).values()
    ]


def served(config: ExperimentConfig) -> dict[float, ExperimentConfig]:
    """The networks that one weight file serves, by their r: with elastic r several."""
    model = config.model
    if not model.elastic_migration:
        return {model.migration: config}
    fixed = {
        ratio: dataclasses.replace(model, migration=ratio, elastic_migration=())
        for ratio in model.elastic_migration
    }
    return {ratio: dataclasses.replace(config, model=one) for ratio, one in fixed.items()}


def timings(config: SweepConfig, folder: Path, *, gpu: bool) -> dict[str, Timing]:
    """Time all networks with the resources of a trial's worker; an earlier call's are kept.

    Args:
        config: the sweep; Ray is running.
        folder: the sweep's folder.
        gpu: whether trials train on a GPU.
    """
    path = folder / FILE
    known = read_timings(path)
    wanted = [one for one in networks(config) if key_of(one) not in known]
    if wanted:
        work = partial(_timer, config.speed_batch, gpu, config.target)
        # One task for all, so that they are timed in turn in one process.
        tasks = [[to_dict(one) for one in wanted]]
        cpus, gpus = config.finetune.cpus_per_worker, float(gpu)
        for found in run_on_ray(work, tasks, workers=1, cpus=cpus, gpus=gpus):
            known |= found
        path.write_text(json.dumps({k: dataclasses.asdict(v) for k, v in known.items()}, indent=1))
    return known


def read_timings(path: Path) -> dict[str, Timing]:
    """The timings that a file keeps; none where there is no such file."""
    plain = json.loads(path.read_text()) if path.exists() else {}
    return {
        key: Timing(throughput=Speed(**one["throughput"]), latency_ms=one["latency_ms"])
        for key, one in plain.items()
    }


def broken_constraints(config: SweepConfig, timing: Timing) -> dict[str, float]:
    """How far a network misses what is asked for, by constraint; broken above 0."""
    broken = {}
    if config.at_least:
        broken["images/s"] = config.at_least - timing.throughput.images_per_s
    if config.at_most_ms:
        broken["ms"] = timing.latency_ms - config.at_most_ms
    return broken


def judge_point(config: SweepConfig, known: Timings, point: Point) -> dict[str, float]:
    """`broken_constraints` of that network of a point which comes nearest to keeping them."""
    found = [broken_constraints(config, one) for one in timings_at(config, known, point).values()]
    # A trial with several r is good enough if one of them is. As fractions of what is asked for,
    # since images/s and milliseconds do not compare.
    limits = {"images/s": config.at_least, "ms": config.at_most_ms}
    return min(
        found, key=lambda broken: max((v / limits[k] for k, v in broken.items()), default=0.0)
    )


def timings_at(config: SweepConfig, known: Timings, point: Point) -> dict[float, Timing]:
    """The timings of the networks that a trial at a point serves, by their r."""
    wanted = served(trial(config, "", "speed", point, init=""))
    return {ratio: known[key_of(one)] for ratio, one in wanted.items()}


def scores(config: SweepConfig, point: Point, figures: Mapping[str, Any]) -> dict[float, float]:
    """The headline metric of a trial, by the r of the networks that it serves."""
    model = trial(config, "", "speed", point, init="").model
    name = config.finetune.task.headline().name
    if not model.elastic_migration:
        return {model.migration: float(figures[name])}
    return {ratio: float(figures[metric_at(name, ratio)]) for ratio in model.elastic_migration}


def check_reachable(config: SweepConfig, known: Timings) -> None:
    """Refuse constraints that no network keeps, before anything is trained.

    Raises:
        ConfigError: tells how near the best one comes.
    """
    timed = [known[key_of(one)] for one in networks(config)]
    broken = [broken_constraints(config, one) for one in timed]
    if any(all(v <= 0 for v in one.values()) for one in broken):
        return
    fields = {"images/s": "at_least", "ms": "at_most_ms"}
    asked = {name: field for name, field in fields.items() if getattr(config, field)}
    # Where each is kept by some network, no network keeps both.
    missed = [field for name, field in asked.items() if all(one[name] > 0 for one in broken)]
    field, *other = missed or asked.values()
    both = f" together with {other[0]} = {getattr(config, other[0]):g}" if other else ""
    fastest = max(one.throughput.images_per_s for one in timed)
    quickest = min(one.latency_ms for one in timed)
    raise ConfigError(
        field,
        getattr(config, field),
        f"is kept{both} by none of {len(timed)} networks, of which the best does {fastest:.4g} "
        f"images/s and {quickest:.3g} ms an image",
        "Ask for less, or put smaller networks, larger r or windows into the space",
    )


def _timer(batch: int, gpu: bool, target: str) -> Any:
    def work(settings: Iterable[dict[str, Any]]) -> Iterator[dict[str, Timing]]:
        configs = [from_dict(plain) for plain in settings]
        yield time_networks(configs, batch=batch, gpu=gpu, target=target)

    return work


def time_networks(
    configs: Sequence[ExperimentConfig], *, batch: int, gpu: bool, target: str = TORCH
) -> dict[str, Timing]:
    """Time networks in turn, in this process; those of different sizes one size after the other.

    Args:
        configs: settings of the runs that would train them.
        batch: images a forward pass, for the throughput.
        gpu: whether on a GPU, in its training precision.
        target: see `SweepConfig`.

    Returns:
        Timings by `key_of`.
    """
    worker = TrainContext.alone(gpu=gpu, threads=max(1, int(configs[0].cpus_per_worker)))
    groups: dict[tuple[object, ...], list[ExperimentConfig]] = defaultdict(list)
    for config in configs:
        model, task = config.model, config.task
        # Timed in turn are networks that one batch fits.
        views = (getattr(task, name) for name in task.view_fields)
        groups[model.name, model.image_size, *views].append(config)
    found: dict[str, Timing] = {}
    for group in groups.values():
        many = _speeds(group, worker, batch, target)
        alone = _speeds(group, worker, 1, target)
        found |= {
            key: Timing(throughput=many[key], latency_ms=1000 / alone[key].images_per_s)
            for key in many
        }
    return found


def _speeds(
    configs: Sequence[ExperimentConfig], worker: TrainContext, batch: int, target: str
) -> dict[str, Speed]:
    """Speeds of networks of one size, in turn, as their task times them, or as ONNX graphs."""
    dataset = open_dataset(configs[0].data, "val")
    with tempfile.TemporaryDirectory() as folder:
        place = EvaluationPlace(
            dataset=dataset,
            device=worker.device,
            reduce=worker.reduce,
            autocast=worker.autocast,
            batch=batch,
            folder=Path(folder),
        )
        files: dict[str, Path] = {}
        made = {}
        for number, config in enumerate(configs):
            task = make_task(config, dataset.classes)
            file = files[key_of(config)] = Path(folder) / f"{number}.safetensors"
            # By way of a file, as a trained network is loaded.
            task.export(task.build(), file)
            # Numbered by floats, for an evaluator's keys are ratios r.
            made[float(number)] = task.load(str(file))[0].to(worker.device)
        if target == COMPILED:
            for network in made.values():
                # In place. A detector's own call is not used: what follows its trunk chooses boxes,
                # whose number no graph knows.
                network.compile(dynamic=False)
                network.trunk.compile(dynamic=False)
        if target == ONNX:
            return onnx_speeds(files, batch=batch, threads=torch.get_num_threads())
        evaluator = task_class(configs[0].task).evaluator(made[0.0], dataset.classes, place)
        with worker.autocast():
            timed = evaluator.speeds(made)
    return {key_of(config): timed[float(n)] for n, config in enumerate(configs)}
