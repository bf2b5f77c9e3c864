"""What a sweep has cost: hours in which its runs were driven."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from itpn_ray.report.restarts import timeline
from itpn_ray.runs.folder import REPEATS
from itpn_ray.runs.journal import EVENTS, METRICS, read_lines
from itpn_ray.runs.mirror import run_place
from itpn_ray.storage import join
from itpn_ray.training.claim import run_folder
from itpn_ray.tuning.config import SweepConfig, pretraining
from itpn_ray.tuning.searcher import trial_folder
from itpn_ray.tuning.space import Point


def hours_of(folders: Iterable[Path]) -> float:
    """Hours in which the runs of these folders were driven, one after the other."""
    seconds = 0.0
    for folder in folders:
        records = read_lines(folder / METRICS)
        last = float(records[-1]["time"]) if records else 0.0
        seconds += timeline(read_lines(folder / EVENTS), last).seconds
    return seconds / 3600


def hours(
    config: SweepConfig, folder: Path, points: Sequence[tuple[str, Point]]
) -> dict[str, float]:
    """Hours of the pre-trainings that trials start from, of the trials, and of their repeats.

    Args:
        config: the sweep.
        folder: the sweep's folder.
        points: name and point of each trial.
    """
    # By name, for trials share pre-trainings.
    before = {pretraining(config, point).run: point for _, point in points}
    starts = [run_folder(pretraining(config, point)) for point in before.values()]
    # The folder of all repeats, wherever such runs are kept.
    again = run_place(join(config.place, REPEATS), "any").parent
    return {
        "pretraining_hours": hours_of(starts) if config.pretrains else 0.0,
        "trial_hours": hours_of(trial_folder(folder, name) for name, _ in points),
        "repeat_hours": hours_of(sorted(again.glob("*"))),
    }


def hours_line(spent: dict[str, float]) -> str:
    """The hours in words, those of nothing left out."""
    words = {
        "pretraining_hours": "pre-training",
        "trial_hours": "trials",
        "repeat_hours": "repeats",
    }
    parts = [f"{spent[name]:.2f} h of {what}" for name, what in words.items() if spent[name]]
    return f"spent: {', '.join(parts)}" if parts else ""
