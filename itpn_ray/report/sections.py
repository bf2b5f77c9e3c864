"""The parts of a report; each is empty where the run's folder holds nothing for it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from itpn_ray.formatting import (
    is_detail,
    label,
    number_of,
    show_duration,
    show_interval,
    show_metric,
    show_spread,
    show_value,
    with_certainty,
)
from itpn_ray.metrics import find, headline
from itpn_ray.report.chart import Mark, bar_chart, scatter_chart
from itpn_ray.report.curves import accuracy_charts, learning_charts, pace_charts
from itpn_ray.report.html import details, esc, image, pairs, section, table, tiles
from itpn_ray.report.restarts import Timeline, timeline
from itpn_ray.runs.reader import RunRecord
from itpn_ray.tracking.base import flatten
from itpn_ray.tracking.redact import redact_value

_CAPTIONS = {
    "reconstruction": "Input, what the network saw of it, and its reconstruction",
    "confusion": "Confusion: of each class (row), the images taken for each, in per cent",
    "mistakes": "Wrong answers, the surest first: the class, and what it was taken for",
    "detections": "What was found, and beside it what is annotated",
    "attention": "What the token in the middle of an image attends to",
    "masks": "An image, the classes that were found, and those annotated",
}
_DRAWN_ANEW = ("front.png",)  # shown as a chart that follows the page's colours
_PLOTS = ("confusion.png",)
_MOST_CLASSES = 30
_MOST_TILES = 7
_PLAIN = ("loss", "rankme")
"""Metrics that are no fractions, and still among the first lines."""


def header(record: RunRecord) -> str:
    """What ran, whether it ended well, its main metrics and its command."""
    began = record.events[0]["time"] if record.events else None
    over = [record.title or "Run"]
    if began is not None:
        over.append(time.strftime("%-d %B %Y, %H:%M", time.localtime(began)))
    status = f'<span class="status {esc(record.status)}">{esc(record.status)}</span>'
    command = f"<pre>{esc(record.command)}</pre>" if record.command else ""
    return (
        f'<p class="over">{esc(" · ".join(over))}</p><div class="head">'
        f"<h1>{esc(record.name)}</h1>{status if record.status else ''}</div>"
        f"{tiles(summary_metrics(record))}{_certainty(record)}{command}"
    )


def _certainty(record: RunRecord) -> str:
    """How sure the main metrics are: what they were counted on, and how far timings differ."""
    results = record.results
    # Embeddings are of more images than those that were asked about.
    images = int(results.get("asked", results.get("images", 0)))
    intervals = {
        label(name): show_interval(name, results[name], images)
        for name in results
        if find(name).counted
    }
    words = []
    if any(intervals.values()):
        listed = ", ".join(f"{name} {interval}" for name, interval in intervals.items())
        words.append(f"Intervals of 95 % over {number_of(images, 'image')}: {listed}.")
    spread = show_spread(next(iter(results.get("migration", [])), {}))
    speeds = _training_speeds(record)
    if spread:
        words.append(f"images/s: median of timings from {spread}.")
    elif len(speeds) > 1:
        low, high = (show_metric("images_per_s", end) for end in (min(speeds), max(speeds)))
        words.append(f"images/s: median of records from {low} to {high}, n = {len(speeds)}.")
    return f'<p class="soft">{esc(" ".join(words))}</p>' if words else ""


def _training_speeds(record: RunRecord) -> list[float]:
    return [speed for _, speed in record.series("train", "images_per_s")]


def summary_metrics(record: RunRecord) -> dict[str, str]:
    """The few metrics that matter most for what ran."""
    results = record.results
    shown = {label(n): show_metric(n, results[n]) for n in _main_metrics(results)}
    if record.trains:
        shown = {("val loss" if name == "loss" else name): v for name, v in shown.items()}
    shown |= _sweep_metrics(results)
    if rows := results.get("migration"):
        shown["images"] = show_value("images", results.get("images"))
        shown["images/s"] = show_value("images_per_s", rows[0].get("images_per_s"))
    if "stages" in results:
        shown |= {label(n): show_value(n, v) for n, v in results.items() if _scalar(n, v)}
    if record.manifest:
        shown |= _data_metrics(record.manifest)
    train = [r for r in record.metrics if r["split"] == "train"]
    if train:
        shown["epochs"] = f"{train[-1]['epoch']:g}"
        if speeds := _training_speeds(record):
            shown["images/s"] = show_metric("images_per_s", median(speeds))
    spent = _timeline(record).seconds
    if spent:
        shown["time"] = show_duration(spent)
    # More would not fit into one row.
    return dict(list(shown.items())[:_MOST_TILES])


def comparison(record: RunRecord) -> str:
    """Metrics of several methods side by side: ``comparison`` in results.json."""
    rows = record.results.get("comparison", [])
    if not rows:
        return ""
    name = headline(rows[0])
    bars = [(str(row["name"]), float(row[name])) for row in rows]
    return section("Side by side", bar_chart(label(name), bars, metric=name))


def stages(record: RunRecord, summaries: Sequence[str]) -> str:
    """The stages of a run that is made of runs, one after the other."""
    return "".join(summaries) if "stages" in record.results else ""


def speed(record: RunRecord) -> str:
    """Accuracy against images a second, as charts."""
    charts = "".join(speed_charts(record))
    return section(
        "Accuracy against speed", f'<div class="charts">{charts}</div>' if charts else ""
    )


def speed_charts(record: RunRecord) -> list[str]:
    """A chart of a sweep's trials, and one of the migration ratios of an evaluation."""
    judged = _judged_by(record.results)
    trials = [
        Mark(x=t["images_per_s"], y=t[judged], name=t["trial"], front=front, named=front)
        for t in record.results.get("trials", [])
        if "images_per_s" in t and judged in t
        for front in [bool(t.get("front"))]
    ]
    rows = record.results.get("migration", [])
    metric = _headline_of(rows)
    ratios = [
        Mark(
            x=r["images_per_s"], y=r[metric], name=f"r = {r['migration']:g}", front=True, named=True
        )
        for r in rows
        if metric in r
    ]
    charts = (("trials", trials, judged, True), ("migration ratios", ratios, metric, False))
    return [
        scatter_chart(title, marks, steps=steps, x="images_per_s", y=y)
        for title, marks, y, steps in charts
        # A single dot shows no trade-off.
        if len(marks) > 1
    ]


