"""Workers on spot machines, and on others once those are gone; prints where they were placed."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import ray
from ray.cluster_utils import Cluster
from ray.train import FailureConfig, RunConfig, ScalingConfig

from itpn_ray.ray_runtime import train_compat
from itpn_ray.ray_runtime.nodes import living_nodes
from itpn_ray.ray_runtime.placement import NOT_ON_SPOT, SpotFirst


def work(config: dict[str, Any]) -> None:
    """Write down the market of this node; the first start goes on until its node is lost."""
    out = Path(config["out"])
    here = ray.get_runtime_context().get_node_id()
    market = next(node.market for node in living_nodes() if node.id == here)
    rank = ray.train.get_context().get_world_rank()
    (out / f"{market}-{rank}").touch()
    while market == "spot":
        time.sleep(0.1)


def market_of_a_driver() -> str:
    """The market of the node where a job's driver would be placed; empty: it has no label."""
    here = ray.get_runtime_context().get_node_id()
    return next(node.market for node in living_nodes() if node.id == here)


def never(failed: Any) -> bool:
    """No failure ends the run."""
    del failed
    return False


def main(out: Path) -> None:
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = "15"
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.1"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
    )
    spot = cluster.add_node(num_cpus=1, labels={"market": "spot"})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    driver = ray.remote(market_of_a_driver).options(num_cpus=0, label_selector=NOT_ON_SPOT)
    unlabelled = ray.get(driver.remote())
    cluster.add_node(num_cpus=2, labels={"market": "on-demand"})

    def lose() -> None:
        while not (out / "spot-0").exists():
            time.sleep(0.1)
        cluster.remove_node(spot, allow_graceful=False)

    threading.Thread(target=lose).start()
    placement = SpotFirst(need={"CPU": 1.0}, fewest=1, most=2, wait_s=0.0, tell=tell)
    trainer = train_compat.trainer_class(private=False, must_end=never, placement=placement)
    trainer(
        work,
        train_loop_config={"out": str(out)},
        scaling_config=ScalingConfig(num_workers=(1, 2), resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name="r",
            storage_path=str(out / "ray"),
            failure_config=FailureConfig(max_failures=3),
        ),
    ).fit()
    started = sorted(path.name for path in out.iterdir() if path.is_file())
    print(json.dumps({"driver": unlabelled, "started": started}))
    ray.shutdown()
    cluster.shutdown()


def tell(message: str) -> None:
    """Nobody reads it here."""
    del message


if __name__ == "__main__":
    main(Path(sys.argv[1]))
