"""What a planned run would cost: all spot at the fastest step to all on demand at the slowest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from itpn_ray.costs.ledger import show_money
from itpn_ray.costs.prices import PriceList
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.formatting import show_duration
from itpn_ray.runs.folder import CONFIG, PLAN
from itpn_ray.storage import join, open_store


@dataclass(frozen=True, kw_only=True)
class PlannedCost:
    """What a run would cost.

    Attributes:
        machines: how many, and their type and content in words.
        hours: shortest and longest.
        currency: of the price list.
        spot: the sum of the shortest, all on spot machines; None: the list has no price.
        on_demand: the sum of the longest, all on demand.
    """

    machines: str
    hours: tuple[float, float]
    currency: str
    spot: float | None
    on_demand: float | None

    @property
    def low(self) -> float | None:
        """The least; None: the list has no price."""
        return min((sum_ for sum_ in (self.spot, self.on_demand) if sum_ is not None), default=None)

    def __str__(self) -> str:
        sums = [
            f"{show_money(self.currency, amount)} {market}"
            for amount, market in ((self.spot, "all spot"), (self.on_demand, "all on demand"))
            if amount is not None
        ]
        low, high = (show_duration(3600 * hours) for hours in self.hours)
        span = low if low == high else f"{low} to {high}"
        paid = f": {' to '.join(sums)}" if sums else "; the list has no price for it"
        return f"{self.machines} for {span}{paid}"


def planned_cost(
    config: ExperimentConfig,
    prices: PriceList,
    *,
    workers: int,
    steps: int,
    step_s: tuple[float, float],
    checkpoint_s: float,
) -> PlannedCost:
    """What the run would cost on machines of the type that it names, with most workers.

    Args:
        config: the run.
        prices: of its machines.
        workers: most workers.
        steps: of the run.
        step_s: seconds of the fastest step and of the slowest.
        checkpoint_s: seconds that a checkpoint holds it up.

    Raises:
        ConfigError: the list has no such machine.
    """
    machine = prices.find(config.cost.machine)
    count = machine.count(workers, config.cpus_per_worker)
    # + 1, for the last step is saved in any case.
    saving = checkpoint_s * (steps // config.checkpoint.every_steps + 1)
    shortest, longest = ((steps * step + saving) / 3600 for step in step_s)
    return PlannedCost(
        machines=f"{count} {machine.name} ({machine.inside})",
        hours=(shortest, longest),
        currency=prices.currency,
        spot=None if machine.spot is None else count * shortest * machine.spot,
        on_demand=None if machine.on_demand is None else count * longest * machine.on_demand,
    )


def keep(config: ExperimentConfig, cost: PlannedCost) -> None:
    """Leave the plan where the run will be, for its report to compare; not where one is already.

    Raises:
        OSError: it cannot be written.
    """
    if cost.low is None:
        return
    store = open_store(join(config.out, config.run))
    # A run that has begun keeps the plan that it began with.
    if store.exists(CONFIG):
        return
    high = cost.on_demand if cost.on_demand is not None else cost.low
    plain = {**asdict(cost), "low": cost.low, "high": high}
    store.write_bytes(PLAN, json.dumps(plain, indent=1).encode())
