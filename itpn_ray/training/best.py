"""Which evaluation of a run was the best so far, and for how long none was better."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from itpn_ray.metrics import Metric


@dataclass
class Best:
    """The best evaluation; a part of the run's state, so that a resumed run goes on with it.

    Attributes:
        headline: what is compared.
        value: its best value; NaN before the first evaluation.
        step: at which it was reached.
        since: evaluations after it.
    """

    headline: Metric
    value: float = math.nan
    step: int = 0
    since: int = 0

    def take(self, value: float, step: int) -> bool:
        """Take an evaluation's value, and return whether it is the best so far.

        A step that was evaluated before, as where a run resumes at its end, changes nothing.
        """
        # A resumed run may evaluate its last step again, which is then still the best.
        if step == self.step and not math.isnan(self.value):
            return True
        # NaN is neither larger nor smaller, so that a failed evaluation is never the best.
        better = value > self.value if self.headline.higher_is_better else value < self.value
        if better or (math.isnan(self.value) and not math.isnan(value)):
            self.value, self.step, self.since = value, step, 0
            return True
        self.since += 1
        return False

    def state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {name: value for name, value in asdict(self).items() if name != "headline"}

    def load(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave; checkpoints of older versions have none."""
        self.value = float(state.get("value", math.nan))
        self.step, self.since = int(state.get("step", 0)), int(state.get("since", 0))
