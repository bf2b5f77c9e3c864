"""The ledger: what is held is counted once, from first to last sight, at its own price."""

from __future__ import annotations

import json

import pytest

from itpn_ray.costs.ledger import Held, Ledger, from_dict, merged, show_money


def machine(node: str, price: float | None = 3600.0, market: str = "spot") -> Held:
    return Held(node=node, machine="box", market=market, price=price)


def test_machines_are_held_from_first_to_last_sight() -> None:
    ledger = Ledger(currency="EUR")
    ledger.see([machine("a")], 100.0)
    ledger.see([machine("a"), machine("b", 7200.0)], 110.0)
    assert ledger.rate == 10800.0
    ledger.see([machine("b", 7200.0)], 115.0)  # the first is gone: last seen at 110
    ledger.see([machine("a"), machine("b", 7200.0)], 120.0)  # and comes again
    ledger.see([machine("a"), machine("b", 7200.0)], 121.0)
    assert [(one.held.node, one.begin, one.end) for one in ledger.holdings] == [
        ("a", 100.0, 110.0),
        ("b", 110.0, 121.0),
        ("a", 120.0, 121.0),
    ]
    assert ledger.seconds() == 10 + 11 + 1
    assert ledger.cost() == pytest.approx(10 + 2 * 11 + 1)
    assert ledger.cost([(105.0, 112.0)]) == pytest.approx(5 + 2 * 2)


def test_time_without_a_driver_is_not_counted() -> None:
    ledger = Ledger(currency="EUR")
    ledger.see([machine("a")], 100.0)
    ledger.see([machine("a")], 110.0)
    again = from_dict(json.loads(json.dumps(ledger.to_dict())))
    again.see([machine("a")], 500.0)
    again.see([machine("a")], 503.0)
    assert again.seconds() == 13.0
    assert again.currency == "EUR"


def test_a_clock_that_is_set_back_takes_nothing_away() -> None:
    ledger = Ledger()
    for now in (100.0, 110.0, 50.0):
        ledger.see([machine("a")], now)
    assert ledger.seconds() == 10.0


def test_what_has_no_price_is_named_and_costs_nothing() -> None:
    ledger = Ledger(currency="EUR")
    for now in (0.0, 10.0):
        ledger.see([machine("a", None), machine("b", None, ""), machine("c")], now)
    assert ledger.cost() == pytest.approx(10.0)
    assert ledger.unpriced == ["box spot", "box"]


def test_overlapping_spans_count_once() -> None:
    assert merged([(5, 9), (0, 3), (2, 6), (20, 20), (30, 31)]) == [(0, 9), (30, 31)]


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0.0, "EUR 0.00"), (0.0123, "EUR 0.0123"), (12.4, "EUR 12.40"), (12345.6, "EUR 12,346")],
)
def test_money_as_text(amount: float, text: str) -> None:
    assert show_money("EUR", amount) == text
