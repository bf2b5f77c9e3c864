"""Resources that a cluster has not are told at once: Ray itself would wait in silence."""

from __future__ import annotations

import pytest
import ray

from itpn_ray.errors import ConfigError
from itpn_ray.ray_runtime import places as module
from itpn_ray.ray_runtime.places import missing_places, places, room

NODES = [
    {"Alive": True, "Resources": {"CPU": 4.0, "memory": 1e9}},
    {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 2.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A cluster of two nodes, without an autoscaler."""
    monkeypatch.setattr(ray, "nodes", lambda: NODES)
    monkeypatch.setattr(module, "is_private", lambda: False)
    monkeypatch.setattr(module, "max_resources", lambda: None)
    return monkeypatch


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize(
    ("need", "count"),
    [
        ({"CPU": 3.0}, 3),
        ({"CPU": 1.0, "GPU": 1.0}, 2),
        ({"CPU": 5.0, "GPU": 1.0}, 1),
        ({"TPU": 1}, 0),
    ],
)
def test_places_are_counted_on_living_nodes(need: dict[str, float], count: int) -> None:
    assert places(need) == count
    assert missing_places(need, count) == ""


@pytest.mark.parametrize(
    ("node", "need", "count"),
    [
        ({"CPU": 0.3}, {"CPU": 0.1}, 3),
        ({"CPU": 12.0}, {"CPU": 0.4, "GPU": 0.0}, 30),
        ({"CPU": 1.0}, {"CPU": 0.3}, 3),
        ({"CPU": 4.0}, {"CPU": 1.0, "accelerator_type:L4": 0.001}, 0),
        ({"CPU": 4.0, "accelerator_type:L4": 1.0}, {"CPU": 1.0, "accelerator_type:L4": 0.001}, 4),
    ],
)
def test_a_share_goes_as_often_into_a_node_as_it_does(
    node: dict[str, float], need: dict[str, float], count: int
) -> None:
    assert room(node, need) == count


def test_who_needs_nothing_has_room() -> None:
    assert room({"CPU": 1.0}, {"CPU": 0.0}) > 1_000_000


@pytest.mark.usefixtures("cluster")
def test_a_cluster_that_may_grow_by_hand_is_waited_for() -> None:
    told = missing_places({"CPU": 1.0, "GPU": 1.0}, 3)
    assert told == (
        "3 workers with 1 CPU and 1 GPU each are asked for, and the nodes have room for 2: "
        "waiting for nodes"
    )


def test_a_cluster_that_cannot_grow_so_far_is_refused(cluster: pytest.MonkeyPatch) -> None:
    cluster.setattr(module, "max_resources", lambda: {"CPU": 100, "GPU": 4})
    assert "waiting for nodes" in missing_places({"CPU": 1.0, "GPU": 1.0}, 4)
    with pytest.raises(ConfigError, match="have room for 2"):
        missing_places({"CPU": 1.0, "GPU": 1.0}, 5)


def test_a_private_ray_never_grows(cluster: pytest.MonkeyPatch) -> None:
    cluster.setattr(module, "is_private", lambda: True)
    with pytest.raises(ConfigError, match="'64 CPU': 1 worker with 64 CPU is asked for"):
        missing_places({"CPU": 64.0, "GPU": 0.0}, 1)


def test_a_real_cluster_is_asked(ray_cluster: str) -> None:
    del ray_cluster
    assert missing_places({"CPU": 2.0}, 2) == ""
    with pytest.raises(ConfigError, match="have room for 0"):
        missing_places({"CPU": 1.0, "GPU": 1.0}, 1)
