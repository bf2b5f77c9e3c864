"""All runs under a folder or URI: what each is, how far it has come, and how two of them differ."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from itpn_ray.costs.ledger import show_money
from itpn_ray.errors import DataError
from itpn_ray.formatting import label, show_duration, show_metric, show_value
from itpn_ray.metrics import LOSS, find, headline
from itpn_ray.runs.folder import ABOUT, CONFIG, COSTS
from itpn_ray.runs.journal import EVENTS, METRICS, RESULTS
from itpn_ray.runs.mirror import is_uri
from itpn_ray.runs.reader import RunRecord, read_run
from itpn_ray.storage import open_store
from itpn_ray.tracking.base import flatten

_RECORDS = (CONFIG, ABOUT, METRICS, EVENTS, RESULTS, COSTS)
_WHERE = ("run", "out", "command")  # settings that differ between any two runs


def read_runs(out: str) -> list[RunRecord]:
    """The runs directly under a folder or URI, the newest first.

    Raises:
        DataError: there is none.
        OSError: the store does not answer.
    """
    if is_uri(out):
        with tempfile.TemporaryDirectory(prefix="itpn_ray-") as scratch:
            records = _read(_fetch_records(out, Path(scratch)))
    else:
        records = _read(Path(out).expanduser())
    if not records:
        raise DataError("out", out, "holds no runs", "Name the --out of runs, or start one")
    return sorted(records, key=_newest, reverse=True)


def _fetch_records(out: str, scratch: Path) -> Path:
    """Copies of the records alone: weights and plots stay where they are."""
    store = open_store(out)
    for key in store.list():
        run, _, name = key.partition("/")
        if name in _RECORDS:
            (scratch / run).mkdir(exist_ok=True)
            store.get_file(key, scratch / run / name)
    return scratch


def _read(out: Path) -> list[RunRecord]:
    folders = sorted(path.parent for path in out.glob(f"*/{CONFIG}"))
    return [read_run(folder) for folder in folders]


def _newest(record: RunRecord) -> float:
    """When something was last recorded, seconds since 1970."""
    stamps = [float(one["time"]) for one in (*record.metrics, *record.events) if "time" in one]
    return max(stamps, default=0.0)


def judged(record: RunRecord) -> tuple[str, float] | None:
    """The metric that a run is judged by, and its newest value; None before any evaluation."""
    rows = [row for row in record.metrics if row["split"] != "train"]
    rows.append(record.results | {"split": "results"})
    # By headline metrics first, over all rows; by the loss only where there are none.
    for names in (headline, lambda row: LOSS.name if LOSS.name in row else ""):
        for row in reversed(rows):
            name = names(row)
            if name and isinstance(row[name], int | float):
                return name, float(row[name])
    return None


def overview(record: RunRecord) -> dict[str, str]:
    """One run as a row of a table."""
    train = [row for row in record.metrics if row["split"] == "train"]
    epochs = float(record.config.get("optim", {}).get("epochs", 0.0))
    done = f"{min(1.0, train[-1]['epoch'] / epochs):.0%}" if train and epochs else ""
    found = judged(record)
    age = max(0.0, time.time() - _newest(record))
    return {
        "run": record.name,
        "kind": record.title,
        "state": record.status,
        "done": done,
        "metric": "" if found is None else f"{label(found[0])} {show_metric(*found)}",
        "cost": show_money(record.costs.currency, record.costs.cost()) if _priced(record) else "",
        "newest record": f"{show_duration(age)} ago" if _newest(record) else "",
    }


def _priced(record: RunRecord) -> bool:
    return any(one.held.price is not None for one in record.costs.holdings)


def best_run(records: Iterable[RunRecord], metric: str = "") -> tuple[RunRecord, str, float]:
    """The run that is best by a metric: the newest run's own unless one is named.

    Raises:
        DataError: no run was judged by it.
    """
    found = [(record, *value) for record in records if (value := judged(record)) is not None]
    name = metric or (found[0][1] if found else "")
    same = [one for one in found if one[1] == name]
    if not same:
        raise DataError("metric", name or None, "was found by no run", "Evaluate one first")
    choose = max if find(name).higher_is_better else min
    return choose(same, key=lambda one: one[2])


def differences(one: RunRecord, other: RunRecord) -> list[dict[str, Any]]:
    """Settings that differ between two runs, a row each."""
    first, second = flatten(one.config), flatten(other.config)
    return [
        {"setting": name, one.name: first.get(name, ""), other.name: second.get(name, "")}
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name) and name not in _WHERE
    ]


def side_by_side(one: RunRecord, other: RunRecord) -> list[dict[str, str]]:
    """The newest metrics of two runs, a row each."""
    columns = [newest_metrics(record) for record in (one, other)]
    return [
        {
            "metric": label(name),
            **{
                record.name: show_value(name, values.get(name))
                for record, values in zip((one, other), columns, strict=True)
            },
        }
        for name in dict.fromkeys(name for values in columns for name in values)
    ]


def newest_metrics(record: RunRecord) -> dict[str, float]:
    """The last value of each metric of held-out images; details are left out."""
    values: dict[str, float] = {}
    for row in record.metrics:
        if row["split"] != "train":
            values |= {n: v for n, v in row.items() if isinstance(v, float) and n != "time"}
    values |= {n: v for n, v in record.results.items() if isinstance(v, float)}
    return {n: v for n, v in values.items() if n != "epoch" and not find(n).detail}
