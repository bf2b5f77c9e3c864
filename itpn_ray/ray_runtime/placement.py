"""Which nodes workers are placed on: one kind of GPU, and spot machines first."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from itpn_ray.costs.prices import SPOT
from itpn_ray.errors import ConfigError
from itpn_ray.formatting import number_of
from itpn_ray.ray_runtime.config import PlacementConfig
from itpn_ray.ray_runtime.nodes import ACCELERATOR_RESOURCE, MARKET, Node
from itpn_ray.ray_runtime.places import Resources, room

Selector = dict[str, str]
"""Label -> value, as Ray's label selectors have them; ``!spot`` takes unlabelled nodes too."""
ON_SPOT: Selector = {MARKET: SPOT}
NOT_ON_SPOT: Selector = {MARKET: f"!{SPOT}"}


def driver_selector(markets: Sequence[str], head: str) -> Selector | None:
    """Where a job's driver, and with it the run's journal, is to run.

    Args:
        markets: of all nodes; empty where one has no label.
        head: the head's.

    Returns:
        None: on the head, where Ray puts it; it stays, or there is no better place.
    """
    if head != SPOT or all(market == SPOT for market in markets):
        return None
    return NOT_ON_SPOT


def check_accelerators(nodes: Sequence[Node], config: PlacementConfig) -> None:
    """Refuse GPUs of several kinds in one run, unless one is named or they are asked for.

    Raises:
        ConfigError: there are several.
    """
    kinds: dict[str, int] = {}
    for node in nodes:
        if gpus := round(node.resources.get("GPU", 0)):
            kinds[node.accelerator] = kinds.get(node.accelerator, 0) + gpus
    if len(kinds) > 1 and not config.accelerator and not config.mixed_accelerators:
        told = ", ".join(f"{count} {kind or 'unnamed'}" for kind, count in sorted(kinds.items()))
        # The kind of which there are most; one without a name cannot be asked for.
        named = max(filter(None, sorted(kinds)), key=lambda kind: kinds[kind])
        raise ConfigError(
            "accelerator",
            None,
            f"the cluster has GPUs of several kinds ({told}), and all workers would wait for the "
            "slowest",
            f"Name one, such as --accelerator {named}, or add --mixed-accelerators",
        )


@dataclass
class SpotFirst:
    """Places workers on spot machines, and on any once there were too few for too long.

    It is asked before each start of the workers: a run that has taken other machines keeps them
    until it has to start again.

    Attributes:
        need: resources of a worker.
        fewest: workers with which the run goes on.
        most: workers that it would have.
        wait_s: seconds that it waits for spot machines.
        tell: called with ``message``, what changed, for people.
        any_market: whether workers may now be placed anywhere.
    """

    need: Resources
    fewest: int
    most: int
    wait_s: float
    tell: Callable[..., object]
    any_market: bool = False
    _since: float | None = None
    _spot_places: int = 0

    def look(self, nodes: Sequence[Node], now: float) -> None:
        """Decide where the next start places workers; ``now`` in seconds."""
        found = self._on_spot(nodes)
        before = self.any_market
        if found >= self.fewest:
            self.any_market, self._since = False, None
        else:
            self._since = now if self._since is None else self._since
            self.any_market = now - self._since >= self.wait_s
        self._spot_places = found
        if self.any_market != before:
            self.tell(message=self._said())

    def selector(self) -> Selector | None:
        """Of the workers' nodes; None: any."""
        return None if self.any_market else dict(ON_SPOT)

    def requests(self) -> list[Selector]:
        """Of the machines that an autoscaler is asked for, one a worker."""
        on_spot = self.most if not self.any_market else min(self._spot_places, self.most)
        return [dict(ON_SPOT)] * on_spot + [dict(NOT_ON_SPOT)] * (self.most - on_spot)

    def limit(self, nodes: Sequence[Node]) -> int:
        """For how many workers there is room where they may now be placed."""
        return self.most if self.any_market else self._on_spot(nodes)

    def _on_spot(self, nodes: Sequence[Node]) -> int:
        return sum(room(node.resources, self.need) for node in nodes if node.market == SPOT)

    def _said(self) -> str:
        if self.any_market:
            return (
                f"spot machines had room for {self._spot_places} of at least "
                f"{number_of(self.fewest, 'worker')} "
                f"for {number_of(self.wait_s / 60, 'minute')}: workers take others too"
            )
        return "there are spot machines again: workers are placed on them"


def spot_first(
    nodes: Sequence[Node],
    need: Resources,
    workers: tuple[int, int],
    config: PlacementConfig,
    *,
    grows: bool,
    tell: Callable[..., object],
) -> SpotFirst | None:
    """How workers prefer spot machines; None where there is nothing to prefer.

    Args:
        nodes: at hand.
        need: resources of a worker.
        workers: fewest and most.
        config: how long to wait.
        grows: whether the cluster gets machines by itself.
        tell: called with ``message``, what changed.
    """
    labelled = any(node.market for node in nodes)
    has_spot = any(node.market == SPOT for node in nodes)
    if not config.spot_wait or not labelled or not (grows or has_spot):
        return None
    return SpotFirst(
        need=need,
        fewest=max(1, workers[0]),
        most=workers[1],
        # A cluster that does not grow has no other spot machines to wait for.
        wait_s=60 * config.spot_wait if grows else 0.0,
        tell=tell,
    )


def accelerator_of(config: PlacementConfig) -> Mapping[str, float]:
    """The resource by which Ray finds nodes with a kind of GPU: any amount of it will do."""
    # Such a node has 1 of this resource: a thousandth asks for the kind and no more.
    return {f"{ACCELERATOR_RESOURCE}{config.accelerator}": 0.001} if config.accelerator else {}
