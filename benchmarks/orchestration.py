"""What Ray Train adds to the training loop: torchrun and Ray, the same configuration, in turns.

    python benchmarks/orchestration.py

Prints steps/s of each with one and two workers, what starting and saving take, and the seconds from
a killed worker to the next step, beside those of a Ray Train program that does nothing. Takes about
eight minutes on two cores.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.drawn import prepared_images  # noqa: E402
from itpn_ray.commands.chaos.faults import kill  # noqa: E402
from itpn_ray.commands.verify_resume.run import Killer, run_short  # noqa: E402
from itpn_ray.data.config import LoaderConfig  # noqa: E402
from itpn_ray.experiment import (  # noqa: E402
    CheckpointConfig,
    ExperimentConfig,
    to_dict,
)
from itpn_ray.ray_runtime.config import RayConfig  # noqa: E402
from itpn_ray.ray_runtime.start import start_ray  # noqa: E402
from itpn_ray.recipes import pretrain  # noqa: E402
from itpn_ray.runs.journal import EVENTS, METRICS, FileJournal, read_lines  # noqa: E402
from itpn_ray.tracking.config import TrackingConfig  # noqa: E402
from itpn_ray.training.claim import run_folder  # noqa: E402

BATCH, PER_EPOCH, LOG_EVERY = 64, 24, 4
BEATS = 200
"""Of the Ray Train program that does nothing, 50 ms each."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one run: seconds until the first step is done, steps/s afterwards, ms a save pauses."""

    start_s: float
    steps_per_s: float
    save_ms: float


def pretraining(data: Path, out: Path, workers: int, epochs: float) -> ExperimentConfig:
    """The nano recipe at 64 px, saved twice an epoch."""
    recipe = pretrain.nano()
    return dataclasses.replace(
        recipe,
        run="run",
        data=str(data),
        out=str(out),
        workers=str(workers),
        cpus_per_worker=1.0,
        eval_every=-1,
        log_every=LOG_EVERY,
        optim=dataclasses.replace(recipe.optim, global_batch=BATCH, epochs=epochs, warmup_epochs=0),
        loader=LoaderConfig(transport="threads", threads=1),
        checkpoint=CheckpointConfig(every_steps=PER_EPOCH // 2),
        tracking=TrackingConfig(kind="none"),
    )


def under_torchrun(config: ExperimentConfig, folder: Path) -> None:
    """Train with ``python -m torch.distributed.run``."""
    path = folder / "config.json"
    path.write_text(json.dumps(to_dict(config)))
    subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            f"--nproc-per-node={config.workers}",
            str(ROOT / "benchmarks/lib/torchrun_worker.py"), str(path),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip


def under_ray(config: ExperimentConfig, folder: Path) -> None:
    """Train with Ray Train, in the Ray that this process has started."""
    from itpn_ray.training.launch.ray_trainer import launch

    launch(config, folder)


def measure(config: ExperimentConfig, how: Callable[[ExperimentConfig, Path], None]) -> Cost:
    """Train once in an empty folder."""
    folder = run_folder(config)
    shutil.rmtree(folder, ignore_errors=True)
    FileJournal(folder)
    begin = time.time()
    how(config, folder)
    times = [r["time"] for r in read_lines(folder / METRICS) if r["split"] == "train"]
    saves = [e["seconds"] for e in read_lines(folder / EVENTS) if e["event"] == "checkpoint"]
    return Cost(
        start_s=times[0] - begin,  # with the first LOG_EVERY steps
        steps_per_s=LOG_EVERY * (len(times) - 1) / (times[-1] - times[0]),
        save_ms=1000 * statistics.median(saves),
    )


def compare(data: Path, out: Path, counts: list[int], repeats: int, epochs: float) -> None:
    """The table of both launchers, in turns."""
    print(f"{'':22} {'start s':>8} {'steps/s':>8} {'save ms':>8}")
    for workers in counts:
        config = pretraining(data, out, workers, epochs)
        costs: dict[str, list[Cost]] = {"torchrun": [], "Ray Train": []}
        for _ in range(repeats):
            costs["torchrun"].append(measure(config, under_torchrun))
            costs["Ray Train"].append(measure(config, under_ray))
        for name, found in costs.items():
            start, rate, save = (
                statistics.median(getattr(cost, field.name) for cost in found)
                for field in dataclasses.fields(Cost)
            )
            print(f"{name:10} {workers} worker(s) {start:8.1f} {rate:8.2f} {save:8.1f}", flush=True)
        ratios = [
            ray.steps_per_s / plain.steps_per_s
            for plain, ray in zip(costs["torchrun"], costs["Ray Train"], strict=True)
        ]
        told = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"{'':10} steps/s, Ray : torchrun  {statistics.median(ratios):.3f}  ({told})")


def restart_of_ours(data: Path, out: Path, number: int) -> float:
    """Seconds from a killed worker to the next step of a run by two workers."""
    config = dataclasses.replace(pretraining(data, out, 2, 2), run=f"killed-{number}")
    killer = Killer(config, 1, seed=number)
    run_short(config, killer)
    return killer.restarts()[0]


def restart_of_ray(folder: Path) -> float:
    """The same of a Ray Train program whose workers only write down that they live."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    beats = folder / "beats"
    beats.unlink(missing_ok=True)
    moment: list[float] = []

    def strike() -> None:
        while len(lines := _beats(beats)) < BEATS // 10:
            time.sleep(0.02)
        moment.append(time.time())
        kill(int(lines[-1][1]))

    threading.Thread(target=strike, daemon=True).start()
    TorchTrainer(
        _beat,
        train_loop_config={"path": str(beats)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            name=f"beats-{time.time():.0f}",
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=1),
        ),
    ).fit()
    return min(t for t, _ in _beats(beats) if t > moment[0] + 1.0) - moment[0]


def _beats(path: Path) -> list[tuple[float, int]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [(float(a), int(b)) for a, b in (line.split() for line in lines)]


def _beat(config: dict[str, Any]) -> None:
    import ray.train

    if ray.train.get_context().get_world_rank() != 0:
        time.sleep(BEATS * 0.05)
        return
    for _ in range(BEATS):
        with Path(config["path"]).open("a") as file:
            file.write(f"{time.time()} {os.getpid()}\n")
        time.sleep(0.05)


def main() -> None:
    """Measure in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=float, default=12.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="one short run of each")
    asked = parser.parse_args()
    if asked.quick:
        asked.repeats, asked.epochs = 1, 1.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = prepared_images(folder, BATCH * PER_EPOCH)
        with start_ray():
            compare(data, folder / "out", asked.workers, asked.repeats, asked.epochs)
        ours, rays = [], []
        with start_ray(RayConfig(health_check_interval_s=0.2)):
            for number in range(asked.repeats):
                ours.append(restart_of_ours(data, folder / "out", number))
                rays.append(restart_of_ray(folder))
        print(f"killed worker to next step: ours {statistics.median(ours):.1f} s", end="")
        print(f", a Ray Train program that does nothing {statistics.median(rays):.1f} s")


if __name__ == "__main__":
    main()
