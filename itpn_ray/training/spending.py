"""What a run's machines cost while it runs: written into its folder, and held to ``max_cost``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol

from itpn_ray.costs.config import CostConfig
from itpn_ray.costs.ledger import Held, describe, show_money
from itpn_ray.costs.prices import PriceList
from itpn_ray.errors import CapReached, ConfigError
from itpn_ray.ray_runtime.nodes import Node, living_nodes
from itpn_ray.runs.folder import COSTS
from itpn_ray.runs.journal import FileJournal
from itpn_ray.runs.reader import read_costs

INTERVAL_S = 5.0
"""Seconds between two looks at the cluster; so much of a machine's last time may be missed."""
RESERVE_S = 120.0
"""Seconds of the machines at hand that are left for the last step, its checkpoint and the end."""


class Stoppable(Protocol):
    """A run that can be asked to save and end, from any thread."""

    def cap(self, reason: CapReached, *, at_once: bool) -> None:
        """Ask it to; ``at_once``: there is no time left to save."""


def held(nodes: Sequence[Node], config: CostConfig, prices: PriceList | None) -> list[Held]:
    """The nodes as machines with a price."""
    machines = []
    for node in nodes:
        name = node.instance_type or config.machine
        price = None if prices is None else prices.price(name, node.market)
        machines.append(Held(node=node.id, machine=name, market=node.market, price=price))
    return machines


class Spending:
    """Counts what machines cost for the length of a ``with`` block, from a thread.

    Args:
        folder: the run's; what it cost before is taken up from there.
        config: the cap, and which machine a node without a label is.
        prices: an hour of each machine; None: only time is counted.
        run: is ended before the cap is passed.
        nodes: tells which machines there are.

    Raises:
        ConfigError: on entering, the cap leaves nothing to run for, a machine has no price to hold
            to it, or the list has another currency than before.
    """

    def __init__(
        self,
        folder: Path,
        config: CostConfig,
        prices: PriceList | None,
        run: Stoppable,
        *,
        nodes: Callable[[], Sequence[Node]] = living_nodes,
    ) -> None:
        self._journal = FileJournal(folder)
        self._config = config
        self._prices = prices
        self._run = run
        self._nodes = nodes
        self._ledger = read_costs(folder)
        self._error: Exception | None = None
        self._stop = threading.Event()
        # daemon: it must not keep a driver alive that has died without leaving the block.
        self._thread = threading.Thread(target=self._follow, name="spending", daemon=True)

    def __enter__(self) -> Spending:
        self._take_currency()
        # The machines at hand are seen before the cap is held against them.
        self._look()
        self._check_before()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        # An error of the run itself is the one to tell.
        if self._error is not None and error is None:
            raise self._error

    def _take_currency(self) -> None:
        before, now = self._ledger.currency, self._prices.currency if self._prices else ""
        if before and now and before != now:
            raise ConfigError(
                "prices",
                self._config.prices,
                f"is in {now}, and this run has counted in {before}",
                f"Give a list in {before}",
            )
        self._ledger.currency = before or now

    def _look(self) -> None:
        self._ledger.see(held(self._nodes(), self._config, self._prices), time.time())
        # At each look, so that a driver that is killed leaves what it has cost.
        self._journal.file(COSTS, json.dumps(self._ledger.to_dict()).encode())

    def _check_before(self) -> None:
        cap = self._config.max_cost
        if not cap:
            return
        if unpriced := self._unpriced():
            raise ConfigError(
                "max_cost",
                cap,
                f"{self._config.prices} has no price for {unpriced}",
                "Fill it in, name the machine with --machine, or leave --max-cost out",
            )
        if self._ledger.cost() + self._reserve() >= cap:
            raise ConfigError(
                "max_cost", cap, f"the run {self._so_far()}", "Give a larger --max-cost"
            )

    def _follow(self) -> None:
        stopping = False
        while not stopping:
            # One look more after the stop, so that the last seconds are counted.
            stopping = self._stop.wait(INTERVAL_S)
            # An error must not end the training, and a later look may succeed: only that of the
            # last one is raised, at the end.
            self._error = self._attempt(self._look)
            if self._error is not None:
                # What is not seen is taken to be as it was, so that the cap holds all the same.
                self._ledger.see(self._ledger.at_hand, time.time())
            if not stopping:
                self._error = self._attempt(self._check) or self._error

    @staticmethod
    def _attempt(step: Callable[[], None]) -> Exception | None:
        """The error of a step; None where it has none."""
        try:
            step()
        except Exception as error:
            return error
        return None

    def _check(self) -> None:
        cap, cost = self._config.max_cost, self._ledger.cost()
        if not cap:
            return
        # A machine that has joined since: those of the start were checked before.
        if unpriced := self._unpriced():
            cause, hint = f"there is no price for {unpriced}", "Fill it in, and repeat the command"
            # The cap itself is not known to be passed, so there is time to save.
            self._run.cap(self._reason(cause, hint), at_once=False)
        elif cost + self._reserve() >= cap:
            cause, hint = f"it {self._so_far()}", "Repeat the command with a larger --max-cost"
            self._run.cap(self._reason(cause, hint), at_once=cost >= cap)

    def _reserve(self) -> float:
        """What is left of the cap for the last step, its checkpoint and the end."""
        return self._ledger.rate * RESERVE_S / 3600

    def _so_far(self) -> str:
        return (
            f"has cost {self._shown(self._ledger.cost())}, and {RESERVE_S:.0f} s of its machines "
            f"to save and end cost {self._shown(self._reserve())}"
        )

    def _unpriced(self) -> str:
        """A machine at hand that has no price, in words; empty: all have one."""
        machines = self._ledger.at_hand
        return next((describe(m.machine, m.market) for m in machines if m.price is None), "")

    def _reason(self, cause: str, hint: str) -> CapReached:
        return CapReached(
            "max_cost",
            self._config.max_cost,
            f"the run has ended, for {cause}; what it had saved is kept",
            f"{hint} to go on",
        )

    def _shown(self, amount: float) -> str:
        return show_money(self._ledger.currency, amount)
