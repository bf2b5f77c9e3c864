"""The walks that docs/explanation/architecture.md writes down are those that the code takes."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from types import FrameType

import pytest
import torch

from itpn_ray.cli import run
from itpn_ray.data.loading import region_decoder
from itpn_ray.data.transforms.on_device import prefetch
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.training.launch import driver
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.setup import make_task, open_splits, share_of
from tests.training.runs import classification
from tests.walks import Walk, checked, following, following_new_threads

RATIO = 0.37
"""A migration ratio that no other setting has."""


def test_an_image_from_bytes_to_loss(prepared: str, tmp_path: Path) -> None:
    config = classification(prepared, tmp_path)
    train, _ = open_splits(config)
    task, worker = make_task(config, train.classes), TrainContext.alone(gpu=False, threads=1)
    network = task.build().train()
    share = share_of(config, worker)
    with closing(task.train_loader(train, share)) as first:  # opens shards, imports the decoder
        next(iter(first.epoch(0)))
    loader = task.train_loader(train, share)
    batches = prefetch(loader.epoch(0), worker.device)
    main, decoder = Walk(), Walk()
    with following_new_threads(decoder):
        next(batches)  # the first one starts the thread
    with following(main):
        batch = task.prepare(next(batches), 0)
        loss = network(task.cut(batch, 0, len(batch["sample_id"])))["loss"]
    batches.close()
    loader.close()
    assert loss.isfinite()
    if region_decoder.installed():  # elsewhere images are decoded whole, in the file before it
        checked(decoder, "From bytes to pixels, on a decoding thread")
    checked(main, "From a batch to its loss, on the main thread")


def test_the_migration_ratio_from_the_command_line_to_the_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def build_and_call(config: ExperimentConfig, **rest: object) -> None:
        """Stands for the workers, which are handed the configuration."""
        classifier = make_task(config, ("cat", "dog")).build().classifier.eval()
        size = config.model.image_size
        with torch.no_grad():
            classifier(torch.zeros(1, 3, size, size))

    monkeypatch.setattr(driver, "run", build_and_call)
    walk = Walk(counts=_carries_ratio)
    with following(walk):
        assert run(["finetune", "nano", "--model.migration", str(RATIO), "--data", "none"]) == 0
    checked(walk, "The migration ratio r, from the command line to the block")


def _carries_ratio(frame: FrameType) -> bool:
    """Whether a call's arguments hold the ratio."""
    return any(map(_holds, list(frame.f_locals.values())))


def _holds(value: object) -> bool:
    """Whether a value is the ratio, or one of settings, words or fields is."""
    if isinstance(value, str | float):
        return str(value) == str(RATIO)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # `vars`, for settings that are being made do not have all fields yet.
        return any(map(_holds, list(getattr(value, "__dict__", {}).values())))
    if isinstance(value, dict):
        return any(map(_holds, list(value.values())))
    return isinstance(value, list | tuple) and any(map(_holds, value))
