"""What kill -9 costs a run: of a worker, of the driver, of the raylet.

    python benchmarks/kills.py

Each run is disturbed several times at random steps, in every second run while a checkpoint is
being written, and must end with the weights, averages and moments of the run left alone, bit by
bit. Takes about 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.drawn import prepared_images  # noqa: E402
from itpn_ray.commands.verify_resume.run import Killer, run_short  # noqa: E402
from itpn_ray.experiment import from_dict  # noqa: E402
from itpn_ray.ray_runtime.config import RayConfig  # noqa: E402
from itpn_ray.ray_runtime.start import start_ray  # noqa: E402
from itpn_ray.runs.folder import CONFIG  # noqa: E402
from itpn_ray.runs.journal import EVENTS, METRICS, read_lines  # noqa: E402
from itpn_ray.training.checkpoint.state_files import state_digest  # noqa: E402
from itpn_ray.training.launch.process import open_checkpoints  # noqa: E402

STEPS_AN_EPOCH, EPOCHS, SAVE_EVERY = 16, 4, 4
EACH = 5
"""Kills a run."""
OUTLIVED = 20
"""Steps before the end in which drivers are killed alone: a raylet's workers outlive it by some."""
PATIENCE_S = 180.0


def command(data: Path, out: Path, run: str) -> list[str]:
    """A pre-training of 64 steps by two workers."""
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
    checkpoint = open_checkpoints(from_dict(plain)).latest_good()
    assert checkpoint is not None, f"{run} has saved nothing"
    return state_digest(checkpoint.load("network", "optimizer"))


def kill_workers(whole: Path, count: int, expected: str) -> None:
    """Kill ``count`` workers, some in each of several runs, in a Ray that lives on."""
    plain = json.loads((whole / CONFIG).read_text())
    plain.pop("command")
    equal, lost, restarts = [], [], []
    with start_ray(RayConfig(health_check_interval_s=0.2)):
        for number in range(math.ceil(count / EACH)):
            kills = min(EACH, count - number * EACH)
            config = from_dict({**plain, "run": f"worker-{number}"})
            config = dataclasses.replace(config, max_failures=kills + 1)
            saving = number % 2 == 1
            killer = Killer(config, kills, seed=number, during_save=saving)
            equal.append(run_short(config, killer) == expected)
            assert len(killer.kills) == kills, "the run ended before its workers were killed"
            lost += repeated(Path(config.out) / config.run, killer.records)
            restarts += killer.restarts()
            when = "while saving" if saving else "at any time"
            print(f"  run {number}: {when}, (step, rank) {killer.kills}", flush=True)
    tell("worker", count, equal, lost)
    print(f"{'':8} kill to next step: median {statistics.median(restarts):.1f} s", flush=True)


def repeated(run: Path, seen: list[dict[str, Any]]) -> list[int]:
    """Steps that each resume of a run did again, from all records that were seen of it."""
    lost, before = [], 0.0
    for event in read_lines(run / EVENTS):
        if event["event"] == "resume":
            done = [r["step"] for r in seen if before < r["time"] < event["time"]]
            lost.append(max([event["step"], *done]) - event["step"])
            before = event["time"]
    return lost


def kill_drivers(data: Path, out: Path, count: int, expected: str) -> None:
    """Kill the driver and the raylet of its own Ray in turn, and repeat the command each time."""
    chooser = random.Random(0)
    equal, lost = [], []
    last = STEPS_AN_EPOCH * EPOCHS
    while len(lost) < count:
        number, kills = len(equal), min(EACH, count - len(lost))
        run = out / f"driver-{number}"
        arguments = command(data, out, run.name)
        for turn, at in enumerate(sorted(chooser.sample(range(1, last - SAVE_EVERY), kills))):
            driver = subprocess.Popen(
                arguments, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            this = psutil.Process(driver.pid)
            raylet = wait_for_raylet(driver)  # what the killed one left behind is gone by then
            done = wait_for_step(run, at, driver, time.time())
            if done is None:
                break
            of_raylet = turn % 2 == 1 and at < last - OUTLIVED
            kind, victim = ("raylet", raylet) if of_raylet else ("driver", this)
            victim.kill()
            try:
                code = driver.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                driver.kill()
                raise SystemExit(f"the driver did not end after its {kind} was killed") from None
            assert code != 0, f"nobody noticed that the {kind} was killed"
            lost.append(max(0, done - newest_checkpoint(run)))
            print(f"  run {number}: {kind} at step {done}, exit code {code}", flush=True)
        train(arguments)
        equal.append(digest(run) == expected)
    tell("driver or raylet", count, equal, lost)


def newest_checkpoint(run: Path) -> int:
    """Its step; 0 where there is none."""
    names = [path.parent.name for path in run.glob("checkpoints/step-*/manifest.json")]
    return max((int(name.removeprefix("step-")) for name in names), default=0)


def wait_for_step(
    run: Path, step: int, driver: subprocess.Popen[bytes], begin: float
) -> int | None:
    """Wait until a step is recorded that was done since ``begin``; the newest one.

    None if there was none left to do: workers outlive their driver by a few steps, and may have
    come to the end of the run.
    """
    while driver.poll() is None:
        records = read_lines(run / METRICS)
        if records and records[-1]["step"] >= step and records[-1]["time"] > begin:
            return int(records[-1]["step"])
        time.sleep(0.01)
    if driver.returncode == 0 and newest_checkpoint(run) == STEPS_AN_EPOCH * EPOCHS:
        return None
    raise SystemExit(f"{run} ended before step {step}, with code {driver.returncode}")


def wait_for_raylet(driver: subprocess.Popen[bytes]) -> psutil.Process:
    """The raylet of a driver's private Ray, once it runs."""
    this = psutil.Process(driver.pid)
    while driver.poll() is None:
        for process in this.children(recursive=True):
            if process.name() == "raylet":
                return process
        time.sleep(0.1)
    raise SystemExit("the driver ended before it started Ray")


def tell(kind: str, kills: int, equal: list[bool], lost: list[int]) -> None:
    """One row of the table."""
    print(
        f"{kind} killed {kills} times in {len(equal)} runs: {sum(equal)}/{len(equal)} runs end "
        f"bit-equal, repeated steps median {statistics.median(lost):g}, most {max(lost)} "
        f"(saved every {SAVE_EVERY})",
        flush=True,
    )


def main() -> None:
    """Play all kinds in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=20, help="workers killed")
    parser.add_argument("--drivers", type=int, default=10, help="drivers and raylets killed")
    parser.add_argument("--quick", action="store_true", help="two of each")
    asked = parser.parse_args()
    if asked.quick:
        asked.workers = asked.drivers = 2
    with tempfile.TemporaryDirectory() as folder:
        data = prepared_images(Path(folder), 32 * STEPS_AN_EPOCH)
        out = Path(folder) / "out"
        train(command(data, out, "whole"))
        expected = digest(out / "whole")
        print(f"left alone: {expected}", flush=True)
        if asked.workers:
            kill_workers(out / "whole", asked.workers, expected)
        kill_drivers(data, out, asked.drivers, expected)


if __name__ == "__main__":
    main()
