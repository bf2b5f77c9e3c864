"""The curves of metrics.jsonl: loss terms apart, accuracy, pace and optimiser."""

from __future__ import annotations

from itpn_ray.formatting import is_fraction, label
from itpn_ray.metrics import find
from itpn_ray.report.chart import Series, line_chart
from itpn_ray.runs.reader import RunRecord

_PACE = ("images_per_s", "mfu", "gpu_memory_gb")
_OPTIMISER = ("lr", "grad_norm")
_NOISY = ("images_per_s", "grad_norm")
_LEFT_OUT = ("steps_per_s",)


def learning_charts(record: RunRecord) -> list[str]:
    """The loss and each of its terms, training and held-out images together."""
    train, val = record.names("train"), record.names("val")
    known = (*_PACE, *_OPTIMISER, *_LEFT_OUT)
    terms = [
        name
        # The loss and mim first, whatever the records begin with.
        for name in dict.fromkeys(["loss", "mim", *train, *val])
        if name not in known and not name.endswith("_s") and not is_fraction(name)
    ]
    charts = [
        line_chart(
            label(name),
            [
                Series(name="train", points=record.series("train", name), noisy=True),
                Series(name="val", points=record.series("val", name)),
            ],
            metric=name,
        )
        for name in terms
    ]
    return [chart for chart in charts if chart]


def accuracy_charts(record: RunRecord) -> list[str]:
    """Fractions of right answers on held-out images, a chart for each kind of evaluation."""
    charts = []
    for split in dict.fromkeys(r["split"] for r in record.metrics):
        groups: dict[str, list[str]] = {}
        for name in record.names(split):
            # mfu is a fraction as well, but belongs to the pace.
            if is_fraction(name) and name not in _PACE:
                groups.setdefault(_chart_of(name, split), []).append(name)
        for title, names in groups.items():
            lines = [Series(name=label(name), points=record.series(split, name)) for name in names]
            charts.append(line_chart(title, lines, metric=names[0]) if title else "")
    return [chart for chart in charts if chart]


def _chart_of(name: str, split: str) -> str:
    """The title of the chart that a fraction belongs into; empty: into none."""
    metric = find(name)
    if metric.chart or metric.detail:
        return metric.chart
    titles = {"val": "accuracy on held-out images", "probe": "probe of the features"}
    return titles.get(split, split)


def pace_charts(record: RunRecord) -> list[str]:
    """Images a second, seconds of a step by phase, learning rate, gradient norm."""

    def one(name: str) -> str:
        line = Series(name="", points=record.series("train", name), noisy=name in _NOISY)
        return line_chart(label(name), [line], metric=name)

    phases = [
        Series(name=name.removesuffix("_s"), points=record.series("train", name), noisy=True)
        for name in record.names("train")
        # images_per_s ends like a time, and is none.
        if name.endswith("_s") and not name.endswith("_per_s")
    ]
    charts = [
        *map(one, _PACE),
        line_chart("seconds of a step", phases, metric="seconds"),
        *map(one, _OPTIMISER),
    ]
    return [chart for chart in charts if chart]
