"""Tasks by name: a line for each of ours; other packages register theirs as entry points."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from itpn_ray import plugins
from itpn_ray.metrics import declare
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.config import TaskConfig

if TYPE_CHECKING:
    from itpn_ray.tasks.base import AnyTask

GROUP = "itpn_ray.tasks"
BUILT_IN = {
    "pixel_pretraining": "itpn_ray.tasks.pixel_pretraining.config:PixelPretraining",
    "clip_pretraining": "itpn_ray.tasks.clip_pretraining.config:ClipPretraining",
    "classification": "itpn_ray.tasks.classification.config:Classification",
    "multilabel": "itpn_ray.tasks.multilabel.config:MultiLabel",
    "detection": "itpn_ray.tasks.detection.config:Detection",
    "rotated_detection": "itpn_ray.tasks.rotated_detection.config:RotatedDetection",
    "segmentation": "itpn_ray.tasks.segmentation.config:Segmentation",
}
"""Name of a task in saved configurations and weight files -> its settings."""


def settings_class(name: str) -> type[TaskConfig]:
    """The settings of a task.

    Raises:
        ConfigError: there is no such task.
    """
    found: type[TaskConfig] = plugins.load(GROUP, BUILT_IN, name, "task.kind")
    return found


def task_class(settings: TaskConfig | type[TaskConfig]) -> type[AnyTask]:
    """What trains by these settings, its metrics declared; imports PyTorch."""
    # Before anything trains: a metric whose name another task has taken is refused here.
    declare(*settings.metrics)
    found: type[AnyTask] = EntryPoint("task", settings.implementation, GROUP).load()
    return found


def task_of_file(path: str) -> type[AnyTask]:
    """The task of a weight file; see `settings_of_file`."""
    return task_class(settings_of_file(path))


def settings_of_file(path: str) -> type[TaskConfig]:
    """The settings of the task that exported a weight file, or the one in a run's folder.

    Files of other origins, and of versions that did not name the task, are recognised by the kind
    of network; what does not even say that is taken for a classifier, as the authors' files are.

    Raises:
        CheckpointError: there is no such file, or it is damaged.
        ConfigError: the task is of a package that is not installed here.
    """
    # Imported here, for they need PyTorch, and listing tasks must not.
    from itpn_ray.models.weights.raw_files import read_metadata
    from itpn_ray.models.weights.read import METADATA_KEY

    metadata = read_metadata(path)
    if "task" in metadata:
        return settings_class(metadata["task"])
    kind = json.loads(metadata.get(METADATA_KEY, "{}")).get("kind", "classifier")
    known = (settings_class(name) for name in BUILT_IN)
    return next((each for each in known if kind in each.kinds), Classification)
