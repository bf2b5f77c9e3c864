"""A Ray cluster and an S3 server on machines that share nothing, see `benchmarks.lib.machines`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.lib.machines import Machines

DELAY = "/tmp/delay"
"""File of the S3 server's machine that holds seconds before each answer."""

ROOT = Path(__file__).resolve().parents[2]
BUCKET = "s3://machines"
SECRET = "canary-secret-of-the-bucket"
TOKEN = "canary-token-of-the-cluster-0123456789"
STEP = re.compile(r"step (\d+)")
NODE = (
    "while true; do ray start --block {role} --node-ip-address={address} --num-cpus=1 --num-gpus=0 "
    "--object-store-memory=150000000 --disable-usage-stats; ray stop --force; sleep 1; done"
)


class Cluster:
    """Nodes with one CPU each, the first of them the head, and a machine with the bucket.

    A node that has ended is started again, as whatever keeps a machine would.

    Args:
        nodes: how many.
        folder: of this machine, for logs.
        ray: start Ray on the nodes, and put drawn images into the bucket.
    """

    def __init__(self, nodes: int, folder: Path, *, ray: bool = True) -> None:
        self.nodes = nodes
        self.folder = folder
        self.ray = ray
        self.store = nodes
        self.machines = Machines(nodes + 1, ROOT)
        self.head = 0
        self.machines.environment |= {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": TOKEN,
            "RAY_LOGGER_LEVEL": "warning",
            # All machines share this one's cores: Ray's own 15 would starve the workers of one.
            "RAY_worker_niceness": "0",
            "AWS_ACCESS_KEY_ID": "canary-key-of-the-bucket",
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL_S3": f"http://{self.machines.address(self.store)}:5000",
            "AWS_REGION": "us-east-1",
            "ITPN_RAY_S3_ALLOW_HTTP": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }

    def __enter__(self) -> Cluster:
        self.machines.__enter__()
        try:
            python = ["python", "-m", "benchmarks.lib.machine_store"]
            self.machines.start(self.store, python, self.folder / "s3.log")
            self.ask("bucket", BUCKET)
            if self.ray:
                self.ask("images", BUCKET)
                self.start_nodes()
        except BaseException:
            self.machines.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.machines.__exit__(kind, error, trace)

    @property
    def address(self) -> str:
        """Of the head, as verbs take it."""
        return f"{self.machines.address(self.head)}:6379"

    def start_nodes(self) -> None:
        """Start Ray on all machines, and wait until they have found each other."""
        for number in range(self.nodes):
            self.start_node(number)
        self.wait_for_nodes(self.nodes)

    def start_node(self, number: int) -> None:
        """Start Ray on a machine, and again whenever it ends."""
        head = "--head --port=6379 --include-dashboard=false"
        role = head if number == self.head else f"--address={self.address}"
        script = NODE.format(role=role, address=self.machines.address(number))
        self.machines.start(number, ["sh", "-c", script], self.folder / f"ray-{number}.log")

    def replace(self, number: int) -> None:
        """Lose a machine and have a new one in its place."""
        self.machines.lose(number)
        self.machines.add(number)
        self.start_node(number)
        self.wait_for_nodes(self.nodes)

    @contextmanager
    def wrong_clock(self, number: int, seconds: int) -> Iterator[None]:
        """Let what is started on a machine meanwhile see a wrong clock.

        Namespaces have clocks since their start alone, so that the C library is asked to lie.
        """
        library = ROOT / "build/clock.so"  # in the checkout, which the machines see
        library.parent.mkdir(exist_ok=True)
        source = ROOT / "benchmarks/lib/clock.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
        self.machines.own[number] = {"LD_PRELOAD": str(library), "CLOCK_OFF": str(seconds)}
        yield
        del self.machines.own[number]

    def store_delay(self, seconds: float) -> None:
        """Let the S3 server wait before each answer."""
        self.machines.run(self.store, ["sh", "-c", f"echo {seconds} > {DELAY}.new"])
        self.machines.run(self.store, ["mv", f"{DELAY}.new", str(DELAY)])

    def renew(self) -> None:
        """Nodes without anything of before; the bucket stays."""
        self.machines.heal(self.store)
        self.store_delay(0.0)
        self.move_head(0)

    def move_head(self, head: int) -> None:
        """Make another machine the head: the former one is lost."""
        self.head = head
        for number in range(self.nodes):
            if self.machines.has(number):
                self.machines.lose(number)
            self.machines.add(number)
        self.start_nodes()

    def wait_for_nodes(self, count: int) -> None:
        """Wait until so many nodes live."""
        code = (
            "import ray, time\n"
            f"ray.init('{self.address}', log_to_driver=False)\n"
            f"while sum(n['Alive'] for n in ray.nodes()) < {count}: time.sleep(0.5)\n"
        )
        for _ in range(30):  # a head takes some seconds to listen
            tried = self.machines.run(self.head, ["python", "-c", code], timeout=180)
            if tried.returncode == 0:
                return
            time.sleep(1)
        raise AssertionError(tried.stderr)

    def verb(self, name: str, *words: str, on: int | None = None) -> Verb:
        """Start a verb on a machine, the head by default."""
        log = self.folder / f"{name}.log"
        command = ["python", "-m", "itpn_ray.cli", *words]
        machine = self.head if on is None else on
        return Verb(self.machines.start(machine, command, log), log)

    def ask(self, question: str, uri: str) -> Any:
        """What `benchmarks.lib.machine_answers` says of a URI, from the machine of the bucket."""
        command = ["python", "-m", "benchmarks.lib.machine_answers", question, uri]
        found = self.machines.run(self.store, command)
        assert found.returncode == 0, found.stderr
        return json.loads(found.stdout.splitlines()[-1])


class Verb:
    """A verb that runs on a machine."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log
        self.begun = time.monotonic()

    @property
    def printed(self) -> str:
        """What it has printed so far."""
        return self.log.read_text()

    def last_line(self) -> str:
        """The last line that it has printed."""
        return self.printed.strip().rpartition("\n")[2][:300]

    def wait_for_step(self, step: int, seconds: float = 300.0) -> None:
        """Wait until a training has come so far."""
        end = time.monotonic() + seconds
        while max(map(int, STEP.findall(self.printed)), default=0) < step:
            assert self.process.poll() is None, self.printed[-3000:]
            assert time.monotonic() < end, self.printed[-3000:]
            time.sleep(0.2)

    def end(self, seconds: float = 600.0) -> tuple[int, float]:
        """Exit code and seconds that it took."""
        code = self.process.wait(seconds)
        return code, time.monotonic() - self.begun
