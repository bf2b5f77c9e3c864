"""How fast the networks of a table are: those of its first seed, timed in turn."""

from __future__ import annotations

from pathlib import Path

import torch

from itpn_ray.data.store.shards import open_dataset
from itpn_ray.evaluation.speed import Speed
from itpn_ray.reproduction.plan import PlannedCell
from itpn_ray.runs.folder import EXPORT
from itpn_ray.tasks.registry import task_of_file
from itpn_ray.tasks.trained import EvaluationPlace
from itpn_ray.training.claim import run_folder
from itpn_ray.training.devices import use_gpu
from itpn_ray.training.launch.context import TrainContext


def speeds(cells: list[PlannedCell], folder: Path) -> list[Speed]:
    """Images a second of each cell's last network, its weights exported, by the first seed.

    All are of one task, and their data the same; they run in turn, so that what else the machine
    does meets all of them.

    Raises:
        CheckpointError: weights cannot be read.
    """
    first = cells[0].runs[0][-1].config
    worker = TrainContext.alone(gpu=use_gpu("gpus", first.gpus), threads=int(first.cpus_per_worker))
    dataset = open_dataset(first.data, "val")
    place = EvaluationPlace(
        dataset=dataset,
        device=worker.device,
        reduce=worker.reduce,
        autocast=worker.autocast,
        batch=0,
        folder=folder,
    )
    files = [str(run_folder(one.runs[0][-1].config) / EXPORT) for one in cells]
    task = task_of_file(files[0])
    networks = {
        float(number): task.load(file)[0].to(worker.device) for number, file in enumerate(files)
    }
    evaluator = task.evaluator(networks[0.0], list(dataset.classes), place)
    with torch.no_grad(), place.autocast():
        found = evaluator.speeds(networks)
    return [found[float(number)] for number in range(len(files))]
