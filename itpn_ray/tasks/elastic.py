"""Elastic r: another fraction of tokens migrates at each step; one weight file serves them all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean

from itpn_ray.models.acceleration.config import Accelerated
from itpn_ray.rng import Stream, permutation
from itpn_ray.tasks.config import ModelConfig


def ratio_of_step(ratios: Sequence[float], seed: int, step: int) -> float:
    """R of a training step: a function of seed and step, the same on all workers.

    Each run of as many steps as there are ratios has every one of them, in a drawn order: single
    draws would be uneven in short runs.
    """
    turn, place = divmod(step, len(ratios))
    # The round takes the place of the epoch in the keyed draw: each one is shuffled anew.
    order = permutation(seed, turn, len(ratios), Stream.MIGRATION)
    return ratios[int(order[place])]


def check_ratios(network: Accelerated, ratios: Sequence[float]) -> None:
    """Refuse, before the first step, a ratio that a later one could not have.

    Raises:
        ConfigError: it is too large for the trunk's depth.
    """
    if not ratios:
        return
    now = network.acceleration
    # Only the network knows whether its depth can reach a ratio: so each is set once.
    for ratio in ratios:
        network.set_migration(ratio)
    network.set_acceleration(now)


def mean_cost(network: Accelerated, ratios: Sequence[float], count: Callable[[], int]) -> int:
    """What a training step costs on average over the ratios; without any, as the network is."""
    if not ratios:
        return count()
    now = network.acceleration
    costs = []
    for ratio in ratios:
        network.set_migration(ratio)
        costs.append(count())
    network.set_acceleration(now)
    return round(fmean(costs))


def metric_at(name: str, ratio: float) -> str:
    """Name of a metric at a ratio: that at 0 has the plain name."""
    return f"{name}_r{ratio:g}" if ratio else name


def fixed_at(model: ModelConfig, seed: int, step: int) -> ModelConfig:
    """The network's settings as a step has them, with one r."""
    if not model.elastic_migration:
        return model
    ratio = ratio_of_step(model.elastic_migration, seed, step)
    return replace(model, migration=ratio, elastic_migration=())
