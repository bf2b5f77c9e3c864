"""From a configuration to the parts of a run: task, data, checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import TypedDict

from itpn_ray.data.annotations.objects import check_detection, check_masks
from itpn_ray.data.config import AugmentConfig, DetectionAugmentConfig, LoaderConfig
from itpn_ray.data.loading.crop_loader import EvalLoader, TrainLoader
from itpn_ray.data.loading.detection_loader import DetectionEvalLoader, DetectionTrainLoader
from itpn_ray.data.store.shard_cache import local_copies
from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.data.store.teacher_features import Features
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.storage import is_s3
from itpn_ray.tasks.base import Batch, Task, TrainBatches
from itpn_ray.tasks.classification.task import ClassificationTask
from itpn_ray.tasks.clip_pretraining.block_mask import masked_count
from itpn_ray.tasks.clip_pretraining.task import ClipPretrainingTask
from itpn_ray.tasks.clip_pretraining.teacher import load_teacher
from itpn_ray.tasks.config import Detection
from itpn_ray.tasks.detection.task import DetectionTask
from itpn_ray.tasks.pixel_pretraining.masking import visible_count
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask
from itpn_ray.tasks.pretraining_config import ClipPretraining, PixelPretraining
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.schedule import total_steps


def make_task(config: ExperimentConfig, classes: Sequence[str]) -> Task:
    """The task that the configuration names."""
    if isinstance(config.task, PixelPretraining):
        return PixelPretrainingTask(config.task, config.model, seed=config.seed)
    if isinstance(config.task, ClipPretraining):
        return ClipPretrainingTask(config.task, config.model, seed=config.seed)
    if isinstance(config.task, Detection):
        assert isinstance(config.augment, DetectionAugmentConfig)
        return DetectionTask(
            config.task,
            config.model,
            classes=classes,
            seed=config.seed,
            augment=config.augment,
            truth=partial(open_truth, config.data, "val", config.loader),
        )
    return ClassificationTask(config.task, config.model, classes=classes, seed=config.seed)


def open_truth(uri: str, split: str, loader: LoaderConfig) -> ShardedDataset:
    """A split whose rows can be read one by one; remote shards are fetched into the cache."""
    return open_dataset(uri, split, local_path=local_copies(loader) if is_s3(uri) else None)


def make_loaders(
    config: ExperimentConfig, train: ShardedDataset, val: ShardedDataset, worker: TrainContext
) -> tuple[TrainBatches, Iterable[Batch]]:
    """The worker's share of the training and of the held-out images."""
    here = _Here(rank=worker.rank, world=worker.world, pin=worker.device.type == "cuda")
    batch = eval_batch(config, worker.world)
    if isinstance(config.task, Detection):
        assert isinstance(config.augment, DetectionAugmentConfig)
        return (
            DetectionTrainLoader(
                train,
                config.loader,
                augment=config.augment,
                seed=config.seed,
                global_batch=config.optim.global_batch,
                masks=config.task.masks,
                **here,
            ),
            DetectionEvalLoader(
                val,
                config.loader,
                batch=batch,
                short_side=config.task.short_side,
                long_side=config.task.long_side,
                **here,
            ),
        )
    assert isinstance(config.augment, AugmentConfig)
    return (
        TrainLoader(
            train,
            config.loader,
            image_size=config.model.image_size,
            augment=config.augment,
            seed=config.seed,
            global_batch=config.optim.global_batch,
            features=open_features(config, train),
            **here,
        ),
        EvalLoader(
            val,
            config.loader,
            image_size=config.model.image_size,
            crop=config.model.evaluation_crop,
            batch=batch,
            features=open_features(config, val),
            **here,
        ),
    )


class _Here(TypedDict):
    """Where a loader's batches go."""

    rank: int
    world: int
    pin: bool


