"""Forward, loss and gradients of every network and acceleration on the device.

The reference is the same network on the CPU, in float64 for all but detectors, whose region
pooling is float32. Where tokens leave, or boxes are chosen, a choice between two that are nearly
alike may fall differently under rounding to bf16; there the loss alone is compared.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.bench import Bench
from benchmarks.gpu.correctness_runs import Check, Errors
from itpn_ray.models import (
    Acceleration,
    create_autoencoder,
    create_dense,
    create_dino,
    create_distiller,
    create_model,
    create_rcnn,
    create_segmenter,
)
from itpn_ray.models.acceleration.config import REDUCTIONS
from itpn_ray.models.detection.base import MASK_SIDE, Detector, Targets
from itpn_ray.rng import image_seeds
from itpn_ray.tasks.detection.task import SMALL_DINO, SMALL_RCNN

SIDE, BATCH, CLASSES, TEACHER, WIDTH = 64, 2, 5, 32, 16
TOKENS = (SIDE // 16) ** 2
WINDOW = 2
LOOSE, EXACT = (0.02, 0.1), (1e-4, 1e-3)
"""Allowed relative errors of loss and gradients in bf16 and in float32."""
DETECTOR, LOOSE_DETECTOR = 0.02, 0.1
"""Allowed of a detector's loss, in float32 and in bf16: some of its boxes may be other ones."""

Inputs = dict[str, Tensor]
Loss = Callable[[nn.Module, Inputs], Tensor]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network to be checked."""

    name: str
    make: Callable[[], nn.Module]
    loss: Loss
    chooses: bool = False


def checks(bench: Bench) -> Iterator[tuple[str, str, Check]]:
    """Check, what it is of, and the check itself."""
    for subject in subjects():
        yield "float32", subject.name, partial(compare, bench, subject, low=False)
        yield "bf16", subject.name, partial(compare, bench, subject, low=True)
    for subject in subjects():
        if subject.name in COMPILED:
            check = partial(compare, bench, subject, low=True, compiled=True)
            yield "compiled, bf16", subject.name, check
    for name, make in detectors().items():
        yield "float32", name, partial(compare_detector, bench, make)
        yield "bf16", name, partial(compare_detector, bench, make, low=True)
    make = detectors()["Mask R-CNN"]
    check = partial(compare_detector, bench, make, low=True, compiled=True)
    yield "compiled, bf16", "Mask R-CNN", check


COMPILED = (
    "classifier",
    "classifier, all together",
    "pixel autoencoder",
    "CLIP distiller",
    "classifier, iTPN",
    "dense maps",
)


def subjects() -> list[Subject]:
    """Every network but the detectors, both families, every acceleration of the classifier."""
    trunks = {
        "classifier": {},
        "classifier, relative position": {"relative_position": True},
        "classifier, iTPN": {"family": "itpn"},
        **{f"classifier, {name}": {"acceleration": a} for name, a in accelerations().items()},
    }
    return [
        *(
            Subject(
                name=name,
                make=partial(create_model, "nano", num_classes=CLASSES, image_size=SIDE, **changes),
                loss=classify,
                chooses=getattr(changes.get("acceleration"), "ratio", 0.0) > 0,
            )
            for name, changes in trunks.items()
        ),
        Subject(name="dense maps", make=partial(create_dense, "nano", image_size=SIDE), loss=maps),
        Subject(
            name="pixel autoencoder",
            make=partial(create_autoencoder, "nano", image_size=SIDE),
            loss=reconstruct,
        ),
        Subject(
            name="CLIP distiller",
            make=partial(create_distiller, "nano", teacher_dim=TEACHER, image_size=SIDE),
            loss=distil,
        ),
        Subject(
            name="segmenter",
            make=partial(
                create_segmenter, "nano", num_classes=CLASSES, image_size=SIDE, width=WIDTH
            ),
            loss=segment,
        ),
    ]


def accelerations() -> dict[str, Acceleration]:
    """Each way to accelerate, and all together."""
    window = {"window": WINDOW, "gathering": True}
    return {
        "windows": Acceleration(window=WINDOW),
        "gathering": Acceleration(**window),
        "gathering, HRPE": Acceleration(**window, relative_position="windows"),
        "gathering, RPE": Acceleration(**window, relative_position="windows+cross"),
        **{kind: Acceleration(reduction=kind, ratio=0.3) for kind in REDUCTIONS if kind != "none"},
        "all together": Acceleration(**window, reduction="migration", ratio=0.3),
    }


def inputs() -> Inputs:
    """The same for every network, float64 on the CPU."""
    generator = torch.Generator().manual_seed(0)
    visible = torch.rand(BATCH, TOKENS, generator=generator).argsort(1)[:, : TOKENS // 4]
    visible = visible.sort(1).values
    mask = torch.ones(BATCH, TOKENS, dtype=torch.bool).scatter(1, visible, False)
    return {
        "images": torch.randn(BATCH, 3, SIDE, SIDE, dtype=torch.float64, generator=generator),
        "visible": visible,
        "mask": mask,
        "label": torch.arange(BATCH) % CLASSES,
        "classes": torch.randint(CLASSES, (BATCH, SIDE, SIDE), generator=generator),
        "seeds": torch.arange(BATCH),
        "teacher": torch.randn(BATCH, TOKENS, TEACHER, dtype=torch.float64, generator=generator),
    }


def classify(network: nn.Module, data: Inputs) -> Tensor:
    """Cross-entropy, with logits that are not all alike."""
    return F.cross_entropy(network(data["images"]) * 100, data["label"])


def maps(network: nn.Module, data: Inputs) -> Tensor:
    """Mean squares of all maps."""
    return torch.stack([x.square().mean() for x in network(data["images"]).values()]).sum()


def reconstruct(network: nn.Module, data: Inputs) -> Tensor:
    """The autoencoder's own loss."""
    return network(data["images"], data["mask"], visible=data["visible"])["loss"]


