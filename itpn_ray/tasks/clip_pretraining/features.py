"""A teacher's stored features as a run reads them."""

from __future__ import annotations

from typing import cast

from itpn_ray.data.config import AugmentConfig
from itpn_ray.data.store.shards import ShardedDataset
from itpn_ray.data.store.teacher_features import Features
from itpn_ray.errors import ConfigError
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining


def open_features(setup: TaskSetup[ClipPretraining], dataset: ShardedDataset) -> Features:
    """The features of a split, which must be of the run's own teacher and views.

    Raises:
        ConfigError: they are of another teacher or of other views than the run shows.
        DataError: they are missing, damaged or of other images.
    """
    task, augment = setup.config, cast(AugmentConfig, setup.augment)
    features = Features(task.features, dataset, setup.loader)
    made = features.manifest.settings
    # All that decides which pixels a teacher was shown, and which teacher.
    for field, written, expected in (
        ("task.teacher_model", made.teacher.get("model"), task.teacher_model),
        ("model.image_size", made.image_size, setup.model.image_size),
        ("augment", made.augment, augment),
        ("model.crop_fraction", made.crop_fraction, setup.model.evaluation_crop),
    ):
        if written != expected:
            raise ConfigError(
                field,
                expected,
                f"the features in {task.features} were written with {written!r}",
                "Use the same value, or write the features again with `itpn-ray cache-teacher`",
            )
    if augment.repeats != 1:
        raise ConfigError(
            "augment.repeats",
            augment.repeats,
            "shows an image twice in a batch, but a teacher's features have one view an epoch",
            "Use 1, or --task.teacher instead of --task.features",
        )
    return features
