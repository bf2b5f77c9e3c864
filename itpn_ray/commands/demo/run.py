"""The main job end to end: images, shards, pre-training, fine-tuning, sweep, detection, job."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch

from itpn_ray.commands.demo import recipes
from itpn_ray.commands.demo.config import DemoConfig
from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.loading.crop_loader import EvalLoader
from itpn_ray.data.photographs import unpack_photographs
from itpn_ray.data.prepare.config import PrepareConfig, SynthesizeConfig
from itpn_ray.data.prepare.driver import prepare
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.data.synthetic.layouts import generate
from itpn_ray.errors import RunError
from itpn_ray.evaluation.probe import pixel_probe
from itpn_ray.ray_runtime.config import RayConfig
from itpn_ray.ray_runtime.start import dashboard_address, start_ray
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
SCENE_SIDE = 160
"""Mean side of the images in which a detector looks for things, pixels."""
SCENES_HELD_OUT = 24


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
    data, scenes = _photographs(folder, console), _scenes(config, folder, console)
    # Slots for the trials of the sweep, see itpn_ray.tuning.sweep.with_slots.
    slots = RayConfig(dashboard=True, num_cpus=config.trials + 4)
    with start_ray(slots, verbose=console.verbosity == "verbose"):
        before = train(recipes.pretraining(config, folder, data), command="demo", console=console)
        weights = str(before / EXPORT)
        tuned = _finetuned(config, folder, data, weights, console)
        scratch = _finetuned(config, folder, data, "", console)
        swept = sweep(
            recipes.tuning(config, folder, data, weights), command="demo", console=console
        )
        detected = train(
            recipes.detection(config, folder, scenes, weights), command="demo", console=console
        )
        job = _job(folder, data, tuned[0], console)
    runs = [before, tuned[0], scratch[0], swept, detected, job]
    journal.result(
        stages=[
            {"folder": "data", "name": "Photographs"},
            {"folder": "scenes", "name": "Drawn scenes"},
            *(str(path.relative_to(folder)) for path in runs),
        ],
        **_told(data, before, tuned, scratch, swept, detected, console),
        seconds=round(time.time() - begin, 1),
    )


def _photographs(folder: Path, console: Console) -> str:
    """The embedded photographs, prepared."""
    source = unpack_photographs(folder / "photographs")
    return _prepared(source, folder / "data", "preparing photographs", console)


def _scenes(config: DemoConfig, folder: Path, console: Console) -> str:
    """Drawn images of several things, for the detector, prepared."""
    source = SynthesizeConfig(
        out=str(folder / "images"),
        layout="coco",
        train=config.scenes,
        val=SCENES_HELD_OUT,
        side=SCENE_SIDE,
    )
    with progress_bar(console, "drawing scenes") as count:
        generate(source, count)
    return _prepared(folder / "images", folder / "scenes", "preparing scenes", console)


def _prepared(source: Path, shards: Path, title: str, console: Console) -> str:
    with progress_bar(console, title) as count:
        prepare(
            PrepareConfig(source=str(source), out=str(shards), num_workers=0),
            lambda now: count(now.images, now.total_images),
        )
    return str(shards)


def _finetuned(
    config: DemoConfig, folder: Path, data: str, init: str, console: Console
) -> list[Path]:
    """The folders of the fine-tunings that differ by their seed alone."""
    return [
        train(
            recipes.finetuning(config, folder, data, init=init, seed=seed),
            command="demo",
            console=console,
        )
        for seed in range(config.seeds)
    ]


def _told(
    data: str,
    before: Path,
    tuned: list[Path],
    scratch: list[Path],
    swept: Path,
    detected: Path,
    console: Console,
) -> dict[str, object]:
    """Say what came out; the metrics side by side, for the report."""
    chance = 1 / len(open_dataset(data, "val").classes)
    rows = [
        ("linear probe on pixels", [_probe(data)]),
        ("nearest neighbours, pre-trained", [float(_results(before)["knn_top1"])]),
        ("fine-tuned from random weights", _top1(scratch)),
        ("fine-tuned from pre-trained weights", _top1(tuned)),
    ]
    for name, values in rows:
        console.say(f"{name}: {_shown(values)} (chance {100 * chance:.0f} %)")
    console.say(f"sweep: {_results(swept)['answer']}")
    console.say(f"detection: boxes are drawn in {detected / REPORT}")
    return {
        "comparison": [
            {"name": f"{name}: {_shown(values)}", "top1": fmean(values)} for name, values in rows
        ]
    }


def _top1(runs: list[Path]) -> list[float]:
    return [float(_results(run)["top1"]) for run in runs]


def _shown(values: list[float]) -> str:
    """Values of several seeds as their mean and standard deviation."""
    if len(values) < 2:
        return f"{100 * values[0]:.1f} %"
    return f"{100 * fmean(values):.1f} ± {100 * stdev(values):.1f} % ({len(values)} seeds)"


def _results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / RESULTS).read_text())


def _job(folder: Path, data: str, weights: Path, console: Console) -> Path:
    """Evaluate a fine-tuned network at every r, as a job on the Ray that the demo runs on."""
    address = dashboard_address()
    console.say(f"submitting an evaluation as a job to {address}")
    ratios = [f"{ratio:g}" for ratio in recipes.RATIOS]
    verb = ["evaluate", str(weights), "--data", data, "--out", str(folder), "--run", "job"]
    verb += ["--migration", *ratios]
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
