"""A GPU out of memory: what the run's end says, and that other errors pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from itpn_ray.errors import RunError
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask
from itpn_ray.training.memory import fits_memory
from tests.training.runs import tiny, train_alone


def told(images: int, **model: Any) -> str:
    config = tiny("data", Path("out"))
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, **model))
    with pytest.raises(RunError) as caught, fits_memory(config, images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return str(caught.value)


def test_it_names_what_to_lower_until_nothing_is_left() -> None:
    assert "optim.micro_batch = 64" in told(64)
    assert "--optim.micro-batch 32 or --model.checkpoint-activations true" in told(64)
    assert "--optim.micro-batch 2" in told(6)  # an even number, for images are mixed in pairs
    assert told(2).endswith("Use --model.checkpoint-activations true.")
    assert "a smaller network" in told(2, checkpoint_activations=True)


def test_a_run_ends_with_it(prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(task: PixelPretrainingTask, batch: Batch, epoch: int) -> Batch:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(PixelPretrainingTask, "prepare", full)
    with pytest.raises(RunError, match=r"--optim\.micro-batch 8"):
        train_alone(tiny(prepared, tmp_path))


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), fits_memory(tiny("data", Path("out")), 8):
        raise KeyError("name")
