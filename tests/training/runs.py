"""Small runs for the tests of the loop."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from itpn_ray.data.config import LoaderConfig
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig
from itpn_ray.runs.journal import METRICS, FileJournal, read_lines
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tracking.config import TrackingConfig
from itpn_ray.training import loop
from itpn_ray.training.checkpoint.state_files import state_digest
from itpn_ray.training.checkpoint.writer import CheckpointStore
from itpn_ray.training.claim import run_folder
from itpn_ray.training.launch import process
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.process import open_checkpoints, work


def tiny(prepared: str, out: Path, **changes: Any) -> ExperimentConfig:
    """Eight steps of pixel pre-training at 32 px, in this process."""
    config = ExperimentConfig(
        run="run",
        out=str(out),
        data=prepared,
        workers="0",
        eval_every=0,
        log_every=1,
        model=ModelConfig(name="fast_itpn_nano", image_size=32),
        task=PixelPretraining(mask_ratio=0.5, pyramid_width=16, decoder_width=32, decoder_depth=1),
        optim=OptimConfig(global_batch=16, epochs=2, warmup_epochs=0, lr=1e-3),
        loader=LoaderConfig(transport="threads", threads=1, prefetch=32),
        checkpoint=CheckpointConfig(every_steps=3),
        tracking=TrackingConfig(kind="none"),
    )
    return dataclasses.replace(config, **changes)


def classification(prepared: str, out: Path, **changes: Any) -> ExperimentConfig:
    """Eight steps of fine-tuning at 32 px, with everything random turned on."""
    base = tiny(prepared, out)
    model = dataclasses.replace(base.model, drop_path=0.2)
    return dataclasses.replace(base, task=Classification(ema_decay=0.9), model=model, **changes)


def train_alone(config: ExperimentConfig) -> list[dict[str, Any]]:
    """Train in this process; the figures of every step and evaluation."""
    folder = run_folder(config)
    worker = TrainContext.alone(gpu=False, threads=1)
    reported: list[dict[str, float]] = []
    work(config, worker, FileJournal(folder), reported.append)
    return read_lines(folder / METRICS)


def final_digest(config: ExperimentConfig) -> str:
    """SHA-256 of weights, averages and optimiser at the newest checkpoint."""
    checkpoint = open_checkpoints(config).latest_good()
    assert checkpoint is not None
    return state_digest(checkpoint.load("network", "optimizer"))


def losses(records: list[dict[str, Any]]) -> list[float]:
    """Training loss of every step."""
    return [record["loss"] for record in records if record["split"] == "train"]


class Stop(Exception):
    """Stands for a machine that dies."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the loop die once ``step`` optimiser steps are done and the save under way has ended.

    The thread of a process that was killed ends with it; here it would go on beside the next run,
    and take that run's unfinished checkpoint for a leftover.
    """
    done = 0
    agree, opened = loop._agree, process.open_checkpoints
    stores: list[CheckpointStore] = []

    def opening(config: ExperimentConfig) -> CheckpointStore:
        stores.append(opened(config))
        return stores[-1]

    def dying(*arguments: object) -> object:
        nonlocal done
        if done == step:
            for store in stores:
                store.wait()
            raise Stop
        done += 1
        return agree(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(process, "open_checkpoints", opening)
    monkeypatch.setattr(loop, "_agree", dying)


def train_and_stop(config: ExperimentConfig, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Train, and die once ``step`` steps are done."""
    with monkeypatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(Stop):
            train_alone(config)
