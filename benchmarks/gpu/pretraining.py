"""The pre-training step as the tasks have it, beside MAE's own step, and what it is made of.

Pixel pre-training with and without the feature loss, and masked against unmasked; CLIP
distillation with a teacher and with its stored tokens. Everything compiled where training compiles.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.gpu.bench import Bench, Line, rates, training_step
from benchmarks.lib.interleave import Case
from itpn_ray.experiment import OptimConfig
from itpn_ray.models import create_autoencoder
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.tasks.base import AnyTask, TaskSetup
from itpn_ray.tasks.batches import Batch
from itpn_ray.tasks.clip_pretraining.config import TEACHERS, ClipPretraining, teacher_input
from itpn_ray.tasks.config import ModelConfig, TaskConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.registry import task_class
from itpn_ray.training.mfu import training_flops
from itpn_ray.training.optimizer import make_optimizer

TITLE = "Pre-training step, bf16 autocast, compiled"
COLUMNS = {
    "network": "network",
    "case": "step",
    "batch": "batch",
    "images_per_s": "images/s",
    "tflops": "TFLOP/s",
    "mfu": "MFU",
    "mae_ratio": "images/s over MAE's",
    "optimiser": "share of optimiser",
    "prepare": "share of preparing the batch",
    "masked_ratio": "time over multiply-adds, masked to unmasked",
    "memory_gb": "GB",
}
MAE, PIXELS, PIXELS_ALONE = "MAE ViT", "pixels and features", "pixels"
OPTIM = OptimConfig(clip_norm=1.0)

Cases = dict[str, tuple[Line, Callable[[], Case]]]
"""What `Bench.time` takes."""


def run(bench: Bench) -> None:
    """Each size: our steps and MAE's in turn, then the masked step against the unmasked one."""
    for name, mae in bench.scale.pretrained.items():
        steps(bench, name, mae)
        masking(bench, name)


def steps(bench: Bench, name: str, mae: dict[str, int]) -> None:
    """Our tasks' steps and MAE's."""
    size = bench.scale.sizes[0]
    teacher = bench.scratch / "teacher.safetensors"
    if not teacher.exists():
        write_teacher(bench.scale.teacher, size, teacher)
    pixels = partial(PixelPretraining, **bench.scale.decoder)
    clip = partial(ClipPretraining, teacher_model=bench.scale.teacher)
    chosen: dict[str, tuple[TaskConfig, bool]] = {
        PIXELS: (pixels(), False),
        PIXELS_ALONE: (pixels(feature_weight=0.0), False),
        "CLIP, teacher": (clip(teacher=str(teacher)), False),
        "CLIP, stored tokens": (clip(teacher=str(teacher)), True),
    }
    made: dict[str, Step] = {}

    def make(case: str) -> Case:
        config, stored = chosen[case]
        made[case] = Step(bench, name, config, stored_tokens=stored)
        return made[case].whole

    lines: dict[str, Line] = {case: {"network": name, "case": case} for case in (*chosen, MAE)}
    cases: Cases = {case: (lines[case], partial(make, case)) for case in chosen}
    cases[MAE] = (lines[MAE], partial(mae_step, bench, size, mae))
    seconds = bench.time(cases)
    batch = bench.scale.batch
    for case, spent in seconds.items():
        line = {**lines[case], "batch": batch, "images_per_s": batch / spent}
        if MAE in seconds:
            line["mae_ratio"] = seconds[MAE] / spent
        if case in made:
            line |= made[case].work(spent) | made[case].shares()
        bench.result.add(line)
    made.clear()
    bench.tidy()