def sweep(record: RunRecord) -> str:
    """The table of a sweep's trials, best first."""
    trials = record.results.get("trials", [])
    if not trials:
        return ""
    shown = [with_certainty(trial, record.results.get("images", 0)) for trial in trials]
    failed = sum("error" in trial for trial in trials)
    note = "Marked rows are on the front: no trial is both faster and more accurate."
    if failed:
        note += f" Trials that failed: {failed}."
    rows = table(shown, marked="front", bars=(_judged_by(record.results),))
    return section("Trials", f'<p class="soft">{note}</p>{rows}')


def migration(record: RunRecord) -> str:
    """The table of accuracy and speed at each migration ratio."""
    rows: list[dict[str, Any]] = record.results.get("migration", [])
    if not rows:
        return ""
    base = rows[0]["images_per_s"]
    images = record.results.get("images", 0)
    columns = [name for name in rows[0] if not is_detail(name)]
    shown = [
        with_certainty({n: row[n] for n in columns if n in row}, images)
        | {"speed-up": f"{row['images_per_s'] / base:.2f}x" if base else ""}
        for row in rows
    ]
    return section("Token migration", table(shown, bars=(_headline_of(rows),)))


def curves(record: RunRecord) -> str:
    """All curves; pace and optimiser folded away."""
    first = [*learning_charts(record), *accuracy_charts(record)]
    pace = pace_charts(record)
    return section(
        "Curves",
        f'<div class="charts">{"".join(first)}</div>' if any(first) else "",
        details("Pace and optimiser", f'<div class="charts">{"".join(pace)}</div>') if pace else "",
    )


def images(record: RunRecord) -> str:
    """Images that the run drew."""
    return section("Images", gallery(record))


def gallery(record: RunRecord) -> str:
    """The images alone."""
    shown = [path for path in record.plots if path.name not in _DRAWN_ANEW]
    images = "".join(image(path, _caption(path), plot=path.name in _PLOTS) for path in shown)
    return f'<div class="images">{images}</div>' if images else ""


def per_class(record: RunRecord) -> str:
    """The per-class table, the worst first; of detection, classes without objects last."""
    rows = record.results.get("per_class", [])
    if not rows:
        return ""
    columns = [name for name in rows[0] if name not in ("name", "count")]
    main = columns[0]  # what a class is judged by stands first
    # Classes without a value last.
    rows = sorted(rows, key=lambda row: (row[main] is None, row[main]))
    headings = {name: label(name) for name in rows[0]}
    headings |= {"name": "class", "count": record.results.get("counted", "images")}
    bars = [name for name in columns if find(name).unit == "%" and not find(name).detail]

    def part(chosen: Sequence[Mapping[str, object]]) -> str:
        return table(chosen, headings=headings, bars=bars)

    rest = rows[_MOST_CLASSES:]
    return section(
        "Classes, worst first",
        part(rows[:_MOST_CLASSES]),
        details(number_of(len(rest), "more class", "more classes"), part(rest)) if rest else "",
    )


def mistakes(record: RunRecord) -> str:
    """The images that an evaluation was surest of and wrong about, by their paths."""
    rows = record.results.get("mistakes", [])
    if not rows:
        return ""
    headings = {"path": "image", "class": "class", "answer": "taken for", "score": "certainty"}
    return section(
        "Wrong answers, surest first",
        table(rows[:_MOST_CLASSES], headings=headings),
        details(f"{len(rows) - _MOST_CLASSES} more", table(rows[_MOST_CLASSES:], headings=headings))
        if len(rows) > _MOST_CLASSES
        else "",
    )


