"""Evaluation of a trained network from its weight file alone, at any migration ratio."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from itpn_ray.commands.evaluate.config import EvaluateConfig
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import DataError
from itpn_ray.formatting import (
    label,
    number_of,
    show_interval,
    show_metric,
    show_names,
    show_spread,
)
from itpn_ray.runs.folder import LOG, renew, write_about
from itpn_ray.runs.journal import PLOTS, FileJournal
from itpn_ray.runs.mirror import kept, run_place
from itpn_ray.storage import check_writable
from itpn_ray.tasks.base import AnyTask
from itpn_ray.tasks.registry import settings_of_file, task_of_file
from itpn_ray.tasks.trained import EvaluationPlace, Evaluator
from itpn_ray.terminal.console import Console
from itpn_ray.terminal.item_progress import progress_bar
from itpn_ray.tracking import NoopTracker
from itpn_ray.training.devices import use_gpu
from itpn_ray.training.ending import recorded_end
from itpn_ray.training.exporting import weight_file
from itpn_ray.training.launch.context import TrainContext


def evaluate(config: EvaluateConfig, *, command: str, console: Console) -> Path:
    """Measure accuracy and images/s at each ratio; write the run's folder.

    Raises:
        CheckpointError: the weights are no classifier or detector of ours.
        DataError: the data is of another kind, or has other classes than the network.
    """
    check_writable(config.out)
    weights = weight_file(config.weights, console.say)
    config = dataclasses.replace(config, weights=str(weights))
    task, network, remarks = load_trained(config.weights, config.key)
    for remark in remarks:
        console.say(f"{config.weights}: {remark}")
    dataset = open_dataset(config.data, config.split)
    task.check_split(dataset)
    classes = task.class_names(network, dataset.classes)
    if not task.names_classes(network):
        console.say(f"{config.weights} names no classes: the data's are taken, in their order")
    if list(dataset.classes) != classes:
        raise DataError(
            config.data,
            None,
            f"{_difference(dataset.classes, classes)} ({config.weights})",
            "Evaluate on data prepared from the same classes",
        )
    folder = run_place(config.out, config.run)
    worker = TrainContext.alone(gpu=use_gpu("gpu", config.gpu), threads=config.threads)
    place = EvaluationPlace(
        dataset=dataset,
        device=worker.device,
        reduce=worker.reduce,
        autocast=worker.autocast,
        batch=config.batch,
        folder=folder,
    )
    evaluator = task.evaluator(network, classes, place)
    with kept(config.out, config.run):
        before = renew(folder, dataclasses.asdict(config), command=command)
        write_about(folder, "Evaluation", settings_of_file(config.weights).metrics)
        journal = FileJournal(folder)
        console.log_to(folder / LOG)
        if before:
            console.say(f"{folder} held an evaluation of {before}, which this one replaces")
        journal.event("start")
        with recorded_end(journal, folder, NoopTracker(), console):
            _measure(config, evaluator, journal, console, images=len(dataset))
        console.summary(folder)
    return folder


def _difference(data: Sequence[str], network: Sequence[str]) -> str:
    """What is different between the classes of the data and those of a network, in words."""
    told = f"it has {number_of(len(data), 'class', 'classes')}, the network {len(network):,}"
    there, known = set(data), set(network)
    lists = {
        "missing": [name for name in network if name not in there],
        "unknown to the network": [name for name in data if name not in known],
    }
    parts = [f"{what}: {show_names(names)}" for what, names in lists.items() if names]
    return "; ".join([told, *(parts or ["the same ones in another order"])])


def _measure(
    config: EvaluateConfig,
    evaluator: Evaluator[Any],
    journal: FileJournal,
    console: Console,
    *,
    images: int,
) -> None:
    """Evaluate at each ratio, then time all of them in turn."""
    place = evaluator.place
    networks: dict[float, nn.Module] = {}
    rows: list[dict[str, Any]] = []
    details: dict[str, object] = {}
    for r in config.migration:
        # A network for each ratio, for all are timed in turn at the end.
        networks[r] = _at(config, r).to(place.device)
        counted = progress_bar(console, f"evaluating at r = {r:g}")
        with torch.no_grad(), place.autocast(), counted as count:
            found = evaluator.evaluate(networks[r], r, count)
        rows.append({"migration": r, **found.metrics})
        # Tables and drawings are those of the first ratio.
        if not details:
            details = {**found.metrics, **found.details, **evaluator.details()}
            evaluator.draw(journal.folder / PLOTS)
    console.say("timing the network")
    with place.autocast():
        speeds = evaluator.speeds(networks)
    for row in rows:
        row |= speeds[row["migration"]].as_row()
        console.say(_line(row, evaluator.shown, images))
    journal.result(migration=rows, **{"images": images, **details})


def load_trained(
    weights: str, key: str | None = None
) -> tuple[type[AnyTask], nn.Module, tuple[str, ...]]:
    """The task and the network of a weight file or run's folder, and what is to be said of it.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    task = task_of_file(weights)
    return (task, *task.load(weights, key))


def _at(config: EvaluateConfig, ratio: float) -> nn.Module:
    """The network with its migration ratio, and other windows where they are named."""
    task, network, _ = load_trained(config.weights, config.key)
    torch.manual_seed(0)  # a gathering token that was not trained is drawn
    task.accelerate(network, migration=ratio, window=config.window, gathering=config.gathering)
    if config.scales != (1.0,) or config.mirror:
        task.look(network, config.scales, config.mirror)
    return network


def _line(row: Mapping[str, float], names: tuple[str, ...], images: int) -> str:
    """One ratio's metrics, accuracies with their intervals, the speed with its spread."""
    shown = [f"r = {row['migration']:<4g}"]
    for name in (name for name in names if name in row):
        interval = show_interval(name, row[name], images)
        sure = f" ({interval}, n = {images:,})" if interval else ""
        shown.append(f"{label(name)} {show_metric(name, row[name])}{sure}")
    speed = show_metric("images_per_s", row["images_per_s"])
    return "  ".join([*shown, f"{speed} images/s ({show_spread(row)})"])
