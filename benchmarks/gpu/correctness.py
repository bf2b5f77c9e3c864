"""Whether the card computes what it should: networks, input, whole runs."""

from __future__ import annotations

from functools import partial

from benchmarks.gpu import correctness_networks, correctness_runs
from benchmarks.gpu.bench import Bench

TITLE = "Correctness on the device"
COLUMNS = {
    "check": "check",
    "of": "of",
    "loss": "relative error of the loss",
    "gradients": "of the gradients",
    "bits": "values that differ",
    "holds": "holds",
}


class Wrong(Exception):
    """A check that does not hold."""


def run(bench: Bench) -> None:
    """Runs first: they show the most with the least compilation."""
    for module in (correctness_runs, correctness_networks):
        for check, of, call in module.checks(bench):
            bench.attempt({"check": check, "of": of}, partial(judge, call))


def judge(check: correctness_runs.Check) -> dict[str, object]:
    """What a check found.

    Raises:
        Wrong: more than is allowed.
    """
    found = check()
    for name, (error, allowed) in found.items():
        if not error <= allowed:  # NaN is never allowed
            raise Wrong(f"{name} off by {error:.3g}, allowed is {allowed:.3g}")
    return {name: error for name, (error, _) in found.items()} | {"holds": True}
