"""Evaluation of a classifier or detector from its weight file alone, at any migration ratio."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from itpn_ray.commands.config import EvaluateConfig
from itpn_ray.commands.evaluate.networks import Classifiers, Detectors, Place, Subject
from itpn_ray.data.annotations.objects import check_classification, check_detection
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import CheckpointError, DataError
from itpn_ray.formatting import label, show_interval, show_metric, show_spread
from itpn_ray.models import Classifier
from itpn_ray.models.detection.base import Detector
from itpn_ray.models.weights.files import build_network
from itpn_ray.models.weights.read import read_weights
from itpn_ray.runs.folder import LOG, folder_of, renew
from itpn_ray.runs.journal import PLOTS, FileJournal
from itpn_ray.storage import check_writable
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
    model, remarks = load_evaluated(config.weights, config.key)
    for remark in remarks:
        console.say(f"{config.weights}: {remark}")
    dataset = open_dataset(config.data, config.split)
    if isinstance(model, Detector):
        check_detection(dataset)
    else:
        check_classification(dataset)
    classes = class_names(model, dataset.classes)
    if not model.classes:
        console.say(f"{config.weights} names no classes: the data's are taken, in their order")
    if list(dataset.classes) != classes:
        raise DataError(
            config.data,
            list(dataset.classes)[:5],
            f"has other classes than {config.weights}, which knows {classes[:5]}",
            "Evaluate on data prepared from the same classes",
        )
    folder = folder_of(config.out, config.run)
    worker = TrainContext.alone(gpu=use_gpu("gpu", config.gpu), threads=config.threads)
    place = Place(dataset=dataset, worker=worker, batch=config.batch, folder=folder)
    subject = _subject(model, classes, place)
    before = renew(folder, dataclasses.asdict(config), command=command)
    journal = FileJournal(folder)
    console.log_to(folder / LOG)
    if before:
        console.say(f"{folder} held an evaluation of {before}, which this one replaces")
    journal.event("start")
    with recorded_end(journal, folder, NoopTracker(), console):
        _measure(config, subject, journal, console, images=len(dataset))
    console.summary(folder)
    return folder


def _measure(
    config: EvaluateConfig,
    subject: Subject[Any],
    journal: FileJournal,
    console: Console,
    *,
    images: int,
) -> None:
    """Evaluate at each ratio, then time all of them in turn."""
    worker = subject.place.worker
    networks: dict[float, Classifier | Detector] = {}
    rows: list[dict[str, Any]] = []
    details: dict[str, object] = {}
    for r in config.migration:
        networks[r] = _at(config, r).to(worker.device)
        counted = progress_bar(console, f"evaluating at r = {r:g}")
        with torch.no_grad(), worker.autocast(), counted as count:
            found = subject.evaluate(networks[r], r, count)
        rows.append({"migration": r, **found.metrics})
        if not details:
            details = {**found.metrics, **found.details, **subject.details()}
            subject.draw(networks[r], journal.folder / PLOTS)
    console.say("timing the network")
    with worker.autocast():
        speeds = subject.speeds(networks)
    for row in rows:
        row |= speeds[row["migration"]].figures()
        console.say(_line(row, subject.headline, images))
    journal.result(migration=rows, **{"images": images, **details})


def load_evaluated(
    weights: str, key: str | None = None
) -> tuple[Classifier | Detector, tuple[str, ...]]:
    """The network in a weight file or run's folder, and what is to be said of the file.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    found = read_weights(weights, key=key)
    model, _ = build_network(found)
    if not isinstance(model, Classifier | Detector) or not model.config.num_classes:
        raise CheckpointError(
            found.subject,
            type(model).__name__,
            "is no classifier or detector with classes",
            "Give the weights of a fine-tuning or detection run",
        )
    return model, found.remarks


def class_names(model: Classifier | Detector, usual: Sequence[str] = ()) -> list[str]:
    """The classes as the file names them, else `usual` if there are as many, else numbers.

    The authors' files name none; their numbers are those of ImageNet's folders in order.
    """
    count = model.config.num_classes
    known = list(model.classes) or list(usual)
    return known if model.classes or len(known) == count else [str(n) for n in range(count)]


def _subject(model: Classifier | Detector, classes: list[str], place: Place) -> Subject[Any]:
    if isinstance(model, Detector):
        return Detectors(model, classes, place)
    return Classifiers(model, classes, place)


def _at(config: EvaluateConfig, ratio: float) -> Classifier | Detector:
    """The network with its migration ratio, and other windows where they are named."""
    network, _ = load_evaluated(config.weights, config.key)
    torch.manual_seed(0)  # a gathering token that was not trained is drawn
    if config.window is not None:
        network.set_gathering(config.window, gathering=config.gathering)
    network.set_migration(ratio)
    return network


def _line(row: Mapping[str, float], headline: tuple[str, ...], images: int) -> str:
    """One ratio's figures, accuracies with their intervals, the speed with its spread."""
    shown = [f"r = {row['migration']:<4g}"]
    for name in (name for name in headline if name in row):
        interval = show_interval(name, row[name], images)
        sure = f" ({interval}, n = {images:,})" if interval else ""
        shown.append(f"{label(name)} {show_metric(name, row[name])}{sure}")
    speed = show_metric("images_per_s", row["images_per_s"])
    return "  ".join([*shown, f"{speed} images/s ({show_spread(row)})"])
