"""What faults of machines and of the network cost each verb, on machines that share nothing.

    python benchmarks/hosts.py            # all rows; about an hour on two cores
    python benchmarks/hosts.py --only head_lost sweep

Three machines in namespaces of their own, with Ray, and a fourth with an S3 server: see
`benchmarks.lib.machines`. Each row is printed as soon as it is known: what came of it, seconds
more than the verb takes left alone, and whether weights, averages and moments are the same bits as
those of the run left alone, where as many workers trained. Needs root.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.machine_cluster import BUCKET, Cluster, Verb  # noqa: E402
from benchmarks.lib.machines import missing  # noqa: E402

OUT = f"{BUCKET}/out"
LEASE_S = 60.0
"""After which a driver that gives no sign of life has lost its run."""
AT_STEP = 16
"""When a training is disturbed."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of a verb under a fault."""

    verb: str
    fault: str
    outcome: str
    lost_s: float | None = None
    equal: bool | None = None

    def __str__(self) -> str:
        lost = "" if self.lost_s is None else f"{self.lost_s:.0f} s"
        equal = "" if self.equal is None else ("yes" if self.equal else "NO")
        return f"| {self.verb} | {self.fault} | {self.outcome} | {lost} | {equal} |"


class Bench:
    """A cluster, and what a pre-training left alone does on it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    @cached_property
    def alone(self) -> tuple[float, str]:
        """Seconds and digest of the run left alone."""
        verb = self.pretrain("alone")
        code, seconds = verb.end()
        assert code == 0, verb.printed[-3000:]
        return seconds, self.digest("alone")

    def pretrain(self, run: str, *, on: int | None = None, workers: str = "2") -> Verb:
        """Start a pre-training of 64 steps that saves each fourth."""
        return self.cluster.verb(
            f"{run}-{time.monotonic():.0f}", "pretrain", "nano", f"--data={BUCKET}/data",
            f"--out={OUT}", f"--run={run}", f"--workers={workers}", "--optim.epochs=8",
            "--optim.warmup-epochs=0", "--optim.global-batch=32", "--model.image-size=64",
            "--loader.threads=1", "--loader.transport=threads", "--eval-every=-1", "--log-every=1",
            "--checkpoint.every-steps=4", "--tracking.kind=none",
            f"--ray.address={self.cluster.address}", on=on,
        )  # fmt: skip

    def left_alone(self) -> Row:
        """What all others are compared with."""
        return Row(verb="pretrain", fault="none", outcome=f"{self.alone[0]:.0f} s", lost_s=0.0)

    def digest(self, run: str) -> str:
        """Of the newest checkpoint of a run."""
        return str(self.cluster.ask("digest", f"{OUT}/{run}")["sha256"])

    def disturbed(self, fault: str, disturb: Callable[[Verb], None], workers: str = "2") -> Row:
        """A pre-training under a fault; repeated once where it ended with an error."""
        run = re.sub(r"[^a-z0-9]+", "-", fault.lower().replace("'", ""))
        verb = self.pretrain(run, workers=workers)
        verb.wait_for_step(AT_STEP)
        disturb(verb)
        code, seconds = verb.end()
        outcome = "went on"
        if code:
            outcome = f"ended with {code} ({verb.last_line()}); repeated, went on"
            again = self.pretrain(run, workers=workers)
            code, more = again.end()
            seconds += more
            outcome = outcome if code == 0 else f"FAILED with {code} ({again.last_line()})"
        equal = self.digest(run) == self.alone[1] if workers == "2" and code == 0 else None
        lost = seconds - self.alone[0]
        return Row(verb="pretrain", fault=fault, outcome=outcome, lost_s=lost, equal=equal)

    def cut(self, machine: int, seconds: float) -> Callable[[Verb], None]:
        """Pull a cable and put it back after a while."""

        def disturb(verb: Verb) -> None:
            self.cluster.machines.cut(machine)
            time.sleep(seconds)
            self.cluster.machines.heal(machine)

        return disturb

    def worker_cut_10(self) -> Row:
        """The network of a worker's machine is away for a moment."""
        return self.disturbed("worker's cable, 10 s", self.cut(1, 10))

    def worker_cut_100(self) -> Row:
        """It is away for longer than Ray waits."""
        return self.disturbed("worker's cable, 100 s", self.cut(1, 100))

    def driver_cut_10(self) -> Row:
        """The network of the head is away for a moment."""
        return self.disturbed("driver's and head's cable, 10 s", self.cut(0, 10))

    def driver_cut_100(self) -> Row:
        """It is away for longer than Ray waits."""
        row = self.disturbed("driver's and head's cable, 100 s", self.cut(0, 100))
        self.cluster.wait_for_nodes(3)
        return row

    def store_away(self) -> Row:
        """No machine reaches S3 for a minute."""
        return self.disturbed("S3 away, 60 s", self.cut(self.cluster.store, 60))

    def store_slow(self) -> Row:
        """S3 takes a second for each answer."""
        self.cluster.store_delay(1.0)
        row = self.disturbed("S3 slow: 1 s an answer", lambda verb: None)
        self.cluster.store_delay(0.0)
        return row

    def worker_lost(self) -> Row:
        """A machine with a worker vanishes, and a new one comes."""

        def disturb(verb: Verb) -> None:
            self.cluster.machines.lose(1)
            self.cluster.machines.add(1)
            self.cluster.start_node(1)

        return self.disturbed("worker's machine lost with its disk; another comes", disturb)

    def worker_cut_for_good(self) -> Row:
        """A machine with a worker is not reached any more."""

        def disturb(verb: Verb) -> None:
            self.cluster.machines.cut(1)

        fault = "worker's cable, for good; workers 1..2"
        row = self.disturbed(fault, disturb, workers="1..2")
        self.cluster.replace(1)
        return row

    def disk_full(self) -> Row:
        """Nothing can be written on a worker's machine for a while."""

        def disturb(verb: Verb) -> None:
            self.cluster.machines.fill_disk(1)
            time.sleep(20)
            self.cluster.machines.free_disk(1)

        return self.disturbed("disk full on a worker's machine, 20 s", disturb)

    def bad_network(self) -> Row:
        """Packets to a worker's machine are late, and some are lost."""
        with self.cluster.machines.bad_cable(1, 0.05, 0.01):
            return self.disturbed("50 ms and 1 % loss on a worker's cable", lambda verb: None)

    def two_drivers(self) -> Row:
        """The second one on a machine whose clock is five minutes ahead."""
        verb = self.pretrain("twice")
        verb.wait_for_step(AT_STEP)
        with self.cluster.wrong_clock(1, 300):
            second = self.pretrain("twice", on=1)
            code, _ = second.end()
        first, seconds = verb.end()
        refused = code == 2 and "is in use by process" in second.printed
        outcome = "the second is refused" if refused else f"NOT refused ({second.last_line()})"
        return Row(
            verb="pretrain",
            fault="two drivers, one clock 5 min ahead",
            outcome=outcome if first == 0 else f"the first FAILED ({verb.last_line()})",
            lost_s=seconds - self.alone[0],
            equal=self.digest("twice") == self.alone[1],
        )

    def clock_off(self) -> Row:
        """Of a worker's machine, from before the run."""
        with self.cluster.wrong_clock(1, -300):
            self.cluster.replace(1)
            row = self.disturbed("worker's clock 5 min behind", lambda verb: None)
        self.cluster.replace(1)
        return row

    def head_lost(self) -> Row:
        """The driver with it; the command is repeated on another machine, with a new head."""
        verb = self.pretrain("head-lost")
        verb.wait_for_step(AT_STEP)
        before = time.monotonic() - verb.begun
        self.cluster.move_head(1)
        code, seconds = self.once_free(lambda: self.pretrain("head-lost", on=1))
        resumed = [e["step"] for e in self.cluster.ask("events", f"{OUT}/head-lost")
                   if e["event"] == "resume"]  # fmt: skip
        return Row(
            verb="pretrain",
            fault="head and driver lost with their disk; repeated on another machine",
            outcome=f"went on from step {resumed}" if code == 0 else f"FAILED with {code}",
            lost_s=before + seconds - self.alone[0],
            equal=self.digest("head-lost") == self.alone[1],
        )

    def once_free(self, start: Callable[[], Verb]) -> tuple[int, float]:
        """Exit code and seconds of a verb whose former driver was lost without a word.

        It is refused until that driver's lease has run out, for it might only be cut off.
        """
        begin = time.monotonic()
        while True:
            verb = start()
            code, _ = verb.end()
            spent = time.monotonic() - begin
            if "is in use by process" not in verb.printed or spent > 4 * LEASE_S:
                return code, spent

    def tune(self, run: str, on: int | None = None) -> Verb:
        """Start a sweep of six trials, three at a time."""
        return self.cluster.verb(
            f"{run}-{time.monotonic():.0f}", "tune", "nano", f"--data={BUCKET}/data",
            f"--out={OUT}", f"--run={run}", "--trials=6", "--concurrent=3", "--tracking.kind=none",
            "--space.optim.layer-decay", "uniform", "0.6", "1", "--space.model.migration", "choice",
            "0", "0.3", "--pretrain.optim.epochs=1", "--pretrain.optim.global-batch=32",
            "--finetune.optim.epochs=4", "--finetune.optim.global-batch=32", "--grace-epochs=4",
            "--finetune.checkpoint.every-steps=4", f"--ray.address={self.cluster.address}", on=on,
        )  # fmt: skip

    def sweep(self) -> Row:
        """A sweep left alone."""
        begin = time.monotonic()
        code, _ = self.tune("sweep").end()
        return self._sweep_row("none", "sweep", code, time.monotonic() - begin)

    def sweep_worker_lost(self) -> Row:
        """A machine that trains trials vanishes, and a new one comes."""
        begin = time.monotonic()
        verb = self.tune("sweep-worker")
        self._wait_for_trials("sweep-worker", verb)
        self.cluster.replace(2)
        code, _ = verb.end()
        spent = time.monotonic() - begin
        return self._sweep_row("worker's machine lost; another comes", "sweep-worker", code, spent)

    def sweep_head_lost(self) -> Row:
        """The sweep's driver vanishes with its machine."""
        begin = time.monotonic()
        self._wait_for_trials("sweep-head", self.tune("sweep-head"))
        self.cluster.move_head(1 - self.cluster.head)
        code, _ = self.once_free(lambda: self.tune("sweep-head"))
        fault = "head and driver lost; repeated on another machine"
        return self._sweep_row(fault, "sweep-head", code, time.monotonic() - begin)

    def _wait_for_trials(self, run: str, verb: Verb) -> None:
        """Until trials have saved."""
        while not any("/checkpoints/step-" in key for key in self._keys(run)):
            assert verb.process.poll() is None, verb.printed[-3000:]
            time.sleep(2)

    def _keys(self, run: str) -> list[str]:
        return list(self.cluster.ask("keys", f"{OUT}/{run}/trials"))

    def _sweep_row(self, fault: str, run: str, code: int, seconds: float) -> Row:
        if code:
            return Row(verb="tune", fault=fault, outcome=f"FAILED with {code}", lost_s=seconds)
        trials = self.cluster.ask("trials", f"{OUT}/{run}")
        hosts = sorted({one["host"] for one in trials})
        resumed = [one["resumed"] for one in trials if one["resumed"]]
        outcome = f"{len(trials)} trials on {', '.join(hosts)} in {seconds:.0f} s"
        outcome += f"; went on from steps {resumed}" if resumed else ""
        return Row(verb="tune", fault=fault, outcome=outcome)

    def other_verb(self, name: str, *words: str) -> list[Row]:
        """A verb left alone, and with S3 away for 30 s; it writes to OUT/NAME."""
        rows = []
        for fault in ("none", "S3 away, 30 s"):
            where = f"{OUT}/{name}-{len(rows)}"
            verb = self.cluster.verb(
                f"{name}-{len(rows)}", name, *(word.replace("WHERE", where) for word in words)
            )
            if rows:
                time.sleep(rows[0].lost_s * 0.6 if rows[0].lost_s else 5)
                self.cut(self.cluster.store, 30)(verb)
            code, seconds = verb.end()
            outcome = "done" if code == 0 else f"FAILED with {code} ({verb.last_line()})"
            rows.append(Row(verb=name, fault=fault, outcome=outcome, lost_s=seconds))
        return rows

    def other_verbs(self) -> list[Row]:
        """Those that do not train, on the cluster; seconds are those that they took."""
        ray = f"--ray.address={self.cluster.address}"
        weights = f"{OUT}/sweep/trials/trial-000"
        images = f"{BUCKET}/raw"
        prepare = ("--source", images, "--out", "WHERE", "--num-workers", "2")
        predict = (weights, images, "--out", "WHERE", "--workers", "2", "--threads", "1", ray)
        evaluate = (weights, f"--data={BUCKET}/data", "--out", "WHERE")
        export = (weights, "--out", "/tmp/home/exported.safetensors")
        return [
            *self.other_verb("prepare", *prepare),
            *self.other_verb("predict", *predict),
            *self.other_verb("evaluate", *evaluate),
            *self.other_verb("export", *export),
        ]

    def left_behind(self) -> Row:
        """What still runs, is half-written or holds a secret once all is done."""
        time.sleep(5)
        lines = [line for n in range(3) for line in self.cluster.machines.processes(n)]
        left = [line for line in lines if "itpn_ray" in line or "RayTrain" in line]
        keys = self.cluster.ask("secrets", BUCKET)
        return Row(verb="all", fault="afterwards", outcome=f"running: {left}; secrets: {keys}")


