"""The end of a sweep: best trials with other seeds, the answer, importances, the winner's files."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.metrics import Metric
from itpn_ray.models.weights.config import ExportConfig
from itpn_ray.models.weights.export import export
from itpn_ray.runs.folder import CONFIG, EXPORT, REPEATS
from itpn_ray.runs.mirror import is_uri
from itpn_ray.storage import join, local_copy
from itpn_ray.terminal.console import Console
from itpn_ray.training.claim import run_folder
from itpn_ray.training.launch.driver import run as train
from itpn_ray.tuning.answer import Score, best_rows, fitting, recommended, row_key, sentence
from itpn_ray.tuning.config import TRIALS, SweepConfig, pretraining, tracking_of_runs, trial
from itpn_ray.tuning.importance import importances, refusal, usable
from itpn_ray.tuning.next_sweep import next_sweep
from itpn_ray.tuning.searcher import evaluations, trial_folder
from itpn_ray.tuning.speed import free_of_speed, scores
from itpn_ray.tuning.study import DESIGN, SweepStudy, name_of

Rows = Sequence[Mapping[str, Any]]
BEST = "best"
"""Folder of the winner's files, and what `--apply` takes for its name."""


def repeated(
    config: SweepConfig,
    rows: Rows,
    study: SweepStudy,
    weights: Mapping[str, str],
    command: str,
    console: Console,
    parent: str,
) -> dict[str, list[float]]:
    """Train the best trials again with other seeds, one after the other.

    Args:
        config: the sweep.
        rows: of trials that have an evaluation.
        study: of the sweep.
        weights: of each pre-training, by its name.
        command: for the runs' records.
        console: to tell people.
        parent: the tracker's key of the sweep.

    Returns:
        The headline metric of every run of a row, its own first, by `row_key`.
    """
    metric = config.finetune.task.headline()
    points = {name_of(one): one.params for one in study.trials()}
    found = {row_key(row): [float(row[metric.name])] for row in rows}
    fast = fitting(rows, at_least=config.at_least, at_most_ms=config.at_most_ms)
    whole = ended(fast, study)
    # A trial with elastic r has several rows, and is repeated once.
    names = dict.fromkeys(row["trial"] for row in best_rows(whole, metric, len(whole)))
    for name in list(names)[: config.repeat_best]:
        # Number 0 is the trial itself.
        for number in range(1, config.seeds):
            again = repeat(config, name, points[name], weights, number)
            console.say(f"{name} once more, with seed {again.seed}")
            train(again, command=command, console=console, parent=parent)
            figures = evaluations(run_folder(again), metric)[-1]
            served = scores(config, points[name], figures)
            for row in (row for row in rows if row["trial"] == name):
                # With elastic r a repeat has a metric for each row, otherwise one.
                ratio = row["migration"] if len(served) > 1 else next(iter(served))
                found[row_key(row)].append(served[ratio])
    return found


def repeat(
    config: SweepConfig,
    name: str,
    point: Mapping[str, Any],
    weights: Mapping[str, str],
    number: int,
) -> ExperimentConfig:
    """A trial with the seed that is ``number`` above its own."""
    init = weights[pretraining(config, point).run] if weights else config.finetune.model.init
    own = trial(config, config.place, f"{name}-repeat-{number}", point, init)
    return dataclasses.replace(
        own,
        out=join(config.place, REPEATS),
        seed=own.seed + number,
        # Driven as a run of its own: trial() has turned
        # tracking off, for the sweep tracks its trials.
        tracking=tracking_of_runs(config),
    )


