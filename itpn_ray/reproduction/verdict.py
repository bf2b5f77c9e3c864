"""What the seeds say of a value, and of a claim of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itpn_ray.formatting import show_metric
from itpn_ray.metrics import find
from itpn_ray.reproduction.grid import Claim
from itpn_ray.tuning.answer import Score

HOLDS, OPPOSITE, OPEN, ALONE = "holds", "the opposite holds", "does not show", "one seed: open"


def score(values: Sequence[float], metric: str, images: int) -> Score:
    """Mean of the seeds with its interval of 95 %, see `Score.of`."""
    return Score.of(values, find(metric), images)


def judge(
    claim: Claim,
    metric: str,
    better: Sequence[float],
    worse: Sequence[float],
    paper: tuple[float | None, float | None],
) -> dict[str, Any]:
    """Whether one row is better than another, by the differences of runs of the same seed.

    A difference is an improvement: of a loss, how much lower it is.

    Args:
        claim: what the paper says.
        metric: what both rows measure.
        better: values by seed of the row that is said to be better.
        worse: those of the other row.
        paper: the paper's values of the two.

    Returns:
        ``claim``, ``verdict``, ``difference`` and ``half``, half of its interval of 95 % (absent
        with one seed), ``paper``, the paper's difference where it has numbers, and ``text``.
    """
    sign = 1 if find(metric).higher_is_better else -1
    # Seed by seed: what both runs of a seed share falls out of their difference.
    differences = [sign * (one - two) for one, two in zip(better, worse, strict=True)]
    said: dict[str, Any] = {"claim": f"{claim.better} > {claim.worse}", "column": claim.column}
    if paper[0] is not None and paper[1] is not None:
        said["paper"] = sign * (paper[0] - paper[1])
    mean = sum(differences) / len(differences)
    if len(differences) == 1:
        text = f"{_signed(metric, mean)}, {ALONE}"
        return {**said, "verdict": ALONE, "difference": mean, "text": text}
    # Several values tell their interval themselves: no number of images is asked for.
    found = score(differences, metric, 0)
    verdict = _verdict(found)
    text = f"{_signed(metric, found.value)} ± {_plain(metric, found.half)}, {verdict}"
    if verdict == OPEN:
        text += f": the interval excludes more than {_signed(metric, found.value + found.half)}"
    return {
        **said,
        "verdict": verdict,
        "difference": found.value,
        "half": found.half,
        "text": text,
    }


def _verdict(found: Score) -> str:
    if found.value - found.half > 0:
        return HOLDS
    return OPPOSITE if found.value + found.half < 0 else OPEN


def _plain(metric: str, value: float) -> str:
    """A difference without its unit: points of per cent, or the metric's own digits."""
    if find(metric).unit == "%":
        return f"{100 * value:.1f}"
    return show_metric(metric, value)


def _signed(metric: str, value: float) -> str:
    return f"{'-' if value < 0 else '+'}{_plain(metric, abs(value))}"
