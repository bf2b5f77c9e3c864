"""The main job end to end: images, shards, pre-training, fine-tuning, evaluation, sweep, job."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

import torch

from itpn_ray.commands.demo.config import DemoConfig
from itpn_ray.commands.evaluate.config import EvaluateConfig
from itpn_ray.commands.evaluate.run import evaluate
from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.loading.crop_loader import EvalLoader
from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.synthetic.layouts import generate
from itpn_ray.errors import RunError
from itpn_ray.evaluation.probe import pixel_probe
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import dashboard_address, start_ray
from itpn_ray.recipes import finetune, pretrain, tune
from itpn_ray.report import REPORT
from itpn_ray.runs.folder import EXPORT, folder_of
from itpn_ray.runs.journal import RESULTS, FileJournal
from itpn_ray.terminal.console import Console
from itpn_ray.terminal.item_progress import progress_bar
from itpn_ray.tracking import NoopTracker
from itpn_ray.training.ending import recorded_end
from itpn_ray.training.launch.driver import run as train
from itpn_ray.tuning.sweep import sweep
from jobs.config import SubmitConfig
from jobs.submit import submit

PROBE_SIDE = 16
"""Side to which images are shrunk for the linear probe on raw pixels."""
PROBE_BATCH = 256
CPUS = 2.0
"""Compute threads of the runs that have the machine to themselves."""


def demo(config: DemoConfig, *, console: Console) -> Path:
    """Run every stage; what an earlier call has finished is not done again.

    Returns:
        The demo's folder; its report.html leads to those of the stages.

    Raises:
        ItpnError: a stage failed.
    """
    folder = folder_of(config.out, "demo")
    journal = FileJournal(folder)
    journal.event("start")
    with recorded_end(journal, folder, NoopTracker(), console):
        _stages(config, folder, journal, console)
    if (folder / REPORT).exists():
        console.say(f"the report of the whole demo: {folder / REPORT}")
    return folder


def _stages(config: DemoConfig, folder: Path, journal: FileJournal, console: Console) -> None:
    begin = time.time()
    data = _data(config, folder, console)
    # Slots for the trials of the sweep, see itpn_ray.tuning.sweep.with_slots.
    slots = RayConfig(dashboard=True, num_cpus=config.trials + 4)
    with start_ray(slots, verbose=console.verbosity == "verbose"):
        first = train(_pretraining(config, folder, data), command="demo", console=console)
        second = train(
            _finetuning(config, folder, data, str(first / EXPORT)), command="demo", console=console
        )
        third = evaluate(
            EvaluateConfig(
                weights=str(second), data=data, migration=(0.0, 0.2, 0.4), out=str(folder)
            ),
            command="demo",
            console=console,
        )
        fourth = sweep(
            dataclasses.replace(tune.nano(), trials=config.trials, data=data, out=str(folder)),
            command="demo",
            console=console,
        )
        fifth = _job(folder, data, second, console)
    probe = _probe(data)
    tuned = json.loads((second / RESULTS).read_text())["top1"]
    journal.result(
        stages=[
            {"folder": "data", "name": "Images"},
            *(str(path.relative_to(folder)) for path in (first, second, third, fourth, fifth)),
        ],
        comparison=[
            {"name": "linear probe on pixels", "top1": probe},
            {"name": "fine-tuned", "top1": tuned},
        ],
        seconds=round(time.time() - begin, 1),
    )
    console.say(f"fine-tuned {tuned:.1%}, a linear probe on raw pixels {probe:.1%}")


def _data(config: DemoConfig, folder: Path, console: Console) -> str:
    images, shards = folder / "images", folder / "data"
    with progress_bar(console, "drawing images") as count:
        generate(SynthesizeConfig(out=str(images), train=config.train, val=config.val), count)
    with progress_bar(console, "preparing images") as count:
        prepare(
            PrepareConfig(source=str(images), out=str(shards), num_workers=0),
            lambda now: count(now.images, now.total_images),
        )
    return str(shards)


def _pretraining(config: DemoConfig, folder: Path, data: str) -> ExperimentConfig:
    recipe = pretrain.nano()
    return dataclasses.replace(
        recipe,
        cpus_per_worker=CPUS,
        data=data,
        out=str(folder),
        optim=dataclasses.replace(recipe.optim, epochs=config.pretrain_epochs),
    )


def _finetuning(config: DemoConfig, folder: Path, data: str, init: str) -> ExperimentConfig:
    recipe = finetune.nano()
    return dataclasses.replace(
        recipe,
        cpus_per_worker=CPUS,
        data=data,
        out=str(folder),
        model=dataclasses.replace(recipe.model, init=init),
        optim=dataclasses.replace(recipe.optim, epochs=config.finetune_epochs),
    )


def _job(folder: Path, data: str, weights: Path, console: Console) -> Path:
    """Evaluate once more, as a job on the Ray that the demo runs on."""
    address = dashboard_address()
    console.say(f"submitting an evaluation as a job to {address}")
    verb = ["evaluate", str(weights), "--data", data, "--out", str(folder), "--run", "job"]
    code = submit(SubmitConfig(address=address, python=sys.executable), verb)
    if code:
        raise RunError("job", code, "ended with this exit code", "Read its log above")
    return folder / "job"


def _probe(data: str) -> float:
    """Accuracy of a linear probe on raw pixels, the floor that fine-tuning must clear."""
    return pixel_probe(*_pixels(data, "train"), *_pixels(data, "val"))


def _pixels(data: str, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (N, 3, S, S) uint8 and labels (N,) int64 of a split."""
    loader = EvalLoader(
        open_dataset(data, split),
        LoaderConfig(transport="threads"),
        image_size=PROBE_SIDE,
        batch=PROBE_BATCH,
        crop=1.0,
    )
    batches = list(loader)
    return (
        torch.cat([batch["image"] for batch in batches]),
        torch.cat([batch["label"] for batch in batches]),
    )
