"""The price list that a user keeps, and what machines come to by it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itpn_ray import checks
from itpn_ray.costs.config import CostConfig
from itpn_ray.errors import ConfigError, told_by
from itpn_ray.storage import local_copy

SPOT = "spot"
ON_DEMAND = "on-demand"
MARKETS = (SPOT, ON_DEMAND)


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine; prices an hour, None where the list has none.

    Attributes:
        name: as the cloud calls it.
        gpus: GPUs in it.
        gpu: their kind; empty where there is none.
        cpus: CPUs in it.
        on_demand: price an hour.
        spot: price an hour of a machine that may be taken away.
    """

    name: str
    gpus: int = 0
    gpu: str = ""
    cpus: int = 0
    on_demand: float | None = None
    spot: float | None = None

    def __post_init__(self) -> None:
        if not (self.gpus or self.cpus):
            raise ValueError(f"{self.name} has neither gpus nor cpus")
        for price in (self.on_demand, self.spot):
            if price is not None and not 0 <= price < math.inf:
                raise ValueError(f"{self.name} has the price {price!r}")

    def price(self, market: str) -> float | None:
        """The price an hour in a market, which is on demand unless it is called spot."""
        return self.spot if market == SPOT else self.on_demand

    def count(self, workers: int, cpus_per_worker: float) -> int:
        """Machines that so many workers fill: one a GPU, or by their CPUs."""
        if self.gpus:
            return math.ceil(workers / self.gpus)
        # In ten-thousandths, as Ray counts: 12 CPUs have room for 30 times 0.4.
        fitting = round(self.cpus * 10_000) // max(1, round(cpus_per_worker * 10_000))
        # A worker that wants more CPUs than a machine has fills one.
        return math.ceil(workers / max(1, fitting))

    @property
    def inside(self) -> str:
        """What is in it, in words."""
        return f"{self.gpus} {self.gpu}" if self.gpus else f"{self.cpus} CPUs"


@dataclass(frozen=True, kw_only=True)
class PriceList:
    """What machines cost an hour.

    Attributes:
        place: where it was read.
        currency: of all prices.
        machines: by name.
    """

    place: str
    currency: str
    machines: dict[str, Machine]

    def find(self, name: str) -> Machine:
        """A machine of the list.

        Raises:
            ConfigError: there is none of this name; names the nearest.
        """
        checks.one_of("machine", name, self.machines)
        return self.machines[name]

    def price(self, name: str, market: str) -> float | None:
        """The price of a machine an hour; None where the list has none."""
        machine = self.machines.get(name)
        return None if machine is None else machine.price(market)


def read_prices(place: str) -> PriceList:
    """Read a price list, such as clusters/prices.yaml, from a file or URI.

    Raises:
        ConfigError: there is no such list, or it is damaged.
    """
    import yaml

    try:
        text = Path(local_copy(place) if "://" in place else Path(place).expanduser()).read_text()
        return _parse(place, yaml.safe_load(text))
    except OSError as error:
        raise ConfigError(
            "prices",
            place,
            f"cannot be read ({error.strerror or error})",
            "Name a price list with --prices",
        ) from error
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            "prices",
            place,
            f"is no price list ({told_by(error)})",
            "Write it as clusters/prices.yaml is written",
        ) from error


def prices_of(config: CostConfig) -> PriceList | None:
    """The price list of a run; None where there is none and nothing needs one.

    Raises:
        ConfigError: it is missing and needed, or damaged, or does not have the machine.
    """
    if not config.needs_prices and not Path(config.prices).is_file():
        return None
    prices = read_prices(config.prices)
    if config.machine:
        prices.find(config.machine)
    return prices


def _parse(place: str, found: Any) -> PriceList:
    machines = {
        str(name): Machine(name=str(name), **fields) for name, fields in found["machines"].items()
    }
    return PriceList(place=place, currency=str(found["currency"]), machines=machines)