def open_features(config: ExperimentConfig, dataset: ShardedDataset) -> Features | None:
    """The teacher's features of a split, where the run reads them instead of asking a teacher.

    Raises:
        ConfigError: they are of another teacher or of other views than the run shows.
        DataError: they are missing, damaged or of other images.
    """
    task = config.task
    if not isinstance(task, ClipPretraining) or not task.features:
        return None
    features = Features(task.features, dataset, config.loader)
    made = features.manifest.settings
    for field, written, wanted in (
        ("task.teacher_model", made.teacher.get("model"), task.teacher_model),
        ("model.image_size", made.image_size, config.model.image_size),
        ("augment", made.augment, config.augment),
        ("model.crop_fraction", made.crop_fraction, config.model.evaluation_crop),
    ):
        if written != wanted:
            raise ConfigError(
                field,
                wanted,
                f"the features in {task.features} were written with {written!r}",
                "Use the same value, or write the features again with itpn-ray cache-teacher",
            )
    assert isinstance(config.augment, AugmentConfig)
    if config.augment.repeats != 1:
        raise ConfigError(
            "augment.repeats",
            config.augment.repeats,
            "shows an image twice in a batch, but a teacher's features have one view an epoch",
            "Use 1, or --task.teacher instead of --task.features",
        )
    return features


def check_teacher(config: ExperimentConfig, train: ShardedDataset, val: ShardedDataset) -> None:
    """Load the teacher once, or open its features, so that a wrong file is told in seconds.

    Raises:
        ConfigError: no teacher is named, or it does not go with the run.
        CheckpointError: the teacher's file is missing or foreign.
        DataError: the features are missing, damaged or of other images.
    """
    task = config.task
    if not isinstance(task, ClipPretraining):
        return
    if task.features:
        for dataset in (train, val):
            open_features(config, dataset)
    else:
        load_teacher(task.teacher, task.teacher_model, config.model.image_size)


def eval_batch(config: ExperimentConfig, world: int) -> int:
    """Images a worker evaluates at once: as many as it trains on at once."""
    share = max(1, config.optim.global_batch // max(world, 1))
    return min(share, config.optim.micro_batch or share)


def open_splits(config: ExperimentConfig) -> tuple[ShardedDataset, ShardedDataset]:
    """The prepared train and val splits.

    Raises:
        ConfigError: no data was named.
        DataError: it is not a folder of prepared data, or a split is missing.
    """
    if not config.data:
        raise ConfigError(
            "data",
            config.data,
            "names no prepared data",
            "Give --data, written by itpn-ray prepare",
        )
    return open_dataset(config.data, "train"), open_dataset(config.data, "val")


def check_fit(config: ExperimentConfig, train: ShardedDataset, val: ShardedDataset) -> None:
    """Refuse, before anything starts, what could not train.

    Raises:
        ConfigError: an epoch has no step, there are fewer steps than the warm-up takes, or the
            masks of pre-training leave nothing to hide or to see.
        DataError: classification has fewer than two classes; detection has no boxes, or no masks
            where it learns them.
    """
    batch = config.optim.global_batch
    if len(train) < batch:
        raise ConfigError(
            "optim.global_batch",
            batch,
            f"an epoch of {len(train)} images would have 0 steps",
            f"Use at most {len(train) // 2 * 2} with --optim.global-batch",
        )
    most = config.worker_range[1]
    if most > batch // 2:
        raise ConfigError(
            "workers",
            config.workers,
            f"a global batch of {batch} has pairs for {batch // 2} workers",
            "Use fewer workers or a larger --optim.global-batch",
        )
    steps = total_steps(config.optim, len(train) // batch)
    if config.optim.warmup_steps >= steps:
        raise ConfigError(
            "optim.warmup_steps",
            config.optim.warmup_steps,
            f"the run has {steps} steps",
            "Warm up for fewer with --optim.warmup-steps",
        )
    if isinstance(config.task, PixelPretraining):
        visible_count((config.model.image_size // 16) ** 2, config.task.mask_ratio)
    elif isinstance(config.task, ClipPretraining):
        masked_count((config.model.image_size // 16) ** 2, config.task.mask_ratio)
    elif isinstance(config.task, Detection):
        for dataset in (train, val):
            check_detection(dataset)
        if config.task.masks:
            check_masks(open_truth(config.data, "train", config.loader))
    elif len(train.classes) < 2:
        raise DataError(
            config.data,
            list(train.classes),
            "has fewer than two classes to tell apart",
            "Prepare a folder with one subfolder a class",
        )