def distil(network: nn.Module, data: Inputs) -> Tensor:
    """Distances of both predictions."""
    found = network(data["images"], data["mask"])
    return F.smooth_l1_loss(found["main"], data["teacher"]) + F.smooth_l1_loss(
        found["aux"], data["teacher"]
    )


def segment(network: nn.Module, data: Inputs) -> Tensor:
    """The segmenter's own losses."""
    losses = network.losses(data["images"], data["classes"], data["seeds"], lambda value: value)
    return torch.stack(list(losses.values())).sum()


def compare(bench: Bench, subject: Subject, *, low: bool, compiled: bool = False) -> Errors:
    """Errors of loss and gradients on the device.

    Args:
        bench: whose device.
        subject: the network.
        low: under bf16 autocast, not in float32.
        compiled: through torch.compile.
    """
    torch.manual_seed(0)
    network = subject.make().train()
    wanted, want_grads = gradients(copy.deepcopy(network).double(), inputs(), subject.loss)
    data = moved(inputs(), bench.device)
    network = network.to(bench.device)
    called = bench.compile(network) if compiled else network
    with exact_products(), bench.autocast() if low else nullcontext():
        found, grads = gradients(network, data, lambda _, data: subject.loss(called, data))
    allowed = LOOSE if low else EXACT
    errors = {"loss": (relative(found, wanted), allowed[0])}
    if not (subject.chooses and low):
        errors["gradients"] = (relative(grads, want_grads), allowed[1])
    return errors


def gradients(network: nn.Module, data: Inputs, loss: Loss) -> tuple[Tensor, Tensor]:
    """Loss, and all gradients one after the other, float64 on the CPU."""
    value = loss(network, data)
    value.backward()
    grads = [p.grad.flatten().double() for p in network.parameters() if p.grad is not None]
    return value.detach().double().cpu(), torch.cat(grads).cpu()


def moved(data: Inputs, device: torch.device) -> Inputs:
    """The same in float32 on a device."""
    return {
        name: tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in data.items()
    }


def relative(found: Tensor, wanted: Tensor) -> float:
    """Length of the difference over that of what was wanted; NaN where anything is."""
    return float((found - wanted).norm() / wanted.norm())


@contextmanager
def exact_products() -> Iterator[None]:
    """Matrix products and convolutions of float32 in float32 meanwhile, not in TF32."""
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def detectors() -> dict[str, Callable[[], Detector]]:
    """Each kind of detector, small."""
    common = {"num_classes": CLASSES, "image_size": SIDE}
    return {
        "Mask R-CNN": partial(create_rcnn, "nano", **common, **SMALL_RCNN),
        "Cascade Mask R-CNN": partial(create_rcnn, "nano", stages=3, **common, **SMALL_RCNN),
        "DINO": partial(create_dino, "nano", levels=4, **common, **SMALL_DINO),
        "DINO with masks": partial(
            create_dino, "nano", levels=4, masks=True, **common, **SMALL_DINO
        ),
    }


def compare_detector(
    bench: Bench, make: Callable[[], Detector], *, low: bool = False, compiled: bool = False
) -> Errors:
    """The error of the whole loss; what is detected must be finite."""
    torch.manual_seed(0)
    network = make().train()
    wanted = detector_loss(network, torch.device("cpu"))
    if compiled:
        network.trunk.compile(dynamic=False, backend=bench.scale.backend)
    with exact_products(), bench.autocast() if low else nullcontext():
        found = detector_loss(network.to(bench.device), bench.device)
        images = inputs()["images"].to(bench.device, torch.float32)
        sizes = torch.tensor([[SIDE, SIDE]] * BATCH, device=bench.device)
        scores = torch.cat([one.scores for one in network.eval().detect(images, sizes)])
    error = relative(found, wanted) + float((~scores.isfinite()).sum())
    return {"loss": (error, LOOSE_DETECTOR if low else DETECTOR)}


def detector_loss(network: Detector, device: torch.device) -> Tensor:
    """The sum of a detector's losses on two images with an object each."""
    targets = Targets(
        boxes=torch.tensor([[[4.0, 6.0, 40.0, 50.0]]] * BATCH, device=device),
        labels=torch.tensor([[1]] * BATCH, device=device),
        masks=torch.ones(BATCH, 1, MASK_SIDE, MASK_SIDE, dtype=torch.uint8, device=device),
        seeds=image_seeds(0, 0, torch.arange(BATCH, device=device)),
    )
    sizes = torch.tensor([[SIDE, SIDE]] * BATCH, device=device)
    images = inputs()["images"].to(device, torch.float32)
    losses = network.losses(images, sizes, targets, lambda value: value)
    return torch.stack(list(losses.values())).sum().detach().double().cpu()