class Step:
    """A task's training step on a batch that stays on the card."""

    def __init__(self, bench: Bench, name: str, config: TaskConfig, *, stored_tokens: bool) -> None:
        self.bench = bench
        self.task = make_task(name, config, bench.scale.sizes[0])
        self.network = self.task.build().to(bench.device).train()
        self.model = bench.compile(self.network)
        self.optimizer = make_optimizer(
            self.network,
            self.task.layer_ids(self.network),
            self.task.no_weight_decay(self.network),
            OPTIM,
        )
        self.batch = host_batch(bench.scale.batch, bench.scale.sizes[0], bench.device)
        if stored_tokens:
            self.batch["teacher"] = self.task.prepare(self.batch, 0)["teacher"]

    def prepare(self) -> Batch:
        """Normalise, draw the masks, ask the teacher."""
        return self.task.prepare(self.batch, 0)

    def update(self) -> None:
        """The optimiser on whatever gradients there are, and the moving average."""
        self.optimizer.step()
        self.task.after_step(self.network, 0)

    def whole(self) -> None:
        """A step as the loop has it, without its checks."""
        batch = self.prepare()
        with self.bench.autocast():
            loss: Tensor = self.model(batch)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), OPTIM.clip_norm)
        self.update()
        self.optimizer.zero_grad(set_to_none=True)

    def update_alone(self) -> None:
        """`update` by itself."""
        for parameter in self.network.parameters():
            if parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        self.update()

    def work(self, seconds: float) -> Line:
        """Operations a second: three forward passes of the student, one of a teacher."""
        flops = training_flops(self.task.multiply_adds(self.network))
        return rates(self.bench, self.bench.scale.batch, seconds, flops / 2)

    def shares(self) -> Line:
        """What preparing the batch and the optimiser take of the whole, and the most memory."""
        parts = {"whole": self.whole, "prepare": self.prepare, "optimiser": self.update_alone}
        cases: Cases = {part: ({}, partial(_give, call)) for part, call in parts.items()}
        seconds = self.bench.time(cases)
        shares: Line = {part: seconds[part] / seconds["whole"] for part in ("prepare", "optimiser")}
        self.optimizer.zero_grad(set_to_none=True)
        return shares | {"memory_gb": self.bench.memory_gb(self.whole)}


def _give(call: Case) -> Case:
    return call


def make_task(name: str, config: TaskConfig, size: int) -> AnyTask:
    """A pre-training task as a run makes it."""
    setup: TaskSetup[Any] = TaskSetup(config=config, model=ModelConfig(name=name, image_size=size))
    return task_class(config)(setup)


def host_batch(batch: int, size: int, device: torch.device) -> Batch:
    """What a loader gives: bytes, labels, sample ids."""
    images = torch.randint(256, (batch, size, size, 3), dtype=torch.uint8, device=device)
    return {
        "image": images.permute(0, 3, 1, 2),  # channels last in memory
        "label": torch.zeros(batch, dtype=torch.int64, device=device),
        "sample_id": torch.arange(batch, device=device),
    }


def write_teacher(model: str, size: int, path: Path) -> None:
    """A CLIP teacher with random weights: what it says does not matter here, its time does."""
    known = TEACHERS[model]
    network: nn.Module = timm.create_model(
        known.base, img_size=teacher_input(model, size), num_classes=known.width, **known.changes
    )
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, path)


def mae_step(bench: Bench, size: int, shape: dict[str, int]) -> Case:
    """The step of MAE (He et al., 2022) on its own network, as transformers has it."""
    config = ViTMAEConfig(**{"image_size": size, "norm_pix_loss": True, **shape})
    network = ViTMAEForPreTraining(config).to(bench.device).train()
    model = bench.compile(network)
    images = torch.randn(bench.scale.batch, 3, size, size, device=bench.device)
    return training_step(bench, network, lambda: model(pixel_values=images).loss)


def masking(bench: Bench, name: str) -> None:
    """The autoencoder's step with three of four patches masked against none.

    Every pixel counts, for with nothing masked the network's own loss has nothing to average.
    """
    size, batch = bench.scale.sizes[0], bench.scale.batch // 2
    tokens = (size // 16) ** 2
    seen = {"masked": tokens // 4, "unmasked": tokens}
    work: dict[str, int] = {}

    def make(case: str) -> Case:
        network = create_autoencoder(name, image_size=size)
        work[case] = multiply_adds(network, size, visible=seen[case])
        network = network.to(bench.device).train()
        model = bench.compile(network)
        images = torch.randn(batch, 3, size, size, device=bench.device)
        order = torch.rand(batch, tokens, device=bench.device).argsort(1)
        visible = order[:, : seen[case]].sort(1).values
        mask = torch.ones(batch, tokens, dtype=torch.bool, device=bench.device)
        mask.scatter_(1, visible, False)

        def loss() -> Tensor:
            return model(images, mask, visible=visible)["pred"].float().square().mean()

        return training_step(bench, network, loss)

    lines: dict[str, Line] = {
        case: {"network": name, "case": f"autoencoder, {case}"} for case in seen
    }
    seconds = bench.time({case: (lines[case], partial(make, case)) for case in seen})
    for case, spent in seconds.items():
        line = lines[case] | rates(bench, batch, spent, 3 * work[case])
        if case == "masked" and "unmasked" in seconds:
            share = work["masked"] / work["unmasked"]
            line["masked_ratio"] = spent / seconds["unmasked"] / share
        bench.result.add(line)
    bench.tidy()
