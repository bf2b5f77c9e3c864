"""The run's folder: its names, who may use it, and when it is made anew."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from itpn_ray import checks
from itpn_ray.errors import ConfigError, DataError
from itpn_ray.formatting import show_names
from itpn_ray.metrics import Metric
from itpn_ray.runs.journal import EVENTS, METRICS, PLOTS, RESULTS, STATUS
from itpn_ray.storage import join, open_store
from itpn_ray.tracking.base import flatten

CONFIG = "config.json"
ABOUT = "about.json"
"""What ran, and the metrics that it measures: a report needs neither the task nor its package."""
LOG = "train.log"
REPORT = "report.html"
EXPORT = "exported/model.safetensors"
"""The trained weights; there once the run has come to its end."""
CHECKPOINTS = "checkpoints"
REPEATS = "repeats"
"""Folder in that of a sweep: runs with other seeds, each kept by itself."""
TRACKED = "tracked.json"
"""The key by which the run's tracker knows it, see `tracking_key`."""
COSTS = "costs.json"
"""Which machines the run held, from when to when, and their prices."""
PLAN = "plan.json"
"""What `itpn-ray plan` said that the run would take."""
INPUTS = "inputs.json"
"""Digests of what the run reads, see `claim`."""
EVALUATED = (
    *(METRICS, EVENTS, RESULTS, REPORT, LOG, "detections_r*.json", "task1_r*"),
    *("features.parquet", "unreadable.csv", f"{PLOTS}/*", f"{STATUS}/*"),
)
"""What evaluations and embeddings write, files and folders, beside their settings."""


def folder_of(out: str, run: str) -> Path:
    """OUT/RUN, absolute.

    Raises:
        ConfigError: OUT is a URI, which the command does not write to.
    """
    if "://" in out:
        raise ConfigError(
            "out", out, "is no folder of this machine", "Give a folder that all machines share"
        )
    return Path(out).expanduser().absolute() / run


def settings_before(folder: Path) -> dict[str, Any] | None:
    """The settings that a folder was claimed with; None where nobody has."""
    path = folder / CONFIG
    return json.loads(path.read_text()) if path.exists() else None


