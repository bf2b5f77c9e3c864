"""Which nodes workers and drivers are placed on: the policy, and what Ray makes of it."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.ray_runtime import train_compat
from itpn_ray.ray_runtime.config import PlacementConfig
from itpn_ray.ray_runtime.nodes import Node
from itpn_ray.ray_runtime.placement import (
    NOT_ON_SPOT,
    ON_SPOT,
    SpotFirst,
    accelerator_of,
    check_accelerators,
    driver_selector,
    spot_first,
)

ROOT = Path(__file__).parents[2]
NEED = {"CPU": 2.0}


def node(name: str, market: str = "", cpus: float = 4.0, **resources: float) -> Node:
    labels = {"market": market} if market else {}
    return Node(id=name, address="", labels=labels, resources={"CPU": cpus, **resources})


def ignore(message: str) -> None:
    """Nobody reads it here."""


def policy(said: list[str], **changes: Any) -> SpotFirst:
    fields = {"need": NEED, "fewest": 2, "most": 4, "wait_s": 600.0} | changes
    return SpotFirst(tell=lambda message: said.append(message), **fields)


def test_spot_machines_are_waited_for_then_any_are_taken_and_spot_ones_again() -> None:
    said: list[str] = []
    placed, others = policy(said), [node("o", "on-demand", 8.0)]
    few = [node("s", "spot", 2.0), *others]
    placed.look(others, 0.0)
    assert (placed.selector(), placed.limit(others)) == (ON_SPOT, 0)
    assert placed.requests() == [ON_SPOT] * 4
    placed.look(few, 599.0)
    assert (placed.selector(), placed.limit(few)) == (ON_SPOT, 1)
    placed.look(few, 600.0)
    assert (placed.selector(), placed.limit(few)) == (None, 4)
    assert placed.requests() == [ON_SPOT] + [NOT_ON_SPOT] * 3
    assert said == [
        "spot machines had room for 1 of at least 2 workers for 10 minutes: workers take others too"
    ]
    enough = [node("s", "spot", 4.0), *others]
    placed.look(enough, 700.0)
    assert (placed.selector(), placed.limit(enough)) == (ON_SPOT, 2)
    placed.look(others, 800.0)
    assert placed.selector() == ON_SPOT  # it waits anew
    placed.look(others, 1399.0)
    assert placed.selector() == ON_SPOT
    placed.look(others, 1400.0)
    assert placed.selector() is None
    assert len(said) == 3


def test_without_a_wait_others_are_taken_at_once() -> None:
    placed = policy([], wait_s=0.0)
    placed.look([node("o", "on-demand")], 5.0)
    assert placed.selector() is None


@pytest.mark.parametrize(
    ("nodes", "grows", "minutes", "wait_s"),
    [
        ([node("h", "on-demand")], True, 10.0, 600.0),  # an autoscaled cluster at rest
        ([node("h", "on-demand"), node("s", "spot")], False, 10.0, 0.0),
        ([node("h", "on-demand")], False, 10.0, None),  # there is no spot machine, and none comes
        ([node("h"), node("i")], True, 10.0, None),  # nothing is labelled
        ([node("s", "spot")], True, 0.0, None),  # not asked for
    ],
)
def test_where_there_is_something_to_prefer(
    nodes: list[Node], grows: bool, minutes: float, wait_s: float | None
) -> None:
    config = PlacementConfig(spot_wait=minutes)
    placed = spot_first(nodes, NEED, (0, 4), config, grows=grows, tell=print)
    assert (None if placed is None else (placed.wait_s, placed.fewest)) == (
        None if wait_s is None else (wait_s, 1)
    )


@pytest.mark.parametrize(
    ("markets", "head", "selector"),
    [
        (["on-demand", "spot"], "on-demand", None),
        (["", "spot"], "", None),
        (["spot", "on-demand"], "spot", NOT_ON_SPOT),
        (["spot", ""], "spot", NOT_ON_SPOT),
        (["spot", "spot"], "spot", None),  # there is no better place
    ],
)
def test_a_driver_leaves_a_head_that_may_go(
    markets: list[str], head: str, selector: dict[str, str] | None
) -> None:
    assert driver_selector(markets, head) == selector


def gpus(name: str, kind: str, count: float = 8.0) -> Node:
    named = {f"accelerator_type:{kind}": 1.0} if kind else {}
    return node(name, GPU=count, **named)


def test_gpus_of_several_kinds_are_refused_unless_asked_for() -> None:
    nodes = [gpus("a", "H100"), gpus("b", "H100"), gpus("c", "L4", 4.0), node("cpu")]
    check_accelerators(nodes[:2], PlacementConfig())
    check_accelerators([*nodes[:2], node("cpu")], PlacementConfig())
    with pytest.raises(ConfigError, match=r"several kinds \(16 H100, 4 L4\)") as caught:
        check_accelerators(nodes, PlacementConfig())
    assert "--accelerator H100, or add --mixed-accelerators" in str(caught.value)
    check_accelerators(nodes, PlacementConfig(accelerator="H100"))
    check_accelerators(nodes, PlacementConfig(mixed_accelerators=True))
    with pytest.raises(ConfigError, match=r"8 unnamed.*--accelerator A10G, or add"):
        check_accelerators([gpus("a", ""), gpus("b", "A10G", 1.0)], PlacementConfig())


def test_the_kind_is_found_by_its_resource_or_label() -> None:
    labelled = Node(id="a", address="", labels={"ray.io/accelerator-type": "A100"}, resources={})
    assert [one.accelerator for one in (gpus("b", "H100"), labelled, node("c"))] == [
        "H100",
        "A100",
        "",
    ]
    assert accelerator_of(PlacementConfig(accelerator="H100")) == {"accelerator_type:H100": 0.001}
    assert accelerator_of(PlacementConfig()) == {}


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="spot_wait = -1"):
        PlacementConfig(spot_wait=-1.0)
    with pytest.raises(ConfigError, match="does not go with accelerator H100"):
        PlacementConfig(accelerator="H100", mixed_accelerators=True)
    with pytest.raises(ConfigError, match="workers without GPUs have none"):
        ExperimentConfig(gpus=False, placement=PlacementConfig(accelerator="H100"))


@pytest.mark.parametrize("workers", [2, (1, 4)])
def test_a_scaling_policy_places_as_it_is_told(
    workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The autoscaler's coordinator is left out."""
    from ray.train import ScalingConfig
    from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy

    nodes = [node("s", "spot", 4.0), node("o", "on-demand", 8.0)]
    monkeypatch.setattr(train_compat, "living_nodes", lambda: nodes)
    scaling = ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 2})
    most = scaling.max_workers
    placement = SpotFirst(need=NEED, fewest=1, most=most, wait_s=0.0, tell=ignore)
    stock = create_scaling_policy(scaling)
    placed = train_compat.placing(stock, placement)
    placed._maybe_send_resource_request = lambda: None
    placed._get_reserved_resources = lambda: {"s": {"CPU": 4.0}, "o": {"CPU": 4.0}}
    decision = placed.make_decision_for_non_running_worker_group()
    assert decision.num_workers == 2  # of the elastic one: all that spot machines have room for
    assert placed.on_controller_start_worker_group(scaling_config=scaling, num_workers=2) == ON_SPOT
    assert placed.scaling_config.label_selector == [ON_SPOT] * most
    assert scaling.label_selector is None
    del nodes[0]
    decision = placed.make_decision_for_non_running_worker_group()
    assert decision.num_workers == (2 if workers == 2 else 4)
    assert placed.on_controller_start_worker_group(scaling_config=scaling, num_workers=2) is None
    assert placed.scaling_config.label_selector == [NOT_ON_SPOT] * most


