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
from itpn_ray.training.mfu import peak_flops, peak_rate, training_flops


def test_a_teacher_has_no_backward_pass() -> None:
    assert training_flops({"student": 10, "teacher": 5}) == 2 * 3 * 10 + 2 * 5


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA H200 NVL", 835e12),
        ("NVIDIA H20", 148e12),
        ("NVIDIA B200", 2.25e15),
        ("NVIDIA B300 SXM6 AC", 2.25e15),
        ("NVIDIA GB200", 2.5e15),
        ("NVIDIA GB300", 2.5e15),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100-PCIE-40GB", 312e12),
        ("A100-SXM4-40GB", 312e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A10G", 70e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA GeForce RTX 4090 D", 147e12),
        ("NVIDIA RTX 6000 Ada Generation", 364e12),
        ("NVIDIA RTX A6000", 155e12),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 504e12),
        ("AMD Instinct MI300X", 1307e12),
        ("Some other GPU", 0.0),
        # What other names are part of, and slices and throttled versions of what is known.
        ("NVIDIA RTX A1000", 0.0),
        ("NVIDIA RTX A4000", 0.0),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0.0),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0.0),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", 0.0),
        ("Quadro RTX 6000", 0.0),
        ("Tesla V100-SXM2-16GB", 0.0),
    ],
)
def test_the_peak_follows_from_the_name(name: str, peak: float) -> None:
    assert peak_flops(name) == peak


@pytest.mark.parametrize(("name", "peak"), [("NVIDIA H100 NVL", 835e12), ("Some other GPU", 0.0)])
def test_the_rate_follows_from_the_peak(
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


def test_pauses_slow_no_rate_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation of 100 s and a save of 10 s between two records of two steps of 1 s each."""
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    worker = TrainContext(rank=0, world=1, device=torch.device("cpu"))
    meter = Meter(worker, FileJournal(tmp_path), steps=4, peak_rate=16.0)
    for step in range(1, 5):
        with meter.time("computing"):
            now += 1.0
        meter.add({"loss": torch.tensor(1.0)}, 1.0)
        meter.step(8)
        if step % 2 == 0:
            meter.record(step, 1.0, rate=1e-3, grad_norm=1.0)
        for phase, seconds in (("evaluating", 100.0), ("saving", 10.0)):
            if step == 2:
                with meter.time(phase):
                    now += seconds
    first, second = read_lines(tmp_path / METRICS)
    for name in ("images_per_s", "steps_per_s", "mfu", "computing_s"):
        assert second[name] == first[name]
    assert (second["images_per_s"], second["mfu"]) == (8.0, 0.5)
    assert (second["evaluating_s"], second["saving_s"]) == (50.0, 5.0)


def test_smaller_images_are_less_work(tmp_path: Path) -> None:
    worker = TrainContext(rank=0, world=1, device=torch.device("cpu"))
    meter = Meter(worker, FileJournal(tmp_path), steps=1, peak_rate=1000.0)
    meter.add({"loss": torch.tensor(1.0)}, 1.0)
    time.sleep(0.01)
    meter.step(8, 0.25)
    meter.record(1, 1.0, rate=1e-3, grad_norm=1.0)
    (record,) = read_lines(tmp_path / METRICS)
    assert record["mfu"] == pytest.approx(0.25 * record["images_per_s"] / 1000.0)
