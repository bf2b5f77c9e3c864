"""What is refused before a run starts, and in which order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from itpn_ray.data.store.manifest import MANIFEST
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.config import TaskConfig
from itpn_ray.tasks.detection.config import Detection
from itpn_ray.tasks.multilabel.config import MultiLabel
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.rotated_detection.config import RotatedDetection
from itpn_ray.tasks.segmentation.config import Segmentation
from itpn_ray.training.launch.setup import check_fit, open_splits
from tests.data.made import write_dataset

LARGE = OptimConfig(global_batch=400)


def of_kind(folder: Path, kind: str) -> str:
    """Data of few images whose manifest names a kind."""
    data = write_dataset(folder / kind, {"train": [4, 4], "val": [2, 2]})
    path = Path(data, MANIFEST)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"kind": kind}))
    return data


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        (Classification(), "detection"),
        (MultiLabel(), "classification"),
        (Detection(), "classification"),
        (RotatedDetection(), "detection"),
        (Segmentation(), "classification"),
    ],
)
def test_data_of_another_kind_are_told_before_the_batch(
    task: TaskConfig, kind: str, tmp_path: Path
) -> None:
    config = ExperimentConfig(
        data=of_kind(tmp_path, kind), task=task, augment=task.augmentation(), optim=LARGE
    )
    with pytest.raises(DataError, match=r"was prepared .* needed"):
        check_fit(config, *open_splits(config))


def test_a_batch_that_is_too_large_for_data_of_the_right_kind(tmp_path: Path) -> None:
    data = of_kind(tmp_path, "classification")
    for task in (Classification(), PixelPretraining()):
        config = ExperimentConfig(data=data, task=task, optim=LARGE)
        with pytest.raises(ConfigError, match="would have 0 steps"):
            check_fit(config, *open_splits(config))
