"""Ray Train as this project needs it: without idle helpers, useless restarts and wrong machines.

What it overrides of Ray Train is private, and listed in `itpn_ray.ray_runtime.compat.NAMES`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from itpn_ray.ray_runtime import compat
from itpn_ray.ray_runtime.nodes import Node, living_nodes

if TYPE_CHECKING:
    from ray.train.torch import TorchTrainer


@dataclass
class EndingPolicy:
    """A failure policy of Ray Train's that does not retry what must end a run."""

    stock: Any
    must_end: Callable[[Any], bool]

    def make_decision(self, training_failed_error: Any) -> Any:
        """Retry or raise."""
        if self.must_end(training_failed_error):
            return compat.find("FailureDecision").RAISE
        return self.stock.make_decision(training_failed_error)


def can_end_runs() -> bool:
    """Whether a trainer of ``trainer_class`` raises at once what must end a run."""
    return compat.find_all("controller", "FailureDecision") is not None


class Placement(Protocol):
    """Which nodes workers are placed on, asked in Ray Train's controller."""

    def look(self, nodes: Sequence[Node], now: float) -> None:
        """Decide for the next start of the workers."""

    def selector(self) -> dict[str, str] | None:
        """Label selector of their nodes; None: any."""

    def requests(self) -> list[dict[str, str]]:
        """Those of the machines that an autoscaler is asked for, one for each of most workers."""

    def limit(self, nodes: Sequence[Node]) -> int:
        """For how many workers there is room where they may now be placed."""


def placing(policy: Any, placement: Placement) -> Any:
    """A scaling policy like ``policy``, whose workers are placed as ``placement`` says."""
    if compat.find_all("count_workers", "decide_start", "on_start") is None:
        return policy

    class Placing(type(policy)):  # type: ignore[misc]
        def make_decision_for_non_running_worker_group(self) -> Any:
            placement.look(living_nodes(), time.monotonic())
            # Requests to the autoscaler are made of it.
            self.scaling_config.label_selector = placement.requests()
            return super().make_decision_for_non_running_worker_group()

        def on_controller_start_worker_group(self, **start: Any) -> dict[str, str] | None:
            return placement.selector()

        def _count_possible_workers(self, reserved_resources: Mapping[str, Any]) -> int:
            # Ray reserves places on nodes of any label, as many as it counts here.
            count = super()._count_possible_workers(reserved_resources)
            return min(count, placement.limit(living_nodes()))

    # A copy: Ray keeps its own scaling configuration, of which `Placing` changes one field.
    return Placing(dataclasses.replace(policy.scaling_config))


def trainer_class(
    *, private: bool, must_end: Callable[[Any], bool], placement: Placement | None = None
) -> type[TorchTrainer]:
    """Ray Train without idle helpers, and without restarts that change nothing.

    Each helper is an actor that wakes up 150 times a second, on cores that train. One hands out Ray
    Datasets, of which a run has none. In a private Ray, one tidies up after a controller that dies
    before its cluster, which does not happen; and one asks for machines, of which there is one.

    Args:
        private: the Ray at hand is a private one.
        must_end: whether a failure ends the run; a function of a module, for it is pickled.
        placement: which nodes workers are placed on; None: any.
    """
    from ray.train.torch import TorchTrainer

    for overridden in ("callbacks", "sigint"):  # A method that Ray never calls raises nothing.
        compat.find(overridden)
    helpers = ("DatasetsCallback", *(["PlacementGroupCleanerCallback"] if private else []))
    idle = tuple(helper for helper in map(compat.find, helpers) if helper is not None)

    # mypy sees the trainer of Ray Train's first version, which is imported before the second.
    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [callback for callback in callbacks if not isinstance(callback, idle)]

        def _register_sigint_handler(self, controller: Any) -> None:
            """Leave Ctrl-C to the driver, which has the workers save first."""

        def _initialize_and_run_controller(self, **parts: Any) -> Any:
            if can_end_runs():
                parts["failure_policy"] = EndingPolicy(parts["failure_policy"], must_end)
            if private:
                _ask_nobody(parts["scaling_policy"])
            elif placement is not None:
                parts["scaling_policy"] = placing(parts["scaling_policy"], placement)
            return super()._initialize_and_run_controller(**parts)  # type: ignore[misc]

    return Trainer


def _ask_nobody(policy: Any) -> None:
    """Have a policy of a fixed number of workers send nobody requests for machines."""
    found = compat.find_all(
        "FixedScalingPolicy", "send_request", "maybe_send_request", "cancel_request"
    )
    if found is None or not isinstance(policy, found[0]):
        return
    for method in found[1:]:
        setattr(policy, method.__name__, _nothing)


def _nothing() -> None:
    """Stands in the place of a method; a function of the module, for it is pickled."""
