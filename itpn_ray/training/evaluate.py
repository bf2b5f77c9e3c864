"""Evaluation of a classifier from its weight file alone, at any migration ratio."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn

from itpn_ray.console import Console
from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.device import prefetch
from itpn_ray.data.loader import EvalLoader
from itpn_ray.data.shards import ShardedDataset, open_dataset
from itpn_ray.errors import CheckpointError, ConfigError, DataError
from itpn_ray.evaluation.speed import compare_speed
from itpn_ray.models import Classifier, load_model
from itpn_ray.report import write_report
from itpn_ray.tasks.classification import ClassificationTask
from itpn_ray.tasks.config import Classification, ModelConfig
from itpn_ray.training.config import EvaluateConfig
from itpn_ray.training.folder import CONFIG
from itpn_ray.training.journal import PLOTS, FileJournal
from itpn_ray.training.run import EXPORT
from itpn_ray.training.worker import Worker


def evaluate(config: EvaluateConfig, *, command: str, console: Console) -> Path:
    """Measure accuracy and images/s at each ratio; write the run's folder.

    Raises:
        CheckpointError: the weights are no classifier of ours.
        DataError: the data has other classes than the classifier.
    """
    model, classes = load_classifier(config.weights)
    dataset = open_dataset(config.data, config.split)
    if list(dataset.classes) != classes:
        raise DataError(
            config.data,
            list(dataset.classes)[:5],
            f"has other classes than {config.weights}, which knows {classes[:5]}",
            "Evaluate on data prepared from the same classes",
        )
    if config.gpu and not torch.cuda.is_available():
        raise ConfigError("gpu", True, "there is no GPU here", "Leave it out")
    folder = Path(config.out).expanduser().absolute() / config.run
    journal = FileJournal(folder)
    (folder / CONFIG).write_text(
        json.dumps({**dataclasses.asdict(config), "command": command}, indent=1)
    )
    console.log_to(folder / "train.log")
    journal.event("start")
    worker = Worker.alone(gpu=config.gpu, threads=config.threads)
    size = model.config.trunk.image_size
    networks: dict[float, nn.Module] = {}
    rows: list[dict[str, Any]] = []
    details: dict[str, object] = {}
    for r in config.migration:
        network = load_classifier(config.weights)[0].to(worker.device)
        network.set_migration(r)
        networks[r] = network
        task = ClassificationTask(
            Classification(), ModelConfig(image_size=size), classes=classes, seed=0
        )
        batches = prefetch(_loader(dataset, config, size), worker.device)
        with torch.no_grad(), worker.autocast():
            found = task.evaluate_model(network, batches, worker.reduce)
        rows.append({"migration": r, **found.metrics})
        if not details:
            details = {**found.metrics, **found.details}
            task.draw(network, folder / PLOTS)
    with worker.autocast():
        speeds = compare_speed(networks, image_size=size, batch=config.batch)
    for row in rows:
        row["images_per_s"] = round(speeds[row["migration"]], 1)
        console.say(
            f"r = {row['migration']:<4g} top-1 {row['top1']:.2%}  top-5 {row['top5']:.2%}  "
            f"{row['images_per_s']:,.0f} images/s"
        )
    journal.result(migration=rows, pictures=len(dataset), **details)
    journal.event("end", status="FINISHED")
    write_report(folder)
    console.summary(folder)
    return folder


def load_classifier(weights: str) -> tuple[Classifier, list[str]]:
    """A classifier and its class names, from a run's folder or an exported file.

    Raises:
        CheckpointError: there is no such file, or it holds something else.
    """
    path = Path(weights)
    if path.is_dir():
        path = path / EXPORT
    if not path.is_file():
        raise CheckpointError(
            str(path),
            None,
            "does not exist",
            "Give a run's folder or an exported .safetensors file",
        )
    model = load_model(path)
    with safe_open(path, framework="pt") as file:
        named = file.metadata().get("classes")
    if not isinstance(model, Classifier) or named is None:
        raise CheckpointError(
            str(path),
            type(model).__name__,
            "is no classifier with class names",
            "Give the weights of a fine-tuning run",
        )
    return model, json.loads(named)


def _loader(dataset: ShardedDataset, config: EvaluateConfig, size: int) -> EvalLoader:
    return EvalLoader(
        dataset,
        LoaderConfig(carrier="threads"),
        image_size=size,
        batch=config.batch,
        pin=config.gpu,
    )
