"""A step that is not finite leaves every parameter, buffer and moment as it was, in every task."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from itpn_ray.experiment import CheckpointConfig, ExperimentConfig
from itpn_ray.runs.journal import EVENTS, read_lines
from itpn_ray.tasks.base import Task
from itpn_ray.tasks.classification.task import ClassificationTask
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.clip_pretraining.task import ClipPretrainingTask
from itpn_ray.tasks.detection.task import DetectionTask
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask
from itpn_ray.training.checkpoint.state_files import state_digest
from itpn_ray.training.claim import run_folder
from itpn_ray.training.launch.process import open_checkpoints
from tests.pretrain.clip_net import make_clip
from tests.tasks.detection_runs import detection
from tests.training.group import poison, train_in_group
from tests.training.runs import classification, tiny, train_alone

SICK = 2
"""Number of the step that goes wrong, from 1."""


def three_steps(config: ExperimentConfig) -> ExperimentConfig:
    """Three of the four steps of an epoch, each with its checkpoint, without evaluation.

    On a CPU every task has deterministic algorithms.
    """
    return dataclasses.replace(
        config,
        deterministic=True,
        optim=dataclasses.replace(config.optim, epochs=0.75, warmup_steps=0),
        checkpoint=CheckpointConfig(every_steps=1, keep_last=3),
        eval_every=-1,
    )


def clip(prepared: str, out: Path) -> ExperimentConfig:
    out.mkdir(parents=True, exist_ok=True)
    torch.save(make_clip(32).state_dict(), out / "clip.pt")
    task = ClipPretraining(
        teacher=str(out / "clip.pt"), teacher_model="clip_nano", pyramid_width=16, smallest_block=1
    )
    return tiny(prepared, out, task=task)


def expect_a_step_without_traces(config: ExperimentConfig) -> None:
    """Bit for bit the state before and after the sick step; the steps around it learn."""
    events = read_lines(run_folder(config) / EVENTS)
    assert {event["step"] for event in events if event["event"] == "skip"} == {SICK - 1}
    store = open_checkpoints(config)
    before, sick, after = (store.load(step).load() for step in (SICK - 1, SICK, SICK + 1))
    for state in (before, sick, after):
        assert all(torch.isfinite(t).all() for t in state["network"].values())
    assert digests(sick) == digests(before)
    assert all(a != b for a, b in zip(digests(after), digests(sick), strict=True))


def digests(state: dict[str, Any]) -> tuple[str, str]:
    """Of parameters, averages and buffers; and of the optimiser's moments and counters."""
    network: dict[str, Tensor] = state["network"]
    return state_digest(network), state_digest({"moments": state["optimizer"]["state"]})


@pytest.mark.parametrize(
    ("kind", "make", "data"),
    [
        (PixelPretrainingTask, tiny, "prepared"),
        (ClipPretrainingTask, clip, "prepared"),
        (ClassificationTask, classification, "prepared"),
        *(
            (DetectionTask, functools.partial(detection, head=head), "scenes")
            for head in ("mask_rcnn", "cascade_mask_rcnn", "dino")
        ),
    ],
    ids=["pixel", "clip", "classification", "mask_rcnn", "cascade_mask_rcnn", "dino"],
)
def test_alone(
    kind: type[Task],
    make: Callable[..., ExperimentConfig],
    data: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = three_steps(make(request.getfixturevalue(data), tmp_path))
    monkeypatch.setattr(kind, "prepare", kind.prepare)  # to be put back
    poison(SICK, 0, 0, kind)
    train_alone(config)
    expect_a_step_without_traces(config)


@pytest.mark.workers
@pytest.mark.parametrize("sharded", [False, True])
def test_two_workers_with_joint_batch_norms(scenes: str, tmp_path: Path, sharded: bool) -> None:
    """One worker's image goes wrong in the second of two micro-batches."""
    config = detection(scenes, tmp_path)
    optim = dataclasses.replace(config.optim, global_batch=8, micro_batch=2, epochs=3)
    config = dataclasses.replace(three_steps(config), workers="2", sharded=sharded, optim=optim)
    train_in_group(config, 2, functools.partial(poison, SICK, 1, kind=DetectionTask))
    expect_a_step_without_traces(config)
