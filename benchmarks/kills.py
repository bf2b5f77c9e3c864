"""What kill -9 costs a run: of a worker, of the driver, of the raylet.

    python benchmarks/kills.py

Each run is disturbed once, at a random step, every third worker while a checkpoint is written, and
must end with the weights, averages and moments of the run left alone, bit by bit. Takes about
15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.drawn import prepared_pictures  # noqa: E402
from itpn_ray.experiment import from_dict  # noqa: E402
from itpn_ray.ray_config import RayConfig  # noqa: E402
from itpn_ray.ray_env import start_ray  # noqa: E402
from itpn_ray.training.folder import CONFIG  # noqa: E402
from itpn_ray.training.journal import EVENTS, METRICS, read_lines  # noqa: E402
from itpn_ray.training.state import state_digest  # noqa: E402
from itpn_ray.training.verify import Killer, run_short  # noqa: E402
from itpn_ray.training.work import open_store  # noqa: E402

STEPS_AN_EPOCH, EPOCHS, SAVE_EVERY = 16, 3, 4
PATIENCE_S = 180.0


def command(data: Path, out: Path, run: str) -> list[str]:
    """A pre-training of 48 steps by two workers."""
    return [
        sys.executable, "-m", "itpn_ray.cli", "pretrain", "nano",
        f"--data={data}", f"--out={out}", f"--run={run}", "--workers=2",
        f"--optim.epochs={EPOCHS}", "--optim.warmup-epochs=0", "--optim.global-batch=32",
        "--model.image-size=64", "--loader.threads=1", "--eval-every=-1", "--log-every=1",
        f"--checkpoint.every-steps={SAVE_EVERY}", "--tracking.kind=none",
        "--ray.health-check-interval-s=0.2",
    ]  # fmt: skip


def train(arguments: list[str]) -> None:
    """Run a verb to its end."""
    subprocess.run(arguments, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def digest(run: Path) -> str:
    """SHA-256 of a run's final weights, averages and moments."""
    plain = json.loads((run / CONFIG).read_text())
    plain.pop("command")
    checkpoint = open_store(from_dict(plain)).latest_good()
    assert checkpoint is not None, f"{run} has saved nothing"
    return state_digest(checkpoint.load("network", "optimizer"))


def kill_workers(whole: Path, count: int, expected: str) -> None:
    """Kill one worker of each of ``count`` runs in a Ray that lives on."""
    plain = json.loads((whole / CONFIG).read_text())
    plain.pop("command")
    equal, lost, restarts = 0, [], []
    with start_ray(RayConfig(health_check_interval_s=0.2)):
        for number in range(count):
            config = from_dict({**plain, "run": f"worker-{number}"})
            killer = Killer(config, 1, seed=number, during_save=number % 3 == 2)
            equal += run_short(config, killer) == expected
            assert len(killer.kills) == 1, "the run ended before its worker was killed"
            steps = [record["step"] for record in killer.seen]
            lost.append(len(steps) - len(set(steps)))
            restarts += killer.restarts()
            print(f"  worker {number}: at {killer.kills[0]}, lost {lost[-1]} steps", flush=True)
    tell("worker", equal, count, lost)
    print(f"{'':8} kill to next step: median {statistics.median(restarts):.1f} s", flush=True)


def kill_process(
    kind: str, find: Callable[[psutil.Process], psutil.Process], data: Path, out: Path,
    count: int, expected: str,
) -> None:  # fmt: skip
    """Kill a process of the run's own Ray, wait for the rest to go, repeat the command."""
    chooser, equal, lost = random.Random(kind), 0, []
    for number in range(count):
        run = out / f"{kind}-{number}"
        arguments = command(data, out, run.name)
        at = chooser.randrange(1, STEPS_AN_EPOCH * EPOCHS)
        driver = subprocess.Popen(
            arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        done = wait_for_step(run, at, driver)
        find(psutil.Process(driver.pid)).kill()
        try:
            code = driver.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            driver.kill()
            raise SystemExit(f"{kind} {number}: the driver did not end") from None
        assert code != 0, f"{kind} {number}: nobody noticed"
        train(arguments)
        resumed = [e["step"] for e in read_lines(run / EVENTS) if e["event"] == "resume"]
        lost.append(done - resumed[-1] if resumed else done)
        equal += digest(run) == expected
        print(f"  {kind} {number}: at step {done}, exit code {code}, lost {lost[-1]}", flush=True)
    tell(kind, equal, count, lost)


def wait_for_step(run: Path, step: int, driver: subprocess.Popen[bytes]) -> int:
    """Wait until a step is recorded; the newest one."""
    while driver.poll() is None:
        records = read_lines(run / METRICS)
        if records and records[-1]["step"] >= step:
            return int(records[-1]["step"])
        time.sleep(0.01)
    raise SystemExit(f"{run} ended before step {step}")


def raylet_of(driver: psutil.Process) -> psutil.Process:
    """The raylet of a driver's private Ray."""
    return next(p for p in driver.children(recursive=True) if p.name() == "raylet")


def tell(kind: str, equal: int, count: int, lost: list[int]) -> None:
    """One row of the table."""
    print(
        f"{kind:8} killed {count} times: {equal}/{count} bit-equal, lost steps "
        f"median {statistics.median(lost):g}, most {max(lost)} (saved every {SAVE_EVERY})",
        flush=True,
    )


def main() -> None:
    """Play all kinds in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=20, help="runs that lose a worker")
    parser.add_argument("--drivers", type=int, default=5, help="runs that lose their driver")
    parser.add_argument("--raylets", type=int, default=5, help="runs that lose their raylet")
    parser.add_argument("--quick", action="store_true", help="one run of each kind")
    asked = parser.parse_args()
    if asked.quick:
        asked.workers = asked.drivers = asked.raylets = 1
    with tempfile.TemporaryDirectory() as folder:
        data = prepared_pictures(Path(folder), 32 * STEPS_AN_EPOCH)
        out = Path(folder) / "out"
        train(command(data, out, "whole"))
        expected = digest(out / "whole")
        print(f"left alone: {expected}", flush=True)
        kill_workers(out / "whole", asked.workers, expected)
        kill_process("driver", lambda driver: driver, data, out, asked.drivers, expected)
        kill_process("raylet", raylet_of, data, out, asked.raylets, expected)


if __name__ == "__main__":
    main()
