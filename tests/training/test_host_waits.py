"""How often a training step has the host wait for the device: counted by the calls that do."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from itpn_ray.data.loading.view_batches import trim
from itpn_ray.models import create_dino
from itpn_ray.models.detection.rcnn import regions
from itpn_ray.tasks.base import AnyTask, TaskSetup
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.config import ModelConfig, TaskConfig
from itpn_ray.tasks.detection.task import SMALL_DINO
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.registry import task_class
from itpn_ray.training import loop
from tests.models.detection.made import alone, images, rcnn, sizes, targets
from tests.training.runs import tiny, train_alone

READ = {"item", "tolist", "cpu", "__bool__", "__int__", "__float__", "__index__"}
CHOOSE = {"nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "nms"}
"""Their results' shapes depend on values that the device has."""


class Waits(TorchFunctionMode):
    """Writes down the calls that on a GPU wait for everything asked of it before."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        copied = name == "new_tensor" or (name == "tensor" and "device" in (kwargs or {}))
        if name in READ | CHOOSE or copied or _by_truth(name, args):
            self.calls.append(name)
        return func(*args, **(kwargs or {}))


def _by_truth(name: str, args: tuple[Any, ...]) -> bool:
    """Whether elements are picked where a tensor is true, as `nonzero` does."""
    if name == "where":
        return len(args) == 1
    if name != "__getitem__":
        return False
    index = args[1] if isinstance(args[1], tuple) else (args[1],)
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in index)


def test_the_counter_sees_what_waits() -> None:
    x = torch.arange(3)
    with Waits() as waits:
        x.tolist(), x[0].item(), int(x[1]), bool(x[2]), x[x > 1], x.nonzero(), torch.where(x > 1)
        torch.where(x > 1, x, 0), x[1:], x[x], x.sum(), torch.full((), 3), torch.tensor(3)
        x.new_tensor(3), torch.tensor(3, device=x.device)
    expected = ["tolist", "item", "__int__", "__bool__", "__getitem__", "nonzero", "where"]
    expected += ["new_tensor", "tensor"]  # copies of what lies in the host's pageable memory
    assert waits.calls == expected


CONFIGS: list[TaskConfig] = [
    PixelPretraining(pyramid_width=16, decoder_width=32, decoder_depth=1),
    Classification(ema_decay=0.9),
    ClipPretraining(teacher="none", teacher_model="clip_nano", pyramid_width=16, smallest_block=1),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_forward_and_backward_never_wait(config: TaskConfig) -> None:
    setup: TaskSetup[Any] = TaskSetup(
        config=config,
        model=ModelConfig(name="nano", image_size=64, drop_path=0.1),
        classes=("cup", "pen"),
    )
    task: AnyTask = task_class(config)(setup)
    network = task.build().train()
    batch = {
        "image": torch.randint(256, (4, 3, 64, 64), dtype=torch.uint8),
        "label": torch.tensor([0, 1, 0, 1]),
        "sample_id": torch.arange(4),
        "teacher": torch.randn(4, 16, 32).half(),
    }
    task.prepare(batch, 0)  # keeps its constants
    with Waits() as waits:
        network(task.prepare(batch, 0))["loss"].backward()
        task.after_step(network, 0)
    assert waits.calls == []


def test_the_loop_waits_once_a_step(
    prepared: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agree, counts = loop._agree, []

    def counted(*arguments: Any) -> Any:
        with Waits() as waits:
            answer = agree(*arguments)
        counts.append(waits.calls)
        return answer

    monkeypatch.setattr(loop, "_agree", counted)
    config = tiny(prepared, tmp_path)
    train_alone(dataclasses.replace(config, optim=dataclasses.replace(config.optim, clip_norm=1.0)))
    assert counts == [["tolist"]] * 8


@pytest.mark.parametrize("stages", [1, 3])
def test_rcnn_waits_for_sizes_suppression_and_each_stages_sample(
    stages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As on a GPU; on a CPU, where nothing is waited for, boxes are picked out.
    monkeypatch.setattr(regions, "_pool_apart", regions._pool_all)
    detector = rcnn(stages=stages).train()
    shapes = [[(0, (4, 4, 30, 40)), (1, (20, 10, 50, 50))], [(1, (8, 8, 40, 40))]]
    with Waits() as waits:
        losses = detector.losses(images(shapes), sizes(2), targets(shapes), alone)
        torch.stack(list(losses.values())).sum().backward()
    assert waits.calls == ["tolist", "nms", "nms"] + ["tolist"] * stages


def test_a_detectors_micro_batch_is_cut_with_one_wait() -> None:
    batch = {
        "image": torch.zeros(4, 3, 96, 96),
        "size": torch.tensor([[60, 90], [64, 64], [90, 90], [96, 30]]),
        "label": torch.tensor([[0, 1, -1], [0, -1, -1], [0, 1, 2], [-1, -1, -1]]),
    }
    with Waits() as waits:
        cut = trim({name: tensor[:2] for name, tensor in batch.items()}, 32)
    assert waits.calls == ["tolist"]
    assert cut["image"].shape == (2, 3, 64, 96)
    assert cut["label"].shape == (2, 2)


@pytest.mark.parametrize("masks", [False, True])
def test_dino_waits_for_its_two_matchings_alone(masks: bool) -> None:
    torch.manual_seed(0)
    settings = {"num_classes": 3, "image_size": 64, "levels": 4, "masks": masks, **SMALL_DINO}
    dino = create_dino("nano", **settings).train()
    shapes = [[(0, (4, 4, 30, 40)), (1, (20, 10, 50, 50))], [(1, (8, 8, 40, 40))]]
    with Waits() as waits:
        losses = dino.losses(images(shapes), sizes(2), targets(shapes), alone)
        torch.stack(list(losses.values())).sum().backward()
    # The encoder's layers are of transformers, and each looks whether what it found is finite.
    assert waits.calls == ["__bool__"] * SMALL_DINO["encoder_layers"] + ["cpu", "cpu"]
