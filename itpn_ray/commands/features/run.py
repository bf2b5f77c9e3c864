"""Embeddings of a folder or of prepared data: the driver of `itpn-ray features`."""

from __future__ import annotations

import csv
import dataclasses
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from itpn_ray.commands.features.config import FeaturesConfig
from itpn_ray.commands.features.network import Embedder
from itpn_ray.commands.predict.run import with_room
from itpn_ray.data.loading.image_folder import FolderJob, Predict, answer_folder, list_images
from itpn_ray.data.loading.prepared_images import SplitJob, answer_split
from itpn_ray.data.store.manifest import MANIFEST, read_manifest
from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.errors import DataError
from itpn_ray.evaluation.feature_map import plot_features
from itpn_ray.evaluation.knn import knn_predict, leave_one_out_accuracy
from itpn_ray.evaluation.probe import linear_probe
from itpn_ray.evaluation.rank import gram, rankme
from itpn_ray.formatting import label, number_of, show_interval, show_metric
from itpn_ray.metrics import FEATURES, NEIGHBOURS
from itpn_ray.models.networks.base import Network
from itpn_ray.models.weights.files import build_network
from itpn_ray.models.weights.read import read_weights
from itpn_ray.ray_runtime.start import redirect_ray_errors
from itpn_ray.runs.folder import LOG, renew, write_about
from itpn_ray.runs.journal import PLOTS, FileJournal
from itpn_ray.runs.mirror import kept, run_place
from itpn_ray.storage import check_writable, open_store
from itpn_ray.terminal.console import Console
from itpn_ray.terminal.item_progress import progress_bar
from itpn_ray.tracking import NoopTracker
from itpn_ray.training.devices import use_gpus
from itpn_ray.training.ending import recorded_end
from itpn_ray.training.exporting import weight_file
from itpn_ray.training.launch.context import TrainContext

TABLE = "features.parquet"
UNREADABLE = "unreadable.csv"
PROBED = 10_000
"""Most images of a split in the nearest-neighbour probe of it alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded:
    """The embeddings of some images.

    Attributes:
        split: of prepared data; empty of a folder.
        paths: relative to their source.
        labels: (n,) int64; -1 where there is none.
        features: (n, d) float32.
    """

    split: str
    paths: list[str]
    labels: Tensor
    features: Tensor


def extract(config: FeaturesConfig, *, command: str, console: Console) -> Path:
    """Embed every image, write ``features.parquet``, and probe what has labels.

    Returns:
        The run's folder.

    Raises:
        CheckpointError: the weights are none of ours.
        DataError: there are no images, or prepared data that is damaged.
        ConfigError: the output cannot be written, or there is no GPU.
    """
    check_writable(config.out)
    config = dataclasses.replace(
        config,
        weights=str(weight_file(config.weights, console.say)),
        images=open_store(config.images).uri,
        gpu=use_gpus("gpu", config.gpu, config.ray),
    )
    for remark in read_weights(config.weights, key=config.key).remarks:
        console.say(f"{config.weights}: {remark}")
    splits = _splits(config)
    folder = run_place(config.out, config.run)
    with kept(config.out, config.run):
        settings = dataclasses.asdict(config)
        renew(folder, settings, command=command, what="embeddings", marks={"weights", "images"})
        write_about(folder, "Features", (*NEIGHBOURS, *FEATURES))
        journal = FileJournal(folder)
        console.log_to(folder / LOG)
        journal.event("start")
        with recorded_end(journal, folder, NoopTracker(), console):
            parts = (
                [_of_split(config, split, console) for split in splits]
                if splits
                else [_of_folder(config, folder, console)]
            )
            classes = list(splits[0].classes) if splits else []
            write_table(parts, classes, folder / TABLE)
            _probe(config, parts, classes, journal, console)
        console.say(f"the embeddings: {folder / TABLE}")
        console.summary(folder)
    return folder


def make_embedder(config: FeaturesConfig, weights: str) -> Predict:
    """The network of a file on this worker's device."""
    worker = TrainContext.alone(gpu=bool(config.gpu), threads=config.threads)
    network, _ = build_network(read_weights(weights, key=config.key))
    assert isinstance(network, Network)
    return Embedder(network, worker)


def _splits(config: FeaturesConfig) -> list[ShardedDataset]:
    """The splits of prepared data; none of a folder of images.

    Raises:
        DataError: none of those that are named is there.
    """
    # Prepared data has a manifest; anything else is a folder of images.
    if MANIFEST not in open_store(config.images).list():
        return []
    manifest = read_manifest(config.images)
    found = [name for name in config.splits if name in manifest.splits]
    if not found:
        raise DataError(
            "splits",
            list(config.splits),
            f"{config.images} has {list(manifest.splits)}",
            "Name one",
        )
    return [open_dataset(config.images, name) for name in found]


