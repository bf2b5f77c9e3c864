"""What a run's folder holds, read for the report: whatever is not there is empty."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itpn_ray.costs import ledger
from itpn_ray.costs.ledger import Ledger
from itpn_ray.errors import DataError
from itpn_ray.metrics import remember
from itpn_ray.runs.folder import ABOUT, CONFIG, COSTS, PLAN
from itpn_ray.runs.journal import EVENTS, METRICS, PLOTS, RESULTS, parse_record, read_lines

STAMPS = ("step", "epoch", "split", "time")
_MOST_QUARANTINED = 200

Points = list[tuple[float, float]]


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One run's folder.

    Attributes:
        folder: where it is.
        config: config.json without the command.
        command: the command line that ran; empty where unknown.
        about: what ran and its metrics, see `itpn_ray.runs.folder.write_about`; empty in folders
            of older versions.
        metrics: metrics.jsonl; where a step was repeated, its last record.
        events: events.jsonl, by time.
        results: results.json.
        costs: costs.json; empty where nothing was counted.
        planned: plan.json.
        plots: plots/*.png.
        manifest: manifest.json of prepared data.
        quarantine: (path, reason) of the files that preparation could not use, at most 200.
    """

    folder: Path
    config: dict[str, Any]
    command: str
    about: dict[str, Any]
    metrics: list[dict[str, Any]]
    events: list[dict[str, Any]]
    results: dict[str, Any]
    costs: Ledger
    planned: dict[str, Any]
    plots: list[Path]
    manifest: dict[str, Any]
    quarantine: list[tuple[str, str]]

    @property
    def name(self) -> str:
        """The run's name."""
        return str(self.config.get("run") or self.folder.name)

    @property
    def title(self) -> str:
        """What ran, for people; empty where unknown."""
        if "title" in self.about:
            return str(self.about["title"])
        task = str(self.config.get("task", {}).get("kind", ""))
        signs = {
            # Folders of older versions say what they are only by what lies in them.
            "Demo": "stages" in self.results,
            "Prepared images": bool(self.manifest),
            "Pre-training": task.endswith("pretraining"),
            "Detection": task == "detection",
            "Segmentation": task == "segmentation",
            "Fine-tuning": bool(task),
            "Sweep": "trials" in self.config,
            "Evaluation": "weights" in self.config,
        }
        return next((title for title, found in signs.items() if found), "")

    @property
    def trains(self) -> bool:
        """Whether it is a training run."""
        return "optim" in self.config

    @property
    def status(self) -> str:
        """``finished``, ``failed``, ``interrupted``, ``capped`` (it ended at ``max_cost``) or
        ``unfinished``; empty: not recorded.
        """
        marks = [event for event in self.events if event["event"] in ("start", "restart", "end")]
        if not marks:
            return ""
        if marks[-1]["event"] != "end":
            return "unfinished"
        return str(marks[-1].get("status", "finished")).lower()

    def series(self, split: str, name: str) -> Points:
        """(step, value) of a metric of a split."""
        return [
            (float(record["step"]), float(record[name]))
            for record in self.metrics
            if record["split"] == split and isinstance(record.get(name), int | float)
        ]

    def names(self, split: str) -> list[str]:
        """The metrics that a split has, in the order in which they first came."""
        found = (record for record in self.metrics if record["split"] == split)
        return list(dict.fromkeys(n for record in found for n in record if n not in STAMPS))


def read_run(folder: str | Path) -> RunRecord:
    """Read a run's folder, and know its metrics from then on.

    Raises:
        FileNotFoundError: there is no such folder.
        DataError: one of its files is damaged.
    """
    place = Path(folder)
    if not place.is_dir():
        raise FileNotFoundError(place)
    config = _json(place / CONFIG)
    command = str(config.pop("command", ""))
    about = _json(place / ABOUT)
    remember(about.get("metrics", []))
    # A step that was repeated after a restart counts as it went the last time.
    latest = {(r["split"], r["step"]): r for r in read_lines(place / METRICS)}
    return RunRecord(
        folder=place,
        config=config,
        command=command,
        about=about,
        metrics=sorted(latest.values(), key=lambda record: record["step"]),
        # By time, for workers of several machines append in no fixed order.
        events=sorted(read_lines(place / EVENTS), key=lambda event: event["time"]),
        results=_json(place / RESULTS),
        costs=read_costs(place),
        planned=_json(place / PLAN),
        plots=sorted((place / PLOTS).glob("*.png")),
        manifest=_json(place / "manifest.json"),
        quarantine=_quarantine(place / "quarantine.csv"),
    )


def read_costs(folder: Path) -> Ledger:
    """The ledger of a run's folder; an empty one where it has none.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / COSTS
    if not path.exists():
        return Ledger()
    try:
        return ledger.from_dict(_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            str(path), None, "is no ledger of costs", "Move it away: the run counts anew"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    return parse_record(path, 1, path.read_text()) if path.exists() else {}


def _quarantine(path: Path) -> list[tuple[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        rows = [(row["path"], row["reason"]) for row in csv.DictReader(file)]
    return rows[:_MOST_QUARANTINED]
