"""An elastic pre-training on nodes that come and go, without a cloud.

    python benchmarks/autoscaling.py

Ray's autoscaler runs over a simulated market: its nodes are processes of this machine, and spot
nodes can be out of stock. A pre-training for one to three workers is sent as a job to a head
without room for any of them. What must follow: nodes appear and the run starts; spot nodes come and
it grows; one is killed while the market is dry and it shrinks; it ends with exit code 0, and the
nodes go. Prints when each of these happened, and fails if one did not. Takes five to ten minutes on
two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Before Ray is imported: it reads these once.
os.environ |= {
    "OMP_NUM_THREADS": "1",
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "token-of-the-benchmark-0123456789",
}

from benchmarks.lib.spot_market import DRY  # noqa: E402
from itpn_ray.ray_runtime.config import RayConfig  # noqa: E402
from itpn_ray.ray_runtime.start import start_ray  # noqa: E402
from itpn_ray.runs.journal import EVENTS, METRICS, STATUS, read_lines  # noqa: E402
from jobs.config import SubmitConfig  # noqa: E402
from jobs.submit import submit  # noqa: E402
from tests.head import Head, start_head  # noqa: E402

PATIENCE_S = 300.0
RUN_S = 1200.0
FRESH_S = 10.0
"""A rank whose status is older than this no longer trains."""


class Clock:
    """Writes down when what was waited for came to be."""

    def __init__(self) -> None:
        self.moments: list[tuple[float, str]] = []
        self._begin = time.monotonic()

    def note(self, what: str) -> None:
        """It happens now."""
        self.moments.append((time.monotonic() - self._begin, what))
        print(f"{self.moments[-1][0]:7.1f} s  {what}", flush=True)

    def wait(self, what: str, holds: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> None:
        """Note it as soon as it holds.

        Raises:
            TimeoutError: it does not within ``patience_s`` seconds.
        """
        end = time.monotonic() + patience_s
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {patience_s:g} s: {what}")
            time.sleep(0.2)
        self.note(what)


def market() -> dict[str, Any]:
    """The configuration of clusters/local.yaml, with one node on demand and two on the market."""
    config = yaml.safe_load((ROOT / "clusters" / "local.yaml").read_text())
    config["provider"]["module"] = "benchmarks.lib.spot_market.SpotMarket"
    config["idle_timeout_minutes"] = 0.15
    groups = config["available_node_types"]
    groups["on_demand"] |= {"resources": {"CPU": 1}, "max_workers": 1}
    groups["spot"] |= {"resources": {"CPU": 1}, "max_workers": 2}
    return config


def nodes(label: str | None = None) -> list[str]:
    """Ids of the living nodes beside the head, or of those on one market."""
    import ray

    return [
        node["NodeID"]
        for node in ray.nodes()
        if node["Alive"] and "market" in node["Labels"]
        if label in (None, node["Labels"]["market"])
    ]


def kill_node(node_id: str) -> None:
    """End a node as the loss of its machine would: its raylet and all below it, at once."""
    for process in psutil.process_iter():
        try:
            if process.name() != "raylet":
                continue
            if process.environ().get("RAY_OVERRIDE_NODE_ID_FOR_TESTING") != node_id:
                continue
            for each in [process, *process.children(recursive=True)]:
                each.kill()
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def workers(run: Path) -> int:
    """Ranks of a run that have told something lately."""
    told = [json.loads(path.read_text())["time"] for path in (run / STATUS).glob("rank-*.json")]
    return sum(time.time() - when < FRESH_S for when in told)


def make_data(folder: Path) -> Path:
    """A few hundred small images, drawn and prepared."""
    for verb in (
        ["synthesize", "--out", folder / "raw", "--train", "512", "--val", "64", "--side", "64"],
        ["prepare", "--source", folder / "raw", "--out", folder / "data"],
    ):
        command = [sys.executable, "-m", "itpn_ray.cli", *map(str, verb)]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return folder / "data"


def pretraining(data: Path, out: Path, run: str, workers: str, epochs: float) -> list[str]:
    """A pre-training as a verb."""
    return [
        "pretrain", "nano", f"--data={data}", f"--out={out}", f"--run={run}",
        f"--workers={workers}", f"--optim.epochs={epochs:g}", "--optim.warmup-epochs=0",
        "--optim.global-batch=24", "--loader.transport=threads", "--loader.threads=1",
        "--eval-every=-1", "--log-every=1", "--checkpoint.every-steps=20", "--tracking.kind=none",
        "--ray.resize-interval-s=5", "--ray.health-check-interval-s=0.2", "--spot-wait=0",
    ]  # fmt: skip


def seconds_an_epoch(data: Path, out: Path) -> float:
    """Measured on half an epoch with one worker, less the first step."""
    command = pretraining(data, out, "measure", workers="0", epochs=0.5)
    subprocess.run(
        [sys.executable, "-m", "itpn_ray.cli", *command],
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    records = [r for r in read_lines(out / "measure" / METRICS) if r["split"] == "train"]
    first, last = records[0], records[-1]
    return (last["time"] - first["time"]) / (last["epoch"] - first["epoch"])


@contextmanager
def head_over_market(dry: Path) -> Iterator[Head]:
    """A head without room for a worker, over the simulated market."""
    os.environ |= {DRY: str(dry), "PYTHONPATH": str(ROOT)}
    with start_head(num_cpus=0, autoscaling=market()) as head:
        yield head


def prove(folder: Path, work_s: float) -> list[tuple[float, str]]:
    """Play the scenario through.

    Args:
        folder: where everything lies.
        work_s: seconds of work for one worker: the run must outlast growth and loss.

    Returns:
        Seconds since the job was sent, and what happened then.

    Raises:
        TimeoutError: something of it did not happen.
    """
    data, out, dry = make_data(folder), folder / "out", folder / "dry"
    run = out / "elastic"
    epochs = round(work_s / seconds_an_epoch(data, out))
    dry.touch()
    with head_over_market(dry) as head, start_ray(RayConfig(address=head.address)):
        assert not nodes(), "the scenario begins without a node"
        config = SubmitConfig(address=head.jobs_address, name="elastic", follow=False)
        clock = Clock()
        submit(config, pretraining(data, out, run.name, workers="1..3", epochs=epochs))
        clock.note("the job is queued; there is no node for it")
        clock.wait("the node on demand has come", lambda: len(nodes("on-demand")) == 1)
        clock.wait("training with 1 worker", lambda: workers(run) == 1)
        dry.unlink()
        clock.wait("two spot nodes have come", lambda: len(nodes("spot")) == 2)
        clock.wait("training with 3 workers", lambda: workers(run) == 3)
        dry.touch()
        kill_node(nodes("spot")[0])
        clock.note("a spot node is killed, and the market is dry")
        clock.wait("Ray has noticed", lambda: len(nodes("spot")) == 1)
        clock.wait("training with 2 workers", lambda: workers(run) == 2)
        clock.wait(
            "the job has ended with exit code 0", lambda: _exit_code(head) == 0, patience_s=RUN_S
        )
        clock.wait("all nodes have gone", lambda: not nodes())
    for event in read_lines(run / EVENTS):
        if event["event"] == "resume":
            print(f"resumed at step {event['step']} with {event['workers']} workers")
    return clock.moments


def _exit_code(head: Head) -> int | None:
    from ray.job_submission import JobSubmissionClient

    info = JobSubmissionClient(head.jobs_address).get_job_info("elastic")
    if info.status.is_terminal() and info.driver_exit_code != 0:
        raise SystemExit(f"the job ended with {info.driver_exit_code}: {info.message}")
    return info.driver_exit_code


def main() -> None:
    """Play the scenario in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a shorter run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        prove(Path(folder), work_s=240 if arguments.quick else 360)


if __name__ == "__main__":
    main()