def read_inputs(folder: Path) -> dict[str, str]:
    """The digests that a folder was claimed with; none in that of an older version.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / INPUTS
    try:
        found = json.loads(path.read_text()) if path.exists() else {}
    except ValueError as error:
        raise _damaged(path) from error
    if not isinstance(found, dict):
        raise _damaged(path)
    return found


def claim(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    inputs: Mapping[str, str],
    command: str,
    free: Sequence[str],
    as_saved_today: Callable[[dict[str, Any]], dict[str, Any]],
) -> dict[str, Any] | None:
    """Make the folder of a run, or take it up again where the same run left it.

    A run may be extended: asked for more epochs than before, it goes on from its last checkpoint.
    The data and weights that it reads may have moved since: they are recognised by their content.

    Args:
        folder: OUT/RUN.
        settings: of the run, a dict of JSON values.
        inputs: setting that names a file or folder -> SHA-256 of what lies there.
        command: the command line.
        free: settings, or groups of them, that may differ from the run before.
        as_saved_today: takes the settings of a run that an older version may have begun.

    Returns:
        The settings that the run began with; None where it is new.

    Raises:
        ConfigError: the folder cannot be written, or holds a run with other settings or inputs.
        DataError: the folder is damaged.
    """
    # As JSON has them: what is a tuple here is a list there.
    plain = json.loads(json.dumps({**settings, "command": command}))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = settings_before(folder)
        if before is not None:
            before.pop("command", None)
            before = as_saved_today(before)
            # Compared by content instead of by path, so that data may move.
            known = {name: was for name, was in read_inputs(folder).items() if name in inputs}
            changed = [f"{name} (other content)" for name in known if known[name] != inputs[name]]
            changed += _changed_settings(before, plain, ("command", *free, *known))
            _refuse_changes(folder.name, changed)
            if longer(before, plain):
                _make_way(folder, epochs_of(before))
        _note_key(folder, plain, before)
        (folder / INPUTS).write_text(json.dumps(dict(inputs), indent=1))
        # The settings last: with them the folder counts as claimed.
        (folder / CONFIG).write_text(json.dumps(plain, indent=1))
    except OSError as error:
        raise _unwritable(folder, error) from error
    return before


def tracking_key(folder: Path) -> str:
    """The key by which a tracker knows the run in a claimed folder: where it was first kept."""
    return str(json.loads((folder / TRACKED).read_text())["key"])


def _note_key(folder: Path, now: Mapping[str, Any], before: Mapping[str, Any] | None) -> None:
    """Write the tracking key: a run that was moved keeps it, a copy of one gets its own."""
    path = folder / TRACKED
    here = _place_of(now)
    # A run of an older version has no such file, but was tracked by the place in its settings.
    known = tracking_key(folder) if path.exists() else _place_of(before or now)
    # Where the known place still holds a run, this one is a copy and gets a key of its own.
    if known != here and _holds_run(known):
        known = here
    path.write_text(json.dumps({"key": known}))


def _holds_run(place: str) -> bool:
    """Whether there is a run at a place, as far as it can be asked."""
    try:
        return open_store(place).exists(CONFIG)
    except OSError:
        return False


def _place_of(settings: Mapping[str, Any]) -> str:
    """OUT/RUN of settings."""
    return join(str(settings["out"]), str(settings["run"]))


def renew(
    folder: Path,
    settings: Mapping[str, Any],
    *,
    command: str,
    what: str = "an evaluation",
    marks: Set[str] = frozenset({"weights", "migration"}),
) -> str:
    """Make the folder of an evaluation, rid of all that an earlier one wrote.

    Args:
        folder: of the run.
        settings: of the evaluation, a dict of JSON values.
        command: the command line.
        what: kind of evaluation, for people.
        marks: settings by which the folder of an earlier one is known.

    Returns:
        The weights that the earlier evaluation was of; empty where there was none.

    Raises:
        ConfigError: the folder cannot be written, or holds something else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        before = settings_before(folder) or {}
        if any(folder.iterdir()) and not marks <= before.keys():
            raise ConfigError(
                "run",
                folder.name,
                f"{folder} holds something else than {what}",
                "Choose another --run",
            )
        plain = {**settings, "command": command}
        (folder / CONFIG).write_text(json.dumps(plain, indent=1))
        for earlier in (found for name in EVALUATED for found in folder.glob(name)):
            if earlier.is_dir():
                shutil.rmtree(earlier)
            else:
                earlier.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error
    return str(before.get("weights", ""))


def write_about(folder: Path, title: str, metrics: Sequence[Metric]) -> None:
    """Write what a folder is about.

    Args:
        folder: of a run, a sweep or an evaluation; it is there.
        title: what ran, for people, e.g. ``Fine-tuning``.
        metrics: those that its task declares.
    """
    about = {"title": title, "metrics": [dataclasses.asdict(metric) for metric in metrics]}
    (folder / ABOUT).write_text(json.dumps(about, indent=1))


def epochs_of(settings: Mapping[str, Any]) -> float:
    """The length of a run; 0 where its settings name none."""
    return float(settings.get("optim", {}).get("epochs", 0.0))


def longer(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a run is to be extended."""
    return epochs_of(before) < epochs_of(now)


def _make_way(folder: Path, epochs: float) -> None:
    """Rename the weights of the shorter run: while they are there, a run counts as ended."""
    path = folder / EXPORT
    if path.exists():
        path.rename(path.with_name(f"model-{epochs:g}-epochs.safetensors"))


def _changed_settings(
    before: Mapping[str, Any], now: Mapping[str, Any], free: Sequence[str]
) -> list[str]:
    """What differs in settings that must stay, in words."""
    old, new = flatten(before), flatten(now)
    return [
        f"{name} (was {old.get(name)!r}, now {new.get(name)!r})"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
        and not (name == "optim.epochs" and longer(before, now))
        and not checks.within(name, free)
    ]


def _refuse_changes(name: str, changed: Sequence[str]) -> None:
    if changed:
        raise ConfigError(
            "run",
            name,
            f"is in use by a run with other settings: {show_names(changed, 3)}",
            "Choose another --run, or repeat the command of the first run to resume it",
        )


def _damaged(path: Path) -> DataError:
    return DataError(
        str(path), None, "is damaged", "Delete it if the data and weights are the run's own"
    )


def _unwritable(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        "out", str(folder.parent), f"cannot be written ({error.strerror})", "Choose another --out"
    )
