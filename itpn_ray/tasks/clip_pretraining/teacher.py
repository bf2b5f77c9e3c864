"""The CLIP teacher: the projected patch tokens of a frozen image encoder, from a file.

Shapes: B images, S x S pixels of the student's view, L = (S / 16)^2 patches, T the width of the
projected tokens.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.errors import CheckpointError, ConfigError
from itpn_ray.models.layers.position import resize_table
from itpn_ray.models.networks.cost import counting
from itpn_ray.models.weights.raw_files import named_tensors, read_raw
from itpn_ray.models.weights.torchscript import is_torchscript
from itpn_ray.storage import local_copy
from itpn_ray.tasks.clip_pretraining.config import TEACHERS, teacher_input

# Of OpenAI's preprocessing, for values from 0 to 1; images here go from 0 to 255.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
AT_ONCE = 64
"""Images of one pass, so that memory does not grow with the batch."""
POSITION_OFFSET = 0.1
"""Shift of the sampling points where the position table is resized, as in the authors' code."""

_RENAMED = (
    ("conv1.", "patch_embed.proj."),
    ("ln_pre.", "norm_pre."),
    ("ln_post.", "norm."),
    ("transformer.resblocks.", "blocks."),
    (".ln_1.", ".norm1."),
    (".ln_2.", ".norm2."),
    (".attn.in_proj_", ".attn.qkv."),
    (".attn.out_proj.", ".attn.proj."),
    (".mlp.c_fc.", ".mlp.fc1."),
    (".mlp.c_proj.", ".mlp.fc2."),
)
"""OpenAI's names -> timm's."""
_ENTRIES = ("model", "state_dict")
"""Where training scripts put the tensors."""


class ClipTeacher(nn.Module):
    """Patch tokens after the last norm and the projection, normalised without weights.

    The authors cut the student's and the teacher's view out of the stored image with two resizing
    filters; here the teacher's view is the student's, resized on the device where its size differs.
    So one decoded image serves both, and the features can be written once.

    Args:
        network: timm's vision transformer with the projection as its head.
        size: side of its input, pixels.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        self.network: Any = network
        self.size = size
        self.register_buffer("mean", torch.tensor(CLIP_MEAN).view(3, 1, 1) * 255)
        self.register_buffer("scale", 1 / (torch.tensor(CLIP_STD).view(3, 1, 1) * 255))
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Map uint8 (B, 3, S, S) to float16 (B, L, T), the precision in which they are kept."""
        return torch.cat([self._tokens(part) for part in images.split(AT_ONCE)])

    def _tokens(self, images: Tensor) -> Tensor:
        x = images.float()
        if x.shape[-1] != self.size:
            x = F.interpolate(x, size=(self.size, self.size), mode="bicubic", antialias=True)
            # Bicubic resizing overshoots at edges; CLIP never saw such values.
            x = x.clamp(0, 255)
        with _half_precision(images.device):
            tokens = self.network.forward_features((x - self.mean) * self.scale)
            tokens = self.network.head(tokens[:, 1:])  # (B, L, T), without the class token
        # Targets of one scale for every token, however large the teacher's are.
        return F.layer_norm(tokens.float(), tokens.shape[-1:]).half()


def load_teacher(path: str, model: str, image_size: int) -> ClipTeacher:
    """The teacher, on the CPU.

    Args:
        path: its weights: safetensors or .pt/.bin in timm's or OpenAI's names, or OpenAI's own
            TorchScript archive; a file or ``s3://`` URI. Nothing in it is executed.
        model: architecture, a name in `TEACHERS`.
        image_size: side of the student's input, pixels; the position table is resized to as many
            patches as the student has.

    Raises:
        ConfigError: no path, or OpenAI's archive with an architecture of another activation.
        CheckpointError: no such file, unreadable, or weights of another architecture.
    """
    weights = _in_timm_names(_read(path, model))
    network = _empty(model, image_size)
    fitting = _fit(weights, dict(network.state_dict()), path, model)
    # assign: on the meta device there is no memory to copy into.
    network.load_state_dict(fitting, assign=True)
    return ClipTeacher(network, teacher_input(model, image_size))


def teacher_multiply_adds(model: str, image_size: int) -> int:
    """Multiply-adds of the teacher's forward pass of one image, counted on shapes alone."""
    network, size = _empty(model, image_size), teacher_input(model, image_size)
    with counting() as counted:
        network.head(network.forward_features(torch.empty(1, 3, size, size)))
    return counted()