def test_the_policy_reaches_the_controller() -> None:
    from ray import cloudpickle
    from ray.train import ScalingConfig
    from ray.train.v2._internal.execution.scaling_policy import create_scaling_policy

    stock = create_scaling_policy(ScalingConfig(num_workers=2))
    placement = SpotFirst(need=NEED, fewest=1, most=2, wait_s=0.0, tell=ignore)
    sent = cloudpickle.loads(cloudpickle.dumps(train_compat.placing(stock, placement)))
    assert isinstance(sent, type(stock))
    assert sent.on_controller_start_worker_group() == ON_SPOT


@pytest.mark.slow
def test_workers_leave_a_lost_spot_machine_for_others(tmp_path: Path) -> None:
    """In a process of its own: this one may be connected to another Ray."""
    script = ROOT / "tests" / "training" / "launch" / "spot_first.py"
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    # One worker, though two had room elsewhere; then both of them there.
    assert found == {"driver": "", "started": ["on-demand-0", "on-demand-1", "spot-0"]}


def test_settings_of_placement_may_change_on_resuming() -> None:
    from itpn_ray.experiment import FREE_TO_CHANGE

    names = {field.name for field in dataclasses.fields(ExperimentConfig)}
    assert {"placement", "cost"} <= set(FREE_TO_CHANGE) & names
