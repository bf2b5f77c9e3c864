"""What a sweep says: which trial to use, how sure that is, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from scipy.special import stdtrit

from itpn_ray.evaluation.pareto import pareto_front
from itpn_ray.formatting import label, show_metric, wilson
from itpn_ray.metrics import Metric

SURE = 0.95


@dataclass(frozen=True, kw_only=True)
class Score:
    """A headline metric and its interval of 95 %.

    Attributes:
        value: mean over the seeds.
        half: half of the interval's width; nan where nothing tells it.
        seeds: runs that it is a mean of.
    """

    value: float
    half: float
    seeds: int

    @staticmethod
    def of(values: Sequence[float], metric: Metric, images: int) -> Score:
        """Of runs that differ by their seed alone; of one run, by the images it was counted on."""
        if len(values) > 1:
            # Student's t: a deviation of few seeds is itself uncertain.
            quantile = float(stdtrit(len(values) - 1, 0.5 + SURE / 2))
            half = quantile * stdev(values) / math.sqrt(len(values))
            return Score(value=fmean(values), half=half, seeds=len(values))
        # Without repeats, Wilson's interval of a share of so many images.
        low, high = wilson(values[0], images) if metric.counted else (math.nan, math.nan)
        return Score(value=values[0], half=(high - low) / 2, seeds=1)

    def text(self, metric: Metric) -> str:
        """The value with what tells how sure it is: ``71.3 ± 0.6 % (3 seeds)``."""
        shown = show_metric(metric.name, self.value)
        if math.isnan(self.half):
            return shown
        percent = metric.unit == "%"
        number, unit = (shown.removesuffix(" %"), " %") if percent else (shown, "")
        spread = f"{100 * self.half:.1f}" if percent else f"{self.half:.2g}"
        told = f" ({self.seeds} seeds)" if self.seeds > 1 else ""
        return f"{number} ± {spread}{unit}{told}"


def fitting(
    rows: Sequence[Mapping[str, Any]], *, at_least: float, at_most_ms: float
) -> list[Mapping[str, Any]]:
    """The rows that are as fast as is asked for."""
    return [
        row
        for row in rows
        if row["images_per_s"] >= at_least and (not at_most_ms or row["ms"] <= at_most_ms)
    ]


def best_rows(
    rows: Sequence[Mapping[str, Any]], metric: Metric, count: int
) -> list[Mapping[str, Any]]:
    """The best rows by the headline metric; of equal ones the faster."""
    sign = 1 if metric.higher_is_better else -1
    return sorted(rows, key=lambda row: (-sign * row[metric.name], -row["images_per_s"]))[:count]


def recommended(
    rows: Sequence[Mapping[str, Any]], scores: Mapping[str, Score], metric: Metric
) -> Mapping[str, Any]:
    """The fastest row of the front that is no worse than the best one by more than its interval.

    Of one seed the interval holds what other images would change; of several, other seeds.

    Args:
        rows: what is fast enough; at least one.
        scores: by `row_key`.
        metric: the headline metric.
    """
    # Signed, so that more is better whatever the metric.
    sign = 1 if metric.higher_is_better else -1
    value = {row_key(row): sign * scores[row_key(row)].value for row in rows}
    best = max(rows, key=lambda row: (value[row_key(row)], row["images_per_s"]))
    half = scores[row_key(best)].half
    # Without an interval nothing but the best value is good enough.
    enough = value[row_key(best)] - (0.0 if math.isnan(half) else half)
    # Only what is as sure as the best one: a single run is no match for a mean of several.
    sure = [row for row in rows if scores[row_key(row)].seeds >= scores[row_key(best)].seeds]
    front = pareto_front([(row["images_per_s"], value[row_key(row)]) for row in sure])
    return next(sure[index] for index in front if value[row_key(sure[index])] >= enough)


def row_key(row: Mapping[str, Any]) -> str:
    """What tells rows apart: the trial, and of an elastic one r."""
    return f"{row['trial']} {row.get('migration', '')}"


def sentence(
    choice: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Score],
    metric: Metric,
    settings: Sequence[str],
    *,
    at_least: float,
    at_most_ms: float,
) -> str:
    """What to use, in one sentence.

    Args:
        choice: the row to use, see `recommended`.
        rows: of all trials that have an evaluation.
        scores: by `row_key`.
        metric: the headline metric.
        settings: names of the settings that vary.
        at_least: images/s that are asked for; 0: any.
        at_most_ms: milliseconds an image that are asked for; 0: any.
    """
    # Of all rows, too slow or stopped ones among them: the gap says what the speed costs.
    best = best_rows(rows, metric, 1)[0]
    asked = [f"at >= {at_least:g} images/s"] if at_least else []
    asked += [f"at <= {at_most_ms:g} ms an image"] if at_most_ms else []
    where = ", ".join(f"{label(name)} = {_shown(choice[name])}" for name in settings)
    told = scores[row_key(choice)].text(metric)
    speed = f"{choice['images_per_s']:.0f} images/s"
    gap = abs(scores[row_key(best)].value - scores[row_key(choice)].value)
    shown = f"{100 * gap:.1f} points" if metric.unit == "%" else f"{gap:.3g}"
    beaten = (
        "the best at any speed"
        if row_key(best) == row_key(choice)
        else f"{shown} from the best at any speed, {best['trial']} "
        f"({best['images_per_s']:.0f} images/s)"
    )
    begin = f"{' and '.join(asked)}: " if asked else ""
    return (
        f"{begin}{choice['trial']} with {where}: {label(metric.name)} {told} at {speed}; {beaten}"
    )


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
