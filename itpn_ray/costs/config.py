"""Settings of what a run may cost."""

from __future__ import annotations

from dataclasses import dataclass

from itpn_ray import checks

SHIPPED_PRICES = "clusters/prices.yaml"
"""The price list of this project's checkout."""


@dataclass(frozen=True, kw_only=True)
class CostConfig:
    """How the machines of a run are priced, and when they have cost enough.

    Raises:
        ConfigError: the cap is negative.
    """

    prices: str = SHIPPED_PRICES
    """Price list: a file or URI. A list that is not there is no error unless something needs it: no
    cost is counted then."""
    machine: str = ""
    """Machine of the price list that nodes without the label `instance-type` are, such as
    p5.48xlarge. Empty: such nodes have no price."""
    max_cost: float = 0.0
    """What the machines of the run may cost in all, in the price list's currency: before it is
    passed the run saves a checkpoint and ends. 0: no limit."""

    def __post_init__(self) -> None:
        checks.not_negative("max_cost", self.max_cost)

    @property
    def needs_prices(self) -> bool:
        """Whether a price list that is missing is an error."""
        return bool(self.max_cost or self.machine) or self.prices != SHIPPED_PRICES
