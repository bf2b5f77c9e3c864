"""Drain the node of a Ray Train worker, as a spot reclaim does, and print when it noticed."""

import json
import os
import sys
import threading
import time
from pathlib import Path

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

GRACE_S = 60


def work(config: dict) -> None:
    from itpn_ray.training.launch.preemption import PreemptionNotice

    out = Path(config["out"])
    with PreemptionNotice() as notice:
        (out / "begun").touch()
        while not notice():
            time.sleep(0.01)
        (out / "noticed").write_text(json.dumps([time.time(), notice.deadline]))


def drain(cluster: Cluster, node_id: str, out: Path) -> None:
    while not (out / "begun").exists():
        time.sleep(0.1)
    (out / "drained").write_text(str(time.time()))
    GcsClient(address=cluster.address).drain_node(
        node_id,
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "spot reclaim",
        int((time.time() + GRACE_S) * 1000),
    )


def main(out: Path) -> None:
    os.environ["RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S"] = "1"
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    node = cluster.add_node(num_cpus=1, resources={"spot": 1})
    threading.Thread(target=drain, args=(cluster, node.node_id, out)).start()
    TorchTrainer(
        work,
        train_loop_config={"out": str(out)},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1, "spot": 1}),
        run_config=RunConfig(name="drain", storage_path=str(out / "ray")),
    ).fit()
    drained = float((out / "drained").read_text())
    noticed, deadline = json.loads((out / "noticed").read_text())
    print(json.dumps({"noticed_after": noticed - drained, "deadline_after": deadline - drained}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
