"""Model FLOPs utilisation: what a step costs, what a GPU could do, and the share that is logged."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from itpn_ray.runs.journal import METRICS, FileJournal, read_lines
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.meters import Meter
from itpn_ray.training.mfu import peak_rate, training_flops


def test_a_teacher_has_no_backward_pass() -> None:
    assert training_flops({"student": 10, "teacher": 5}) == 2 * 3 * 10 + 2 * 5


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40S", 362e12),
        ("Some other GPU", 0.0),
    ],
)
def test_the_peak_follows_from_the_name(
    name: str, peak: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    model = ModelConfig(name="fast_itpn_nano", image_size=64)
    task = PixelPretrainingTask(TaskSetup(config=PixelPretraining(), model=model))
    network = task.build()
    work = training_flops(task.multiply_adds(network))
    assert peak_rate(task, network, torch.device("cuda")) == pytest.approx(peak / work)
    assert peak_rate(task, network, torch.device("cpu")) == 0.0


def test_the_share_of_a_worker_is_logged(tmp_path: Path) -> None:
    worker = TrainContext(rank=0, world=1, device=torch.device("cpu"))
    meter = Meter(worker, FileJournal(tmp_path), steps=1, peak_rate=1000.0)
    meter.add({"loss": torch.tensor(1.0)}, 1.0)
    time.sleep(0.01)
    meter.step(8)
    meter.record(1, 1.0, rate=1e-3, grad_norm=1.0)
    (record,) = read_lines(tmp_path / METRICS)
    assert record["mfu"] == pytest.approx(record["images_per_s"] / 1000.0)