def teacher_digest(path: str) -> str:
    """SHA-256 (hex) of the teacher's file.

    Raises:
        CheckpointError: no such file.
    """
    with _local(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _empty(model: str, image_size: int) -> Any:
    """The network of timm without memory for its weights, its head the projection."""
    import timm

    known, size = TEACHERS[model], teacher_input(model, image_size)
    with torch.device("meta"):
        return timm.create_model(
            known.base, img_size=size, num_classes=known.width, **known.changes
        )


def _read(path: str, model: str) -> Mapping[str, Tensor]:
    """The teacher's tensors, out of whatever entry and behind whatever prefix they stand."""
    local = _local(path)
    # The archives do not name their activation, but OpenAI trained all of them with QuickGELU.
    if is_torchscript(local) and "quickgelu" not in TEACHERS[model].base:
        raise ConfigError(
            "task.teacher_model",
            model,
            "uses GELU, but OpenAI's weights were trained with QuickGELU",
            f"Use {model.replace('clip_224', 'clip_quickgelu_224')}",
        )
    _, found = read_raw(local)
    if not isinstance(found, Mapping):
        raise _foreign(path, model, f"it holds a {type(found).__name__}, no named tensors")
    for entry in _ENTRIES:
        if isinstance(found.get(entry), Mapping):
            found = found[entry]
    tensors = named_tensors(found)
    # The prefix of DistributedDataParallel.
    if tensors and all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _local(path: str) -> Path:
    """The teacher's file, or a copy of a remote one on this machine."""
    if not path:
        raise ConfigError(
            "task.teacher",
            path,
            "names no weights of the CLIP teacher",
            "Give --task.teacher FILE (timm's or OpenAI's CLIP weights), or --task.features "
            "written by `itpn-ray cache-teacher`",
        )
    try:
        copy = local_copy(path)
    except OSError as error:
        raise CheckpointError(
            path, None, f"cannot be fetched: {error}", "Check the address and your rights"
        ) from error
    if not copy.is_file():
        raise CheckpointError(
            path, None, "there is no such teacher file", "Check the path; nothing is fetched"
        )
    return copy


def _in_timm_names(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder's tensors in timm's names, in float32."""
    # OpenAI's archives hold float16.
    tensors = {name: tensor.float() for name, tensor in weights.items()}
    # What is not in OpenAI's names is taken for timm's; `_fit` tells if it is neither.
    if "visual.class_embedding" not in tensors:
        return tensors
    found = {}
    for name, tensor in tensors.items():
        # The text encoder has no part in the targets.
        if not name.startswith("visual."):
            continue
        name = name.removeprefix("visual.")
        for theirs, ours in _RENAMED:
            name = name.replace(theirs, ours)
        found[name] = tensor
    found["cls_token"] = found.pop("class_embedding").view(1, 1, -1)
    found["pos_embed"] = found.pop("positional_embedding")[None]  # (L + 1, W) -> (1, L + 1, W)
    found["head.weight"] = found.pop("proj").t().contiguous()  # (W, T) -> (T, W)
    return found


def _fit(
    weights: dict[str, Tensor], reference: Mapping[str, Tensor], path: str, model: str
) -> dict[str, Tensor]:
    """The tensors that the network wants, its position table resized.

    Raises:
        CheckpointError: one is missing, or has another shape.
    """
    # OpenAI's projection has no bias, timm's head has one.
    fitting = {"head.bias": torch.zeros(TEACHERS[model].width), **weights}
    missing = [name for name in reference if name not in fitting]
    if missing:
        raise _foreign(path, model, f"{missing[0]} and {len(missing) - 1} more are missing")
    # What else the file holds has no part in the targets.
    fitting = {name: fitting[name] for name in reference}
    table = fitting["pos_embed"]  # (1, 1 + L, W), the class token's position first
    if table.ndim == 3 and table.shape != reference["pos_embed"].shape:
        side = math.isqrt(reference["pos_embed"].shape[1] - 1)
        # The class token has no place in the grid.
        patches = resize_table(table[:, 1:], (side, side), POSITION_OFFSET)
        fitting["pos_embed"] = torch.cat([table[:, :1], patches], dim=1)
    for name, tensor in fitting.items():
        if tensor.shape != reference[name].shape:
            found, expected = tuple(tensor.shape), tuple(reference[name].shape)
            raise _foreign(path, model, f"{name} is {found}, not {expected}")
    return fitting


def _foreign(path: str, model: str, cause: str) -> CheckpointError:
    return CheckpointError(
        path,
        None,
        f"is no {model}: {cause}",
        "Give CLIP weights of this architecture, or another --task.teacher-model",
    )


def _half_precision(device: torch.device) -> AbstractContextManager[Any]:
    """float16 on a GPU, as the authors run the teacher; float32 on a CPU."""
    if device.type == "cuda":
        return torch.autocast("cuda", torch.float16)
    return nullcontext()
