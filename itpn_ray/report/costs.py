"""What a run's machines cost, and how much of that trained nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from itpn_ray.costs.ledger import Holding, Ledger, Span, describe, merged, show_money
from itpn_ray.formatting import show_duration
from itpn_ray.report.html import esc, section, table
from itpn_ray.report.restarts import Event
from itpn_ray.runs.reader import RunRecord

_TRAINS = ("begin", "resume")
"""Events with which workers begin to train."""


@dataclass(frozen=True, kw_only=True)
class Bill:
    """A run's costs so far.

    Attributes:
        ledger: what it held.
        restarts: time whose work was done again, or waited for, after a stop.
        starting: other time in which no worker trained: machines and processes came up.
        planned: what `itpn-ray plan` said; empty: nothing.
    """

    ledger: Ledger
    restarts: list[Span]
    starting: list[Span]
    planned: dict[str, Any]

    @property
    def tells(self) -> bool:
        """Whether machines whose type or market is known were held at all."""
        known = (one for one in self.ledger.holdings if one.held.machine or one.held.market)
        return any(one.seconds() for one in known)

    @property
    def lost(self) -> float:
        """Cost of restarts."""
        return self.ledger.cost(self.restarts)

    @property
    def before(self) -> float:
        """Cost of starting."""
        # What belongs to both counts as lost.
        return self.ledger.cost(merged([*self.restarts, *self.starting])) - self.lost

    def as_metrics(self) -> dict[str, float]:
        """For a tracker; money only where there are prices."""
        money = {
            "cost/total": self.ledger.cost(),
            "cost/restarts": self.lost,
            "cost/starting": self.before,
        }
        hours = {"cost/machine_hours": self.ledger.seconds() / 3600}
        return {**hours, **(money if self.ledger.currency else {})}

    def sentence(self) -> str:
        """In words: the sum, what of it trained nothing, what has no price, and the plan."""
        held = show_duration(self.ledger.seconds())
        if not self.ledger.currency:
            return f"Machines were held for {held} in all; there is no price list."
        words = [f"The machines cost {self._shown(self.ledger.cost())} for {held} in all."]
        if self.restarts or self.starting:
            words.append(
                f"Of that {self._shown(self.before)} before the first step, and "
                f"{self._shown(self.lost)} lost to restarts."
            )
        if self.ledger.unpriced:
            words.append(f"Not counted, for they have no price: {', '.join(self.ledger.unpriced)}.")
        if "low" in self.planned:
            low, high = (self.planned[end] for end in ("low", "high"))
            words.append(f"Planned: {show_range(self.planned['currency'], low, high)}.")
        return " ".join(words)

    def rows(self) -> list[dict[str, Any]]:
        """A row for each type of machine and market."""
        groups: dict[tuple[str, str], list[Holding]] = defaultdict(list)
        for one in self.ledger.holdings:
            groups[one.held.machine, one.held.market].append(one)
        return [
            {
                "machine": describe(machine, ""),
                "market": market,
                "machines": len({one.held.node for one in held}),
                "held": show_duration(sum(one.seconds() for one in held)),
                "an hour": self._price(held),
                "cost": self._cost(held),
            }
            for (machine, market), held in groups.items()
        ]

    def _price(self, held: Sequence[Holding]) -> str:
        prices = {one.held.price for one in held if one.held.price is not None}
        return ", ".join(self._shown(price) for price in sorted(prices))

    def _cost(self, held: Sequence[Holding]) -> str:
        priced = any(one.held.price is not None for one in held)
        return self._shown(sum(one.cost() for one in held)) if priced else ""

    def _shown(self, amount: float) -> str:
        return show_money(self.ledger.currency, amount)


def bill_of(record: RunRecord) -> Bill:
    """What a run has cost so far; of a sweep only the sum is known."""
    events = record.events if record.trains else []
    restarts = [
        (float(event.get("saved", event["time"])), float(event["time"]))
        for event in events
        if event["event"] == "resume"
    ]
    return Bill(
        ledger=record.costs,
        restarts=merged(restarts),
        starting=merged(_starting(events)),
        planned=record.planned,
    )


def costs(record: RunRecord) -> str:
    """The section of a run's costs; empty where nothing is known of its machines."""
    bill = bill_of(record)
    if not bill.tells:
        return ""
    return section("Costs", f"<p>{esc(bill.sentence())}</p>", table(bill.rows()))


def show_range(currency: str, low: float, high: float) -> str:
    """Two amounts as text: ``USD 80.00 to USD 200.00``."""
    return f"{show_money(currency, low)} to {show_money(currency, high)}"


def _starting(events: Sequence[Event]) -> list[Span]:
    """From each driver's start to when its workers began to train; to its end, if never."""
    spans, since, last = [], None, 0.0
    for event in events:
        last = float(event["time"])
        if event["event"] in ("start", "restart"):
            # Started again before anything was trained: the first wait goes on.
            since = last if since is None else since
        elif event["event"] in (*_TRAINS, "end") and since is not None:
            spans.append((since, last))
            since = None
    return spans if since is None else [*spans, (since, last)]
