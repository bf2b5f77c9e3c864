"""Tasks by name: a line for each of ours; other packages register theirs as entry points."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

from itpn_ray import plugins
from itpn_ray.metrics import declare
from itpn_ray.tasks.config import TaskConfig

if TYPE_CHECKING:
    from itpn_ray.tasks.base import AnyTask

GROUP = "itpn_ray.tasks"
BUILT_IN = {
    "pixel_pretraining": "itpn_ray.tasks.pixel_pretraining.config:PixelPretraining",
    "clip_pretraining": "itpn_ray.tasks.clip_pretraining.config:ClipPretraining",
    "classification": "itpn_ray.tasks.classification.config:Classification",
    "detection": "itpn_ray.tasks.detection.config:Detection",
}
"""Name of a task in saved configurations and weight files -> its settings."""


def settings_class(name: str) -> type[TaskConfig]:
    """The settings of a task.

    Raises:
        ConfigError: there is no such task.
    """
    found: type[TaskConfig] = plugins.load(GROUP, BUILT_IN, name, "task.kind")
    declare(*found.metrics)
    return found


def task_class(settings: TaskConfig | type[TaskConfig]) -> type[AnyTask]:
    """What trains by these settings; imports PyTorch."""
    found: type[AnyTask] = EntryPoint("task", settings.implementation, GROUP).load()
    return found