def prepared(record: RunRecord) -> str:
    """What preparation counted, and what it could not use."""
    if not record.manifest:
        return ""
    splits: dict[str, Any] = record.manifest.get("splits", {})
    rows = [
        {"split": name, "images": split["count"], "shards": len(split.get("shards", []))}
        for name, split in splits.items()
    ]
    bad = [{"file": path, "reason": reason} for path, reason in record.quarantine]
    return section(
        "Images prepared",
        table(rows),
        details(f"{number_of(len(bad), 'file')} in quarantine", table(bad)) if bad else "",
    )


def restarts(record: RunRecord) -> str:
    """What stops have cost, checkpoints and skipped steps."""
    events = record.events
    found = _timeline(record)
    saves = [event for event in events if event["event"] == "checkpoint"]
    # Every worker tells of a step that all skip.
    skipped = sum(event["event"] == "skip" and not event.get("rank") for event in events)
    trouble = [e for e in events if e["event"] in ("skip", "preempted", "diverged", "resume")]
    if not trouble and not saves:
        return ""
    words = []
    if found.restarts:
        share = found.lost / found.seconds if found.seconds else 0.0
        times = "once" if len(found.restarts) == 1 else f"{len(found.restarts)} times"
        words.append(
            f"Went on from a checkpoint {times}; {show_duration(found.lost)} were lost to that "
            f"({100 * share:.1f} % of {show_duration(found.seconds)})."
        )
    else:
        words.append("Ran through without a restart.")
    if saves:
        spent = sum(float(event.get("seconds", 0.0)) for event in saves)
        words.append(f"Checkpoints: {len(saves)}, which held training for {show_duration(spent)}.")
    if skipped:
        words.append(f"Steps skipped because they were not finite: {skipped}.")
    rows = [
        {
            "went on": time.strftime("%H:%M:%S", time.localtime(restart.time)),
            "from step": restart.step,
            "workers": restart.workers,
            "lost": show_duration(restart.lost),
        }
        for restart in found.restarts
    ]
    return section("Restarts", f"<p>{esc(' '.join(words))}</p>", table(rows) if rows else "")


def settings(record: RunRecord, software: Mapping[str, str], machine: Mapping[str, str]) -> str:
    """Resolved configuration, versions and hardware."""
    flat = {n: redact_value(n, v) for n, v in flatten(record.config).items()}
    columns = f'<div class="columns">{pairs(software)}{pairs(machine)}</div>'
    config = f'<div class="columns">{"".join(_config_groups(flat))}</div>' if flat else ""
    return section(
        "How it ran",
        columns,
        details("Resolved configuration", config) if config else "",
    )


def _config_groups(flat: Mapping[str, str]) -> list[str]:
    """One table for the plain fields, and one for each group of dotted ones."""
    groups: dict[str, dict[str, str]] = {"run": {}}
    for name, value in flat.items():
        group, _, rest = name.partition(".")
        groups.setdefault(group if rest else "run", {})[rest or name] = value
    return [
        f"<div><h3>{esc(group)}</h3>{pairs(values)}</div>"
        for group, values in groups.items()
        if values
    ]


def _sweep_metrics(results: Mapping[str, Any]) -> dict[str, str]:
    trials, judged = results.get("trials", []), _judged_by(results)
    done = [trial for trial in trials if judged in trial]
    if not done:
        return {}
    choose = max if find(judged).higher_is_better else min
    best = choose(done, key=lambda trial: trial[judged])
    return {
        "trials": str(len(trials)),
        f"best {label(judged)}": show_metric(judged, best[judged]),
        "best trial": str(best["trial"]),
        "on the front": str(sum(bool(trial.get("front")) for trial in done)),
    }


def _judged_by(results: Mapping[str, Any]) -> str:
    """The metric that a sweep improves: the first headline metric of its trials."""
    rows = results.get("trials", [])
    return next((name for name in map(headline, rows) if name), "")


def _main_metrics(results: Mapping[str, Any]) -> list[str]:
    """The metrics of an evaluation for its first lines: what it is judged by, first."""
    names = [n for n, v in results.items() if isinstance(v, float) and not find(n).detail]
    shown = [n for n in names if find(n).unit == "%" or find(n).headline or n in _PLAIN]
    return sorted(shown, key=lambda name: not find(name).headline)


def _data_metrics(manifest: Mapping[str, Any]) -> dict[str, str]:
    splits = manifest.get("splits", {}).values()
    shown = {"images": f"{sum(split['count'] for split in splits):,}"}
    if "classes" in manifest:
        shown["classes"] = f"{len(manifest['classes']):,}"
    return shown


def _headline_of(rows: Sequence[Mapping[str, Any]]) -> str:
    """What networks of these rows are judged by."""
    return headline(rows[0]) if rows else ""


def _timeline(record: RunRecord) -> Timeline:
    last = max((float(r["time"]) for r in record.metrics if "time" in r), default=0.0)
    return timeline(record.events, last)


def _caption(path: Path) -> str:
    return _CAPTIONS.get(path.stem, path.stem.replace("_", " ").replace("-", " "))


def _scalar(name: str, value: object) -> bool:
    known = find(name)
    is_metric = known.unit == "%" or known.headline or name in ("loss", "seconds")
    return not is_metric and isinstance(value, int | float | str)
