"""One run by 4, then 2, then 3, then 4 workers, beside the same run by 1 and by 4 throughout.

    python benchmarks/workers.py

Prints the digest of all sample ids and masks in the order of training, which must be equal, and the
largest relative difference of the loss. Takes about two minutes on two cores.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.lib.drawn import prepared_images  # noqa: E402
from itpn_ray.data.config import LoaderConfig  # noqa: E402
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig  # noqa: E402
from itpn_ray.runs.journal import METRICS, read_lines  # noqa: E402
from itpn_ray.tasks.config import ModelConfig  # noqa: E402
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask  # noqa: E402
from itpn_ray.tracking.config import TrackingConfig  # noqa: E402
from itpn_ray.training.claim import run_folder  # noqa: E402
from tests.training.group import leave_after, train_in_group  # noqa: E402

BATCH, PER_EPOCH = 48, 16


def pretraining(data: Path, out: Path, run: str, epochs: float) -> ExperimentConfig:
    """A pixel pre-training of the nano network at 64 px."""
    return ExperimentConfig(
        data=str(data),
        out=str(out),
        run=run,
        eval_every=-1,
        log_every=1,
        model=ModelConfig(name="fast_itpn_nano", image_size=64),
        optim=OptimConfig(global_batch=BATCH, epochs=epochs, warmup_epochs=0),
        loader=LoaderConfig(transport="threads", threads=1, prefetch=64),
        checkpoint=CheckpointConfig(every_steps=10_000),
        tracking=TrackingConfig(kind="none"),
    )


def watch(trace: Path, steps: int, rank: int) -> None:
    """In a worker: write down the ids and masks of each step, and leave after ``steps`` of them."""
    leave_after(steps, rank)
    prepare = PixelPretrainingTask.prepare
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def watched(task: PixelPretrainingTask, batch: Any, epoch: int) -> Any:
        ready = prepare(task, batch, epoch)
        seen.append((ready["sample_id"].numpy(), ready["mask"].numpy()))
        np.savez(
            trace / f"rank-{rank}.npz",
            ids=np.stack([ids for ids, _ in seen]),
            masks=np.stack([masks for _, masks in seen]),
        )
        return ready

    PixelPretrainingTask.prepare = watched  # type: ignore[method-assign]


def train(config: ExperimentConfig, parts: list[tuple[int, int]]) -> tuple[str, list[float]]:
    """Train in parts of (workers, steps); digests of what was seen, and the losses."""
    digests = {"ids": hashlib.sha256(), "masks": hashlib.sha256()}
    for number, (world, steps) in enumerate(parts):
        trace = run_folder(config) / f"trace-{number}"
        trace.mkdir(parents=True)
        train_in_group(config, world, functools.partial(watch, trace, steps))
        ranks = [np.load(trace / f"rank-{rank}.npz") for rank in range(world)]
        for name, digest in digests.items():
            whole = np.concatenate([rank[name] for rank in ranks], axis=1)  # (steps, B, ...)
            assert whole.shape[:2] == (steps, BATCH), f"{world} workers: {whole.shape}"
            for step in whole:
                digest.update(np.ascontiguousarray(step).tobytes())
    seen = " ".join(f"{name} {digest.hexdigest()[:16]}" for name, digest in digests.items())
    return seen, [r["loss"] for r in read_lines(run_folder(config) / METRICS)]


def main() -> None:
    """Train three times in a folder that is removed afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="half the steps")
    each = 6 if parser.parse_args().quick else 12
    runs = {
        "1 throughout": [(1, 4 * each)],
        "4 throughout": [(4, 4 * each)],
        "4, 2, 3, 4": [(workers, each) for workers in (4, 2, 3, 4)],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = prepared_images(folder, BATCH * PER_EPOCH)
        found = {}
        for number, (workers, parts) in enumerate(runs.items()):
            config = pretraining(data, folder / "out", f"run-{number}", 4 * each / PER_EPOCH)
            found[workers] = train(config, parts)
    _, base = found["1 throughout"]
    for workers, (seen, losses) in found.items():
        assert len(losses) == 4 * each
        apart = max(abs(a / b - 1) for a, b in zip(losses, base, strict=True))
        print(f"workers {workers:13} {seen}  loss within {apart:.1e}")
    if len({seen for seen, _ in found.values()}) > 1:
        raise SystemExit("the samples or masks differ")


if __name__ == "__main__":
    main()
