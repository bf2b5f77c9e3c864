"""Which settings mattered: fANOVA on the planned trials, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

FEWEST = 20
"""Trials below which a forest of a few settings says more of its seed than of them."""
RESAMPLES = 30
TREES = 32


def importances(
    trials: Sequence[FrozenTrial], seed: int, *, resamples: int = RESAMPLES
) -> list[dict[str, Any]]:
    """The share of the headline metric's variance that each setting explains (Hutter et al., 2014).

    Args:
        trials: of a study, the planned ones among them: others crowd where results were good.
        seed: of forests and resamples.
        resamples: how many, each as large as the trials, with repetitions.

    Returns:
        ``setting``, ``importance``, and ``low`` and ``high`` of the middle 90 % of resamples, the
        most important first.
    """
    rng = np.random.default_rng(seed)
    found = _fanova(trials, seed)
    drawn = [
        # With a forest's seed of its own, so that the interval holds that chance too.
        _fanova([trials[i] for i in rng.integers(len(trials), size=len(trials))], seed + number)
        for number in range(1, resamples + 1)
    ]
    rows = []
    for name, value in sorted(found.items(), key=lambda item: -item[1]):
        low, high = np.quantile([one.get(name, 0.0) for one in drawn], [0.05, 0.95])
        rows.append(
            {"setting": name, "importance": float(value), "low": float(low), "high": float(high)}
        )
    return rows


def usable(trials: Sequence[FrozenTrial], design: str) -> list[FrozenTrial]:
    """The planned trials that have come to their end."""
    return [one for one in trials if design in one.user_attrs and one.state == TrialState.COMPLETE]


def refusal(count: int) -> str:
    """Why so many trials tell no importance; empty where they do."""
    if count >= FEWEST:
        return ""
    return (
        f"importance is not told: of the quasi-random trials {count} came to their end, and "
        f"{FEWEST} are needed (--trials, --quasi, or --search quasi)"
    )


def _fanova(trials: Sequence[FrozenTrial], seed: int) -> dict[str, float]:
    # A study of one value, for the sweep's own has two objectives.
    study = optuna.create_study()
    study.add_trials(
        [
            create_trial(params=one.params, distributions=one.distributions, value=one.values[0])
            for one in trials
        ]
    )
    # Of one value alone there is no variance to explain.
    if len({one.value for one in study.trials}) < 2:
        return dict.fromkeys(trials[0].params, 0.0)
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    return get_param_importances(study, evaluator=evaluator)
