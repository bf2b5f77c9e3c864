"""The ledger of a run: which machines it held, from when to when, and what they cost.

A machine is held from its first sight by the run's driver to its last: all machines of the cluster
count, whether a worker is on them or not, for all of them are paid. Time in which no driver runs is
not counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

HOUR = 3600.0

Span = tuple[float, float]
"""Begin and end, seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Held:
    """A machine that the cluster has now.

    Attributes:
        node: its id, which no other machine has.
        machine: its type, as the price list calls it; empty: unknown.
        market: ``spot`` or ``on-demand``; empty: unknown.
        price: an hour; None: unknown.
    """

    node: str
    machine: str
    market: str
    price: float | None


@dataclass(kw_only=True)
class Holding:
    """A machine, held without a break.

    Attributes:
        held: which machine.
        begin: first seen, seconds since 1970.
        end: last seen.
    """

    held: Held
    begin: float
    end: float

    def seconds(self, spans: Iterable[Span] | None = None) -> float:
        """How long it was held: in all, or within spans that do not overlap."""
        whole = [(self.begin, self.end)] if spans is None else spans
        # The part of each span in which the machine was held.
        return sum(max(0.0, min(end, self.end) - max(begin, self.begin)) for begin, end in whole)

    def cost(self, spans: Iterable[Span] | None = None) -> float:
        """What it cost; 0 where it has no price."""
        return self.seconds(spans) / HOUR * (self.held.price or 0.0)


@dataclass(kw_only=True)
class Ledger:
    """All that a run held.

    Attributes:
        currency: of all prices; empty where there was no price list.
        holdings: in order of their begin.
    """

    currency: str = ""
    holdings: list[Holding] = field(default_factory=list)
    _open: dict[str, Holding] = field(default_factory=dict, repr=False)

    def see(self, machines: Sequence[Held], now: float) -> None:
        """Take down which machines there are; those seen before were held since.

        Args:
            machines: all that the cluster has now.
            now: seconds since 1970.
        """
        seen = {}
        for held in machines:
            holding = self._open.get(held.node)
            # At another price the same machine is held anew, so that what was paid stays as it was.
            if holding is None or holding.held != held:
                holding = Holding(held=held, begin=now, end=now)
                self.holdings.append(holding)
            # A clock that was set back takes nothing away.
            holding.end = max(holding.end, now)
            seen[held.node] = holding
        # Machines that are not seen any more keep their end.
        self._open = seen

    @property
    def at_hand(self) -> list[Held]:
        """The machines that were last seen."""
        return [holding.held for holding in self._open.values()]

    @property
    def rate(self) -> float:
        """What the machines at hand cost an hour."""
        return sum(held.price or 0.0 for held in self.at_hand)

    def cost(self, spans: Iterable[Span] | None = None) -> float:
        """What was held cost, in all or within spans that do not overlap."""
        return sum(holding.cost(spans) for holding in self.holdings)

    def seconds(self, spans: Iterable[Span] | None = None) -> float:
        """Machine-seconds."""
        return sum(holding.seconds(spans) for holding in self.holdings)

    @property
    def unpriced(self) -> list[str]:
        """What has no price, in words."""
        names = [
            describe(one.held.machine, one.held.market)
            for one in self.holdings
            if one.held.price is None
        ]
        return list(dict.fromkeys(names))

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        rows = [
            {**dataclasses.asdict(one.held), "begin": one.begin, "end": one.end}
            for one in self.holdings
        ]
        return {"currency": self.currency, "holdings": rows}


def from_dict(plain: Mapping[str, Any]) -> Ledger:
    """The ledger that `Ledger.to_dict` wrote; nothing in it is held any more.

    Raises:
        KeyError: it is none.
    """
    holdings = [
        Holding(
            held=Held(
                node=row["node"], machine=row["machine"], market=row["market"], price=row["price"]
            ),
            begin=float(row["begin"]),
            end=float(row["end"]),
        )
        for row in plain["holdings"]
    ]
    return Ledger(currency=str(plain["currency"]), holdings=holdings)


def describe(machine: str, market: str) -> str:
    """A machine in words: ``g6e.12xlarge spot``."""
    return f"{machine or 'a machine without the label instance-type'} {market}".strip()


def show_money(currency: str, amount: float) -> str:
    """An amount as text: ``USD 12.40``; small ones with three digits."""
    shown = f"{amount:,.0f}" if amount >= 1000 else f"{amount:,.2f}"
    return f"{currency} {f'{amount:.3g}' if 0 < amount < 0.1 else shown}"


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same time as spans that do not overlap."""
    result: list[Span] = []
    for begin, end in sorted(spans):
        # Touching spans are one, so that no second counts twice.
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        elif end > begin:
            result.append((begin, end))
    return result
