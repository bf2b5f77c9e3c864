"""Searches on a drawn response with a known front: regret, cost and orders of importance.

Nothing is trained: accuracy is a function of lr, layer decay, λ and r, plus noise of the size that
seeds have, and comes up over the epochs as learning curves do. Compared are the sweep's search and
scheduler with Ray's ASHA over random points, and with Optuna's own samplers, without stops.

Command: python benchmarks/sweep.py --repeats 20
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import optuna

from itpn_ray.tuning.importance import importances, usable
from itpn_ray.tuning.scheduler import DominanceHalving, rungs
from itpn_ray.tuning.space import Dimension, quasi_random, random_points
from itpn_ray.tuning.study import DESIGN, SweepStudy, distribution

RESULTS = Path(__file__).parent / "results" / "sweep.json"
EPOCHS = 27
NOISE = 0.006
"""Standard deviation of accuracies of one point with other seeds."""
SPEED = {0.0: 100.0, 0.1: 106.0, 0.2: 113.0, 0.3: 121.0, 0.4: 130.0}
ORDER = ["lr", "migration", "layer_decay", "feature_weight"]
"""Settings of the response from the most important one on."""


def dimension(name: str, kind: str, *values: float) -> Dimension:
    return Dimension(name=name, stage="finetune", path=name, kind=kind, values=values)


SPACE = (
    dimension("lr", "log", 1e-4, 1e-2),
    dimension("layer_decay", "uniform", 0.6, 1.0),
    dimension("feature_weight", "choice", 0.0, 0.3, 1.0),
    dimension("migration", "choice", *SPEED),
)
Point = Mapping[str, Any]


def accuracy(point: Point) -> float:
    """The true accuracy after all epochs; at its best 0.8, less 0.05 r / 0.4."""
    return (
        0.8
        - 0.1 * (math.log10(point["lr"]) + 3) ** 2
        - 0.8 * (point["layer_decay"] - 0.82) ** 2
        - 0.01 * abs(point["feature_weight"] - 0.3)
        - 0.05 * point["migration"] / 0.4
    )


def seen(point: Point, epoch: float, rng: np.random.Generator) -> float:
    """What an evaluation after an epoch finds; high rates come up late."""
    slow = 3 + 2 * (math.log10(point["lr"]) + 3)
    return accuracy(point) * (1 - math.exp(-epoch / slow)) + NOISE * float(rng.normal())


class Search:
    """Trains points one after the other, with or without stops."""

    def __init__(self, rng: np.random.Generator, *, halving: str) -> None:
        self.rng = rng
        self.by_speed = halving == "dominance"
        stops = () if halving == "none" else rungs(1, EPOCHS, 3)
        noise = NOISE if self.by_speed else 0.0
        self.halving = DominanceHalving(rungs=stops, reduction=3, noise=noise)
        self.epochs = 0.0
        self.done: list[tuple[Point, float]] = []

    def train(self, name: str, point: Point) -> float | None:
        """What the last epoch finds; None where the trial was stopped."""
        reached = 0.0
        for epoch in (*self.halving.rungs, EPOCHS):
            self.epochs += epoch - reached
            reached = epoch
            found = seen(point, epoch, self.rng)
            speed = SPEED[point["migration"]] if self.by_speed else 1.0
            if self.halving.stopped_by(name, epoch, [(speed, found)]):
                return None
        self.done.append((point, found))
        return found


def regret(search: Search) -> float:
    """Mean over the speeds of what the chosen trial is short of the best there is at that speed.

    Where no trial that does the speed came to its end, that is the whole accuracy.
    """
    short = []
    for ratio, speed in SPEED.items():
        able = [one for one in search.done if SPEED[one[0]["migration"]] >= speed]
        ideal = 0.8 - 0.05 * ratio / 0.4
        chosen = max(able, key=lambda one: one[1], default=None)
        short.append(ideal - (accuracy(chosen[0]) if chosen else 0.0))
    return fmean(short)


def ours(seed: int, trials: int) -> Search:
    """The sweep's study and scheduler."""
    found = Search(np.random.default_rng(seed), halving="dominance")
    with tempfile.TemporaryDirectory() as folder:
        study = SweepStudy(
            Path(folder),
            SPACE,
            higher_is_better=True,
            search="tpe",
            trials=trials,
            planned=max(10, trials // 2),
            seed=seed,
            judge=lambda point: {},
        )
        while taken := study.take():
            name, point = taken
            value = found.train(name, point)
            if value is None:
                study.prune(name)
            else:
                study.complete(name, (value, SPEED[point["migration"]]))
    return found


def asha(seed: int, trials: int) -> Search:
    """Random points, stopped by accuracy alone, as Ray's ASHA does."""
    found = Search(np.random.default_rng(seed), halving="asha")
    for number, point in enumerate(random_points(SPACE, trials, seed)):
        found.train(str(number), point)
    return found


def sampled(
    make: Callable[[int], optuna.samplers.BaseSampler],
) -> Callable[[int, int], Search]:
    """One of Optuna's samplers, two objectives, no stops."""

    def run(seed: int, trials: int) -> Search:
        found = Search(np.random.default_rng(seed), halving="none")
        study = optuna.create_study(directions=["maximize"] * 2, sampler=make(seed))
        for number in range(trials):
            trial = study.ask({one.name: distribution(one) for one in SPACE})
            value = found.train(str(number), trial.params)
            study.tell(trial, (value, SPEED[trial.params["migration"]]))
        return found

    return run


SEARCHES: dict[str, Callable[[int, int], Search]] = {
    "sweep": ours,
    "ASHA, random": asha,
    "Optuna TPE": sampled(lambda seed: optuna.samplers.TPESampler(seed=seed)),
    "Optuna NSGA-II": sampled(lambda seed: optuna.samplers.NSGAIISampler(seed=seed)),
    "Optuna random": sampled(lambda seed: optuna.samplers.RandomSampler(seed=seed)),
}


OTHERS = [name for name in SEARCHES if name != "sweep"]


def measured(name: str, trials: int, repeats: int) -> dict[str, Any]:
    """Regret in points, its standard deviation over the repeats, and epochs of training."""
    found = [SEARCHES[name](seed, trials) for seed in range(repeats)]
    short = [100 * regret(one) for one in found]
    return {
        "search": name,
        "trials": trials,
        "epochs": fmean(one.epochs for one in found),
        "regret": fmean(short),
        "spread": stdev(short) if len(short) > 1 else 0.0,
    }


def order_is_right(seed: int, trials: int) -> bool:
    """Whether all settings are found in their order, without stops."""
    rng = np.random.default_rng(seed)
    made = [
        optuna.trial.create_trial(
            params=dict(point),
            distributions={one.name: distribution(one) for one in SPACE},
            values=[seen(point, EPOCHS, rng), 0.0],
            user_attrs={DESIGN: number},
        )
        for number, point in enumerate(quasi_random(SPACE, trials, seed))
    ]
    return [row["setting"] for row in importances(usable(made, DESIGN), seed, resamples=1)] == ORDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--trials", type=int, default=30)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    own = measured("sweep", options.trials, options.repeats)
    rows = [own, *(measured(name, options.trials, options.repeats) for name in OTHERS)]
    # Once more with as many epochs as the sweep took.
    fewer = round(options.trials * own["epochs"] / (EPOCHS * options.trials))
    rows += [measured(name, fewer, options.repeats) for name in OTHERS if name.startswith("Optuna")]
    for row in rows:
        what = f"{row['search']:15} {row['trials']:3} trials {row['epochs']:5.0f} epochs"
        print(f"{what}: {row['regret']:.2f} ± {row['spread']:.2f} points")
    orders = {
        count: fmean(order_is_right(seed, count) for seed in range(options.repeats))
        for count in (10, 20, 40)
    }
    print("right orders of importance by trials:", orders)
    rows_by = {"searches": rows, "right_orders": orders}
    RESULTS.write_text(json.dumps({**vars(options), **rows_by}, indent=1))


if __name__ == "__main__":
    main()