def _of_split(config: FeaturesConfig, split: ShardedDataset, console: Console) -> Embedded:
    job = SplitJob(
        uri=config.images,
        split=split.split,
        batch=config.batch,
        threads=config.threads,
        weights=config.weights,
        make_predictor=partial(make_embedder, config),
    )
    answers = answer_split(
        job, len(split), workers=config.workers, gpus=bool(config.gpu), ray=with_room(config)
    )
    entries = []
    with (
        redirect_ray_errors(verbose=console.verbosity == "verbose"),
        progress_bar(console, f"embedding {split.split}") as count,
        closing(answers),
    ):
        for done, answer in enumerate(answers, 1):
            entries += answer.entries
            count(done, len(split))
    labels = torch.from_numpy(split.labels.astype(np.int64))
    return _embedded(split.split, entries, labels)


def _of_folder(config: FeaturesConfig, folder: Path, console: Console) -> Embedded:
    rows, barred = list_images(config.images, console.say)
    job = FolderJob(
        uri=config.images,
        batch=config.batch,
        threads=config.threads,
        weights=config.weights,
        make_predictor=partial(make_embedder, config),
    )
    outcomes = answer_folder(
        job, rows, workers=config.workers, gpus=bool(config.gpu), ray=with_room(config)
    )
    entries: list[dict[str, Any]] = []
    with (
        redirect_ray_errors(verbose=console.verbosity == "verbose"),
        progress_bar(console, "embedding images") as count,
        closing(outcomes),
    ):
        for done, outcome in enumerate(outcomes, 1):
            entries += outcome.answer.entries
            barred += [(outcome.path, outcome.problem)] if outcome.problem else []
            count(done, len(rows))
    if barred:
        with (folder / UNREADABLE).open("w", newline="") as file:
            csv.writer(file).writerows([("path", "problem"), *barred])
        listed = folder / UNREADABLE
        console.warn(f"cannot be read as images: {number_of(len(barred), 'file')}, see {listed}")
    if not entries:
        raise DataError("images", config.images, "holds no image that can be read", "Give others")
    return _embedded("", entries, torch.full((len(entries),), -1))


def _embedded(split: str, entries: list[dict[str, Any]], labels: Tensor) -> Embedded:
    features = torch.from_numpy(np.stack([entry["feature"] for entry in entries]))
    paths = [entry["path"] for entry in entries]
    return Embedded(split=split, paths=paths, labels=labels, features=features)


def write_table(parts: list[Embedded], classes: list[str], path: Path) -> None:
    """Write the embeddings: split, path, label, class (null where there is none), feature."""
    tables = []
    for part in parts:
        width = part.features.shape[1]
        labels = part.labels.tolist()
        # Flat, for lists of Python's numbers would take many times the memory.
        values = pa.array(part.features.flatten().numpy(), pa.float32())
        columns = {
            "split": pa.array([part.split] * len(labels), pa.string()),
            "path": pa.array(part.paths, pa.string()),
            "label": pa.array(labels, pa.int32()),
            "class": pa.array([classes[n] if n >= 0 else None for n in labels], pa.string()),
            "feature": pa.FixedSizeListArray.from_arrays(values, width),
        }
        tables.append(pa.table(columns))
    pq.write_table(pa.concat_tables(tables), path)


def _probe(
    config: FeaturesConfig,
    parts: list[Embedded],
    classes: list[str],
    journal: FileJournal,
    console: Console,
) -> None:
    """Judge the embeddings, draw them, and say what was found."""
    last = parts[-1]
    found = {"rankme": rankme(gram(torch.cat([part.features for part in parts])))}
    accuracies, asked = _accuracies(config, parts)
    found |= accuracies
    plot_features(last.features, last.labels, classes, journal.folder / PLOTS / "features.png")
    for name, value in found.items():
        interval = show_interval(name, value, asked)
        sure = f" ({interval}, n = {asked:,} of {last.split})" if interval else ""
        console.say(f"{label(name)} {show_metric(name, value)}{sure}")
    images = sum(len(part.paths) for part in parts)
    width = last.features.shape[1]
    journal.result(**found, images=images, asked=asked, dimensions=width)


def _accuracies(config: FeaturesConfig, parts: list[Embedded]) -> tuple[dict[str, float], int]:
    """Of classes told apart by the features: of the last split by those of the first.

    Returns:
        The accuracies, none where there are no labels; and how many images they are counted on.
    """
    known = [
        (part.features[keep], part.labels[keep]) for part in parts for keep in [part.labels >= 0]
    ]
    if not all(len(labels.unique()) > 1 for _, labels in known):
        return {}, 0
    if len(known) == 1:
        [(features, labels)] = known
        alone = leave_one_out_accuracy(
            features,
            labels,
            torch.arange(len(labels)),
            lambda total: total,
            limit=PROBED,
            neighbours=config.neighbours,
        )
        return ({} if alone is None else {"knn_top1": alone}), min(len(labels), PROBED)
    # Neighbours come from the first split, questions from the last.
    (bank, bank_labels), (queries, labels) = known[0], known[-1]
    guesses = knn_predict(bank, bank_labels, queries, neighbours=config.neighbours)
    found = {
        "knn_top1": float((guesses == labels).double().mean()),
        "probe_top1": linear_probe(bank, bank_labels, queries, labels),
    }
    return found, len(labels)
