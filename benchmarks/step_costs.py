"""What a pre-training step costs beside its products: optimisers, and memory of activations.

1. The update of Fast-iTPN-B's pixel autoencoder by each optimiser, timed in turn in one process.
2. What the forward pass keeps for the backward pass, an image, by the share of masked patches: the
   micro-batch can be larger by as much. float32; under bf16 autocast it is about half.

    python benchmarks/step_costs.py

Writes step-costs.json and .md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.lib.interleave import Case, interleave, machine, new_parser, parse, write_json
from itpn_ray.experiment import OptimConfig
from itpn_ray.models import PixelAutoencoder, create_autoencoder
from itpn_ray.tasks.base import TaskSetup
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.pixel_pretraining.task import PixelPretrainingTask
from itpn_ray.training.optimizer import make_optimizer

SIZE, PATCHES = 224, 196
MASKED = (0.0, 0.25, 0.5, 0.75)


def optimizers(name: str, device: torch.device) -> dict[str, Case]:
    """A step of each on random gradients; all move one network."""
    setup = TaskSetup(config=PixelPretraining(feature_weight=0.0), model=ModelConfig(name=name))
    task = PixelPretrainingTask(setup)
    network = task.build().to(device)
    for parameter in network.parameters():
        parameter.grad = torch.randn_like(parameter)
    groups = task.layer_ids(network), task.no_weight_decay(network)
    # A list: two optimisers take them, and a generator is empty after the first.
    adamw = partial(torch.optim.AdamW, list(network.parameters()))
    made: dict[str, Callable[[], torch.optim.Optimizer]] = {
        "AdamW, fused (as trained)": lambda: make_optimizer(network, *groups, OptimConfig()),
        "AdamW, foreach": partial(adamw, foreach=True),
        "AdamW, one by one": partial(adamw, foreach=False),
        "Muon": lambda: make_optimizer(network, *groups, OptimConfig(optimizer="muon")),
    }
    return {told: make().step for told, make in made.items()}


def kept_bytes(network: PixelAutoencoder, masked: float) -> int:
    """Bytes that one image's forward pass keeps, without the weights."""
    visible = PATCHES - round(masked * PATCHES)
    weights = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    order = torch.arange(visible)[None]
    mask = torch.ones(1, PATCHES, dtype=torch.bool).scatter(1, order, False)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        output = network(torch.randn(1, 3, SIZE, SIZE), mask, visible=order)
    output["pred"].square().mean().backward()  # nothing masked leaves its own loss nothing
    return sum(kept.values())


def main() -> None:
    options = parse(new_parser(__doc__.splitlines()[0]))
    name = "fast_itpn_tiny" if options.quick else "fast_itpn_base"
    device = torch.device(options.device)
    seconds = interleave(optimizers(name, device), device, repeats=options.repeats)
    network = create_autoencoder(name, image_size=SIZE)
    memory = {masked: kept_bytes(network, masked) for masked in MASKED}
    lines = ["| optimiser | ms a step |", "|---|---|"]
    lines += [f"| {told} | {1e3 * spent:.0f} |" for told, spent in seconds.items()]
    lines += ["", "| masked | MB an image | micro-batch |", "|---|---|---|"]
    lines += [
        f"| {masked:.0%} | {size / 1e6:.0f} | {memory[0.0] / size:.2f} times as large |"
        for masked, size in memory.items()
    ]
    table = "\n".join(lines) + "\n"
    print(table)
    where: dict[str, Any] = machine(options.device)
    stem = options.out / "step-costs"
    found = {"machine": where, "network": name, "seconds": seconds}
    write_json(stem.with_suffix(".json"), found | {"kept": {str(k): v for k, v in memory.items()}})
    stem.with_suffix(".md").write_text(table)


if __name__ == "__main__":
    main()
