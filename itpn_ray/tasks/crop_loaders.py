"""Loaders of square crops, for every task whose images have one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from itpn_ray.data.config import AugmentConfig
from itpn_ray.data.loading.crop_loader import EvalLoader, TrainLoader
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.store.teacher_features import Features
from itpn_ray.tasks.base import TaskSetup, WorkerShare


def crop_train_loader(
    setup: TaskSetup[Any],
    train: ShardedDataset,
    share: WorkerShare,
    features: Features | None = None,
    side: Callable[[int], int] | None = None,
) -> TrainLoader:
    """Random crops of the training images, augmented; with a teacher's features where given.

    Args:
        setup: of the task.
        train: the training images.
        share: which worker reads.
        features: of a teacher.
        side: of an epoch's crops, pixels; None: always ``model.image_size``.
    """
    return TrainLoader(
        train,
        setup.loader,
        image_size=setup.model.image_size,
        augment=cast(AugmentConfig, setup.augment),
        seed=setup.seed,
        global_batch=setup.global_batch,
        features=features,
        rank=share.rank,
        world=share.world,
        pin=share.pin,
        side=side,
    )


def crop_eval_loader(
    setup: TaskSetup[Any], val: ShardedDataset, share: WorkerShare, features: Features | None = None
) -> EvalLoader:
    """Central crops of the held-out images; with a teacher's features where given."""
    return EvalLoader(
        val,
        setup.loader,
        image_size=setup.model.image_size,
        crop=setup.model.evaluation_crop,
        batch=share.eval_batch,
        features=features,
        rank=share.rank,
        world=share.world,
        pin=share.pin,
    )
