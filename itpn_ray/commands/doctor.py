"""`itpn-ray doctor`: check annotations or prepared data: faults, balance, duplicates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

if TYPE_CHECKING:
    from itpn_ray.data.doctor.annotations import SourceHealth
    from itpn_ray.data.doctor.config import DoctorConfig
    from itpn_ray.data.doctor.masks import MaskHealth
    from itpn_ray.data.doctor.prepared import Health

HELP = "check annotations or prepared data: faults, balance, duplicates"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.data.doctor.config import DoctorConfig

    config = arguments.parse(DoctorConfig, words, "doctor")
    from itpn_ray.data.doctor.fault_list import FaultList
    from itpn_ray.terminal.item_progress import progress_bar

    console = console_for(verbose)
    examine = _examiner(config)
    with FaultList(config.out) as faults, progress_bar(console, "examining images") as count:
        health = examine(faults, threads=config.threads, count=count)
    for line in health.lines():
        console.say(line)
    return 0 if health.sound else 1


def _examiner(config: DoctorConfig) -> Callable[..., Health | MaskHealth | SourceHealth]:
    """What checks the raw images with masks or objects, or the prepared data, at a place."""
    from itpn_ray.data.doctor.annotations import annotated, source_doctor
    from itpn_ray.data.doctor.masks import mask_doctor, mask_source
    from itpn_ray.data.doctor.prepared import doctor

    # In the order in which preparation looks.
    masks = mask_source(config.data, config.format)
    if masks is not None:
        return partial(mask_doctor, masks)
    source = annotated(config.data, config.format)
    return partial(doctor, config.data) if source is None else partial(source_doctor, source)
