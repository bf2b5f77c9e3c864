"""What machines cost: the price list that a user keeps, and what a run comes to by it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itpn_ray import checks
from itpn_ray.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One machine; prices an hour, None where the list has none.

    Attributes:
        name: as the cloud calls it.
        gpus: GPUs in it.
        gpu: their kind.
        currency: of the prices.
        on_demand: price an hour.
        spot: price an hour of a machine that may be taken away.
    """

    name: str
    gpus: int
    gpu: str
    currency: str
    on_demand: float | None
    spot: float | None

    def cost(self, gpus: int, hours: float) -> str:
        """What ``gpus`` GPUs cost for so long, in words."""
        count = math.ceil(gpus / self.gpus)
        time_needed = f"{count} {self.name} ({self.gpus} {self.gpu}) for {hours:,.1f} h"
        prices = {"on demand": self.on_demand, "spot": self.spot}
        sums = [
            f"{self.currency} {count * hours * price:,.0f} {kind}"
            for kind, price in prices.items()
            if price is not None
        ]
        paid = f": {', '.join(sums)}" if sums else "; the list has no price for it"
        return f"{time_needed}{paid}"


def find_machine(path: str, name: str) -> Machine:
    """A machine of the price list at ``path``.

    Raises:
        ConfigError: there is no such list or machine, or the list is damaged.
    """
    import yaml

    try:
        found = yaml.safe_load(Path(path).read_text())
        machines: dict[str, Any] = found["machines"]
        checks.one_of("machine", name, machines)
        return Machine(name=name, currency=found["currency"], **machines[name])
    except OSError as error:
        raise ConfigError(
            "prices", path, f"cannot be read ({error.strerror})", "Name a price list with --prices"
        ) from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            "prices",
            path,
            f"is no price list ({str(error).splitlines()[0]})",
            "Write it as clusters/prices.yaml is written",
        ) from error