ROWS = (
    "left_alone", "worker_cut_10", "worker_cut_100", "worker_lost", "worker_cut_for_good",
    "driver_cut_10", "driver_cut_100", "store_away", "store_slow", "disk_full", "bad_network",
    "two_drivers", "clock_off", "sweep", "sweep_worker_lost", "other_verbs", "head_lost",
    "sweep_head_lost", "left_behind",
)  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=ROWS, choices=ROWS, help="rows to measure")
    parser.add_argument("--logs", default="", help="folder for logs of all machines")
    options = parser.parse_args()
    if lacking := missing():
        sys.exit(lacking)
    # Otherwise its machines, and what runs on them, would outlive it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    logs = Path(options.logs or tempfile.mkdtemp(prefix="hosts-"))
    logs.mkdir(parents=True, exist_ok=True)
    print(f"logs: {logs}")
    print(
        "| verb | fault | outcome | seconds lost | same bits |\n|---|---|---|---|---|", flush=True
    )
    with Cluster(3, logs) as cluster:
        bench = Bench(cluster)
        for name in options.only:
            try:
                found = getattr(bench, name)()
            except (AssertionError, subprocess.TimeoutExpired) as error:
                found = Row(verb="", fault=name, outcome=f"FAILED: {str(error)[-300:]!r}")
                cluster.renew()
            for row in found if isinstance(found, list) else [found]:
                print(row, flush=True)


if __name__ == "__main__":
    main()
