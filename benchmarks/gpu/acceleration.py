"""What token migration and gathering gain at large sizes, beside what multiply-adds promise.

Fig. 5 and the speed columns of Table 7 of the paper: the trunk with its pyramid at two sizes,
eager, as a CUDA graph and compiled; then the whole Mask R-CNN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.gpu.bench import Bench, Line, captured
from benchmarks.lib.interleave import Case
from itpn_ray.models import Acceleration, create_dense, create_rcnn
from itpn_ray.models.networks.cost import multiply_adds

TITLE = "Acceleration: dense maps and the whole detector in inference, bf16"
COLUMNS = {
    "network": "network",
    "size": "px",
    "mode": "mode",
    "variant": "variant",
    "batch": "batch",
    "images_per_s": "images/s",
    "speed_up": "speed-up",
    "promise": "promised",
    "reached": "reached",
}
ALL, DETECTOR = "all together, r = 0.3", "Mask R-CNN"
FEW = ("windows", "windows + gathering", "migration r = 0.3", ALL)
"""Variants that are compiled and that a whole detector is measured with."""
CLASSES = 80


def variants(window: int) -> dict[str, Acceleration]:
    """What the paper's figure and table compare, and what migration is compared with."""
    together = {"reduction": "migration", "ratio": 0.3, "window": window, "gathering": True}
    return {
        "plain": Acceleration(),
        ALL: Acceleration(**together),
        "all together + HRPE": Acceleration(**together, relative_position="windows"),
        "windows": Acceleration(window=window),
        "windows + gathering": Acceleration(window=window, gathering=True),
        "gathering + HRPE": Acceleration(
            window=window, gathering=True, relative_position="windows"
        ),
        "gathering + RPE": Acceleration(
            window=window, gathering=True, relative_position="windows+cross"
        ),
        **{
            f"{kind} r = {ratio}": Acceleration(reduction=kind, ratio=ratio)
            for kind, ratios in {
                "migration": (0.3, 0.1, 0.2, 0.4),
                "tome": (0.3,),
                "random": (0.3,),
            }.items()
            for ratio in ratios
        },
    }


def run(bench: Bench) -> None:
    """Both sizes of the trunk in each mode, then the detector."""
    scale = bench.scale
    found = variants(scale.window)
    few = {name: found[name] for name in ("plain", *FEW)}
    square = (scale.large, scale.large)
    dense(bench, square, "graph", found)
    dense(bench, square, "compiled", few)
    detector(bench, {"plain": found["plain"], ALL: found[ALL]})
    dense(bench, square, "eager", found)
    dense(bench, scale.view, "graph", found)
    dense(bench, scale.view, "eager", few)


def dense(
    bench: Bench, size: tuple[int, int], mode: str, chosen: Mapping[str, Acceleration]
) -> None:
    """The trunk with its pyramid."""
    batch = max(1, bench.batch(*size) // 2)
    images = torch.randn(batch, 3, *size, device=bench.device, dtype=torch.bfloat16)

    def make(acceleration: Acceleration) -> nn.Module:
        return create_dense(bench.scale.main, acceleration=acceleration)

    def call(network: nn.Module) -> Case:
        network = network.to(torch.bfloat16)
        wrapped = bench.compile(network) if mode == "compiled" else network
        plain = torch.inference_mode()(partial(wrapped, images))
        return captured(bench, plain) if mode == "graph" else plain

    networks = {name: partial(make, acceleration) for name, acceleration in chosen.items()}
    compare(bench, f"{bench.scale.main} maps", size, mode, batch, networks, call)


def detector(bench: Bench, chosen: Mapping[str, Acceleration]) -> None:
    """Mask R-CNN from normalised pixels to boxes with masks, under autocast as in evaluation."""
    batch, (height, width) = bench.scale.views, bench.scale.view
    images = torch.randn(batch, 3, height, width, device=bench.device)
    sizes = torch.tensor([[height, width]], device=bench.device).expand(batch, -1)

    def make(acceleration: Acceleration) -> nn.Module:
        network = create_rcnn(bench.scale.main, num_classes=CLASSES, acceleration=acceleration)
        prefer_first(network.roi.boxes[0].logits)
        return network

    def call(network: nn.Module) -> Case:
        return bench.autocast()(torch.inference_mode()(partial(network.detect, images, sizes)))

    networks = {name: partial(make, acceleration) for name, acceleration in chosen.items()}
    compare(bench, DETECTOR, (height, width), "eager", batch, networks, call)


@torch.no_grad()
def prefer_first(layer: nn.Linear) -> None:
    """Let an untrained class layer be sure of one class: there are objects, and masks to draw."""
    bias: Tensor = layer.bias
    bias[0] += 10.0


def compare(
    bench: Bench,
    network: str,
    size: tuple[int, int],
    mode: str,
    batch: int,
    networks: Mapping[str, Callable[[], nn.Module]],
    call: Callable[[nn.Module], Case],
) -> None:
    """Time variants in turn and write a line each, as ratios to the plain network."""
    work: dict[str, int] = {}

    def make(name: str) -> Case:
        torch.manual_seed(0)
        made = networks[name]()
        work[name] = multiply_adds(made, size)
        return call(made.to(bench.device).eval())

    lines: dict[str, Line] = {
        name: {
            "network": network,
            "size": f"{size[0]}x{size[1]}",
            "mode": mode,
            "variant": name,
            "batch": batch,
        }
        for name in networks
    }
    seconds = bench.time({name: (lines[name], partial(make, name)) for name in networks})
    for name, spent in seconds.items():
        line = {**lines[name], "images_per_s": batch / spent, "multiply_adds": work[name]}
        if "plain" in seconds:
            line["speed_up"] = seconds["plain"] / spent
            line["promise"] = work["plain"] / work[name]
            line["reached"] = line["speed_up"] / line["promise"]
        bench.result.add(line)
    bench.tidy()
