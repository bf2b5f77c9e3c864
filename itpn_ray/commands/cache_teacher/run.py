"""The features of a run's CLIP teacher, written once: the driver of `itpn-ray cache-teacher`."""

from __future__ import annotations

import dataclasses
import shutil
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from itpn_ray.commands.cache_teacher.config import CacheTeacherConfig
from itpn_ray.data.config import AugmentConfig
from itpn_ray.data.prepare.teacher_features import Encode, FeatureJob, write_features
from itpn_ray.data.store.teacher_features import FeatureManifest, FeatureSettings
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.formatting import number_of
from itpn_ray.ray_runtime.start import redirect_ray_errors
from itpn_ray.storage import check_writable, is_s3
from itpn_ray.storage.uri import local_path
from itpn_ray.tasks.clip_pretraining.config import TEACHERS, ClipPretraining
from itpn_ray.tasks.clip_pretraining.teacher import load_teacher, teacher_digest
from itpn_ray.terminal.console import Console
from itpn_ray.terminal.item_progress import progress_bar
from itpn_ray.training.devices import use_gpus
from itpn_ray.training.launch.setup import open_splits


def cache_teacher(config: CacheTeacherConfig, *, console: Console) -> FeatureManifest:
    """Write the features that runs of ``config.experiment`` read with ``--task.features``.

    Raises:
        ConfigError: no teacher is named, or the output cannot hold the features.
        CheckpointError: the teacher's file cannot be used.
        DataError: data that cannot be used.
    """
    experiment = config.experiment
    if not config.features:
        raise ConfigError("features", "", "names no place to write to", "Give --features FOLDER")
    gpus = use_gpus("gpus", experiment.gpus, experiment.ray)
    experiment = dataclasses.replace(experiment, gpus=gpus)
    splits = open_splits(experiment)
    settings = feature_settings(experiment, config.views)
    tokens, width = feature_shape(experiment)
    count = len(splits[0]) * config.views + len(splits[1])
    # Two bytes a number, for tokens are float16.
    size = count * tokens * width * 2
    console.say(
        f"{number_of(len(splits[0]), 'image')} in {number_of(config.views, 'view')} and "
        f"{len(splits[1]):,} in one: "
        f"{tokens} tokens of {width} each, {size / 1e9:,.1f} GB"
    )
    _check_room(config.features, size)
    assert isinstance(experiment.task, ClipPretraining)
    job = FeatureJob(
        data=experiment.data,
        out=config.features,
        settings=settings,
        tokens=tokens,
        width=width,
        batch=config.batch,
        loader=experiment.loader,
        teacher=experiment.task.teacher,
        make_encoder=partial(make_encoder, experiment),
    )
    with (
        redirect_ray_errors(verbose=console.verbosity == "verbose"),
        progress_bar(console, "asking the teacher") as count_up,
    ):
        manifest = write_features(
            job,
            workers=experiment.worker_range[1],
            gpus=gpus,
            cpus_per_worker=experiment.cpus_per_worker,
            progress=count_up,
            ray=experiment.ray,
        )
    console.say(f"read them with --task.features {config.features}")
    return manifest


def feature_settings(config: ExperimentConfig, views: int) -> FeatureSettings:
    """What the features of a run are computed from.

    Raises:
        ConfigError: no teacher is named.
        CheckpointError: its file cannot be used.
    """
    task = config.task
    assert isinstance(task, ClipPretraining)
    assert isinstance(config.augment, AugmentConfig)
    # Loading it here tells a file that does not fit before any worker starts.
    load_teacher(task.teacher, task.teacher_model, config.model.image_size)
    return FeatureSettings(
        teacher={"model": task.teacher_model, "sha256": teacher_digest(task.teacher)},
        image_size=config.model.image_size,
        seed=config.seed,
        views=views,
        augment=config.augment,
        crop_fraction=config.model.evaluation_crop,
    )


def feature_shape(config: ExperimentConfig) -> tuple[int, int]:
    """L and T of a run's teacher."""
    assert isinstance(config.task, ClipPretraining)
    return (config.model.image_size // 16) ** 2, TEACHERS[config.task.teacher_model].width


def make_encoder(config: ExperimentConfig, file: str) -> Encode:
    """The teacher of a file on this worker's device."""
    task = config.task
    assert isinstance(task, ClipPretraining)
    device = torch.device("cuda" if config.gpus else "cpu")
    teacher = load_teacher(file, task.teacher_model, config.model.image_size).to(device)

    def encode(images: Tensor) -> Tensor:
        return teacher(images.to(device, non_blocking=True)).cpu()

    return encode


def _check_room(out: str, size: int) -> None:
    """Refuse an output that cannot be written, or a disk that cannot hold the features."""
    check_writable(out)
    # A bucket is never full.
    if is_s3(out):
        return
    folder = Path(local_path(out))
    free = shutil.disk_usage(folder).free
    # Files of an earlier call are taken up or replaced: their room counts as free.
    written = sum(path.stat().st_size for path in folder.rglob("*.arrow"))
    if free + written < size:
        raise ConfigError(
            "features",
            out,
            f"has {free / 1e9:,.1f} GB free, but the features need {size / 1e9:,.1f} GB",
            "Write fewer --views, or choose another place",
        )