def conclude(
    config: SweepConfig, rows: Rows, values: Mapping[str, Sequence[float]], study: SweepStudy
) -> dict[str, Any]:
    """``best``, the trial to use, ``best_migration``, its r, and ``answer``, a sentence on it;
    ``repeats``, its interval and others; ``importance``, a list, or ``importance_refused``, the
    reason; ``next``, what the next sweep should try; ``settings``, what varied.
    """
    metric = config.finetune.task.headline()
    # Without repeats the interval comes from how many images the metric was counted on.
    images = len(open_dataset(config.data, "val"))
    told = {row_key(row): Score.of(values[row_key(row)], metric, images) for row in rows}
    limits = {"at_least": config.at_least, "at_most_ms": config.at_most_ms}
    settings = list(dict.fromkeys([one.name for one in config.dimensions]))
    if config.finetune.model.elastic_migration:
        settings.append("migration")
    whole = ended(fitting(rows, **limits), study)
    planned = usable(study.trials(), DESIGN)
    refused = refusal(len(planned))
    return {
        **_answer(whole, rows, told, metric, settings, limits),
        "settings": settings,
        "next": next_sweep(rows, free_of_speed(config.dimensions, config.finetune.task), metric),
        "repeats": [
            {"trial": row["trial"], metric.name: one.value, "half": one.half, "seeds": one.seeds}
            for row in rows
            for one in [told[row_key(row)]]
            if one.seeds > 1
        ],
        **(
            {"importance_refused": refused}
            if refused
            else {"importance": importances(planned, config.seed)}
        ),
    }


def ended(rows: Rows, study: SweepStudy) -> list[Mapping[str, Any]]:
    """The rows of trials that came to their end: no others stopped them."""
    names = {name_of(one) for one in study.trials() if one.state == TrialState.COMPLETE}
    return [row for row in rows if row["trial"] in names]


def _answer(
    whole: Rows,
    rows: Rows,
    told: Mapping[str, Score],
    metric: Metric,
    settings: Sequence[str],
    limits: Mapping[str, float],
) -> dict[str, Any]:
    if not whole:
        return {
            "best": "",
            "best_migration": 0.0,
            "answer": "no trial came to its end, so there is none to use",
        }
    choice = recommended(whole, told, metric)
    return {
        "best": str(choice["trial"]),
        "best_migration": choice.get("migration", 0.0),
        "answer": sentence(choice, rows, told, metric, settings, **limits),
    }


def apply_trial(config: SweepConfig, folder: Path, best: str, ratio: float) -> str:
    """Copy a trial's settings and weights to `BEST`, a run's folder that every verb takes.

    The winner of a sweep with elastic r is fixed at the r that is recommended.

    Args:
        config: the sweep; ``apply`` names the trial, or is `BEST`.
        folder: the sweep's folder.
        best: the trial that the sweep recommends.
        ratio: its r.

    Returns:
        Where they are kept.

    Raises:
        ConfigError: there is no such trial, or it was not trained to its end.
    """
    name = best if config.apply == BEST else config.apply
    weights = _weights_of(config, folder, name) if name else None
    if weights is None:
        raise ConfigError(
            "apply",
            config.apply,
            f"means {name or 'no trial'}, which was not trained to its end",
            f"Write {BEST}, or the name of a trial that was",
        )
    (folder / BEST / EXPORT).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights, folder / BEST / EXPORT)
    settings = json.loads((trial_folder(folder, name) / CONFIG).read_text())
    # A trial that the user names stays elastic: the r that is recommended is another trial's.
    if config.apply == BEST and settings.get("model", {}).get("elastic_migration"):
        settings["model"] |= {"elastic_migration": [], "migration": ratio}
        fixed = str(folder / BEST / EXPORT)
        export(ExportConfig(file=fixed, out=fixed, migration=ratio))
    (folder / BEST / CONFIG).write_text(json.dumps(settings, indent=1))
    return join(config.place, BEST)


def _weights_of(config: SweepConfig, folder: Path, name: str) -> Path | None:
    """The weights of a trial, from the store where another machine has exported them."""
    here = trial_folder(folder, name) / EXPORT
    if here.is_file():
        return here
    try:
        return local_copy(join(config.place, TRIALS, name, EXPORT)) if is_uri(config.out) else None
    except FileNotFoundError:
        return None
