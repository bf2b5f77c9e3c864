"""What a classifier or detector says of images: the driver of `itpn-ray predict`."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial

from itpn_ray.commands.evaluate.run import load_trained
from itpn_ray.commands.features.config import FeaturesConfig
from itpn_ray.commands.predict.config import PredictConfig
from itpn_ray.commands.predict.files import (
    DRAWN,
    RESULTS,
    UNREADABLE,
    PredictionFiles,
    start_afresh,
)
from itpn_ray.data.loading.image_folder import FolderJob, Predict, answer_folder, list_images
from itpn_ray.errors import ConfigError
from itpn_ray.evaluation.drawing import Drawing
from itpn_ray.formatting import number_of
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import redirect_ray_errors
from itpn_ray.storage import check_writable, join, open_store
from itpn_ray.tasks.trained import PredictionPlace
from itpn_ray.terminal.console import Console
from itpn_ray.terminal.item_progress import progress_bar
from itpn_ray.training.devices import use_gpus
from itpn_ray.training.exporting import weight_file
from itpn_ray.training.launch.context import TrainContext


def predict(config: PredictConfig, *, console: Console) -> None:
    """Write what a network says of an image, or of each one of a folder.

    ``results.json`` holds, of a detector, the entries of a COCO results file, whose images
    ``images.json`` numbers; of a classifier the five likeliest classes of each image, or of several
    labels an image all that are sure enough. ``drawn/``
    has the images with what was found, ``unreadable.csv`` the files that are no images,
    ``config.json`` which network was asked. What an earlier call has written there is replaced.

    Raises:
        CheckpointError: the weights are no classifier or detector of ours.
        DataError: the folder holds no images.
        ConfigError: the output cannot be written, lies in the folder or holds something else, or
            there is no GPU.
    """
    weights = weight_file(config.weights, console.say)
    task, network, remarks = load_trained(str(weights), config.key)
    for remark in remarks:
        console.say(f"{config.weights}: {remark}")
    config = replace(
        config,
        weights=str(weights),
        folder=open_store(config.folder).uri,
        batch=config.batch or task.predict_batch,
        gpu=use_gpus("gpu", config.gpu, config.ray),
    )
    rows, barred = list_images(config.folder, console.say)
    _check(config)
    store = open_store(config.out)
    # After all checks, so that a mistake leaves what an earlier call wrote alone.
    start_afresh(store, asdict(config))
    job = FolderJob(
        uri=config.folder,
        batch=config.batch,
        threads=config.threads,
        weights=config.weights,
        make_predictor=partial(make_predictor, config),
    )
    answering = answer_folder(
        job, rows, workers=config.workers, gpus=bool(config.gpu), ray=with_room(config)
    )
    with (
        redirect_ray_errors(verbose=console.verbosity == "verbose"),
        progress_bar(console, "looking at images") as count,
        PredictionFiles(store, task.categories(network)) as files,
        closing(answering) as outcomes,
    ):
        for path, problem in barred:
            files.refuse(path, problem)
        for done, outcome in enumerate(outcomes, 1):
            files.add(outcome)
            count(done, len(rows))
    drawn = f", drawn in {join(config.out, DRAWN)}" if config.draw_side else ""
    console.say(f"{number_of(files.images, 'image')}: {join(config.out, RESULTS)}{drawn}")
    if files.unreadable:
        listed = join(config.out, UNREADABLE)
        console.warn(
            f"cannot be read as images: {number_of(files.unreadable, 'file')}, see {listed}"
        )


def make_predictor(config: PredictConfig, weights: str) -> Predict:
    """The network of a file on this worker's device."""
    task, network, _ = load_trained(weights, config.key)
    worker = TrainContext.alone(gpu=bool(config.gpu), threads=config.threads)
    place = PredictionPlace(
        device=worker.device,
        autocast=worker.autocast,
        drawing=Drawing(side=config.draw_side, min_score=config.draw_score),
        min_score=config.min_score,
    )
    return task.predictor(network.to(worker.device), task.class_names(network), place)


def with_room(config: PredictConfig | FeaturesConfig) -> RayConfig:
    """The Ray to run on; a private one has CPUs for all workers, which would wait for them else."""
    if config.ray.address or config.ray.num_cpus is not None:
        return config.ray
    slots = config.workers * config.threads + 1
    return replace(config.ray, num_cpus=max(4, os.cpu_count() or 1, slots))


def _check(config: PredictConfig) -> None:
    """Find at once what would end the work later.

    Raises:
        ConfigError: the output cannot be written or lies in the folder.
    """
    # With a slash behind both: a folder images-2 does not lie in images.
    if join(open_store(config.out).uri, "").startswith(join(config.folder, "")):
        raise ConfigError(
            "out", config.out, "lies in the folder of images", "Give one outside of it"
        )
    check_writable(config.out)
