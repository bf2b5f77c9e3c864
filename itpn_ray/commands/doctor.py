"""`itpn-ray doctor`: look annotations or prepared data over: faults, balance, duplicates."""

from __future__ import annotations

from itpn_ray import arguments
from itpn_ray.commands.shared import console_for

HELP = "look annotations or prepared data over: faults, balance, duplicates"


def run(words: list[str], verbose: bool) -> int:
    """Run the verb; its exit code."""
    from itpn_ray.data.doctor.config import DoctorConfig

    config = arguments.parse(DoctorConfig, words, "doctor")
    from itpn_ray.data.doctor.annotations import is_annotated, source_doctor
    from itpn_ray.data.doctor.fault_list import FaultList
    from itpn_ray.data.doctor.masks import is_masked, mask_doctor
    from itpn_ray.data.doctor.prepared import doctor
    from itpn_ray.terminal.item_progress import progress_bar

    console = console_for(verbose)
    masked = is_masked(config.data)
    annotated = not masked and is_annotated(config.data)
    examine = mask_doctor if masked else source_doctor if annotated else doctor
    with FaultList(config.out) as faults, progress_bar(console, "examining images") as count:
        health = examine(config.data, faults, threads=config.threads, count=count)
    for line in health.lines():
        console.say(line)
    return 0 if health.sound else 1
