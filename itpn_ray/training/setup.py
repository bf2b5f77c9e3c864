"""From a configuration to the parts of a run: task, data, checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

from itpn_ray.data.features import Features
from itpn_ray.data.loader import EvalLoader, TrainLoader
from itpn_ray.data.shards import ShardedDataset, open_dataset
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.pretrain.block_mask import masked_count
from itpn_ray.pretrain.clip import ClipPretrainingTask
from itpn_ray.pretrain.config import ClipPretraining, PixelPretraining
from itpn_ray.pretrain.masking import visible_count
from itpn_ray.pretrain.pixel import PixelPretrainingTask
from itpn_ray.pretrain.teacher import load_teacher
from itpn_ray.tasks.base import Task
from itpn_ray.tasks.classification import ClassificationTask
from itpn_ray.training.worker import Worker


def make_task(config: ExperimentConfig, classes: Sequence[str]) -> Task:
    """The task that the configuration names."""
    if isinstance(config.task, PixelPretraining):
        return PixelPretrainingTask(config.task, config.model, seed=config.seed)
    if isinstance(config.task, ClipPretraining):
        return ClipPretrainingTask(config.task, config.model, seed=config.seed)
    return ClassificationTask(config.task, config.model, classes=classes, seed=config.seed)


def make_loaders(
    config: ExperimentConfig, train: ShardedDataset, val: ShardedDataset, worker: Worker
) -> tuple[TrainLoader, EvalLoader]:
    """The worker's share of the training and of the held-out pictures."""
    pin = worker.device.type == "cuda"
    return (
        TrainLoader(
            train,
            config.loader,
            image_size=config.model.image_size,
            augment=config.augment,
            seed=config.seed,
            global_batch=config.optim.global_batch,
            rank=worker.rank,
            world=worker.world,
            pin=pin,
            features=open_features(config, train),
        ),
        EvalLoader(
            val,
            config.loader,
            image_size=config.model.image_size,
            batch=eval_batch(config, worker.world),
            rank=worker.rank,
            world=worker.world,
            pin=pin,
            features=open_features(config, val),
        ),
    )


def open_features(config: ExperimentConfig, dataset: ShardedDataset) -> Features | None:
    """The teacher's features of a split, where the run reads them instead of asking a teacher.

    Raises:
        ConfigError: they are of another teacher or of other views than the run shows.
        DataError: they are missing, damaged or of other pictures.
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
    ):
        if written != wanted:
            raise ConfigError(
                field,
                wanted,
                f"the features in {task.features} were written with {written!r}",
                "Use the same value, or write the features again with itpn-ray teach",
            )
    if config.augment.repeats != 1:
        raise ConfigError(
            "augment.repeats",
            config.augment.repeats,
            "shows a picture twice in a batch, but a teacher's features have one view an epoch",
            "Use 1, or --task.teacher instead of --task.features",
        )
    return features


def check_teacher(config: ExperimentConfig, train: ShardedDataset, val: ShardedDataset) -> None:
    """Load the teacher once, or open its features, so that a wrong file is told in seconds.

    Raises:
        ConfigError: no teacher is named, or it does not go with the run.
        CheckpointError: the teacher's file is missing or foreign.
        DataError: the features are missing, damaged or of other pictures.
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
    """Pictures a worker evaluates at once: as many as it trains on at once."""
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


def check_fit(config: ExperimentConfig, train: ShardedDataset) -> None:
    """Refuse, before anything starts, what could not train.

    Raises:
        ConfigError: an epoch has no step, or the masks leave nothing to hide or to see.
        DataError: classification has fewer than two classes.
    """
    batch = config.optim.global_batch
    if len(train) < batch:
        raise ConfigError(
            "optim.global_batch",
            batch,
            f"an epoch of {len(train)} pictures would have 0 steps",
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
    if isinstance(config.task, PixelPretraining):
        visible_count((config.model.image_size // 16) ** 2, config.task.mask_ratio)
    elif isinstance(config.task, ClipPretraining):
        masked_count((config.model.image_size // 16) ** 2, config.task.mask_ratio)
    elif len(train.classes) < 2:
        raise DataError(
            config.data,
            list(train.classes),
            "has fewer than two classes to tell apart",
            "Prepare a folder with one subfolder a class",
        )
