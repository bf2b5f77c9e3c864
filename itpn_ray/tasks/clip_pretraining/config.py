"""Settings of pre-training on a CLIP teacher's tokens, and the teachers that are known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from itpn_ray import checks
from itpn_ray.errors import ConfigError
from itpn_ray.metrics import NEIGHBOURS, Metric
from itpn_ray.tasks.config import ModelConfig, TaskConfig
from itpn_ray.tasks.pretraining_checks import refuse_fine_tuning


@dataclass(frozen=True, kw_only=True)
class TeacherSize:
    """A CLIP image encoder whose patch tokens are learned."""

    base: str
    """timm's name of the architecture."""
    patch: int
    """Side of a patch, pixels."""
    width: int
    """T, the width of its projected tokens."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Arguments of timm's architecture that differ."""


def _published(base: str, patch: int, width: int) -> dict[str, TeacherSize]:
    return {base: TeacherSize(base=base, patch=patch, width=width)}


TEACHERS: dict[str, TeacherSize] = {
    # OpenAI's weights were trained with QuickGELU, LAION's and DataComp's with GELU.
    **_published("vit_base_patch16_clip_quickgelu_224", 16, 512),
    **_published("vit_base_patch16_clip_224", 16, 512),
    **_published("vit_large_patch14_clip_quickgelu_224", 14, 768),
    **_published("vit_large_patch14_clip_224", 14, 768),
    "clip_nano": TeacherSize(
        base="vit_base_patch16_clip_quickgelu_224",
        patch=16,
        width=32,
        changes={"embed_dim": 64, "depth": 2, "num_heads": 2},
    ),
}
"""Name -> teacher; all are timm's architectures, clip_nano a small one for tests."""
CLIP_BASE = "vit_base_patch16_clip_quickgelu_224"
CLIP_LARGE = "vit_large_patch14_clip_quickgelu_224"
LOSSES = ("smooth_l1", "cosine")


def teacher_input(model: str, image_size: int) -> int:
    """Side of the teacher's input, pixels: it gets one patch for each of the student's.

    A patch of 16 sees the student's own 224 pixels; one of 14 sees 196 (the authors' setting).

    Args:
        model: name in `TEACHERS`.
        image_size: side of the student's input, pixels.
    """
    # As many patches as the student has, in the teacher's size of them.
    return image_size // 16 * TEACHERS[model].patch


@dataclass(frozen=True, kw_only=True)
class ClipPretraining(TaskConfig):
    """Distillation of a CLIP teacher from masked images (paper, 3.3 and 3.4).

    The teacher sees the whole image; the pyramid maps, folded to stride 16 and summed, predict
    its projected patch tokens, and so does a branch that leaves the trunk at three quarters of its
    depth. As in the authors' code the two losses are added, over all tokens, and there is no pixel
    term, so that eq. 4 has nothing for λ to weigh.

    Raises:
        ConfigError: a value lies outside its range, or two contradict each other.
    """

    name: ClassVar[str] = "clip_pretraining"
    implementation: ClassVar[str] = "itpn_ray.tasks.clip_pretraining.task:ClipPretrainingTask"
    title: ClassVar[str] = "Pre-training"
    kinds: ClassVar[tuple[str, ...]] = ("distiller",)
    metrics: ClassVar[tuple[Metric, ...]] = NEIGHBOURS
    path_fields: ClassVar[tuple[str, ...]] = ("teacher", "features")

    teacher: str = ""
    """Weights of the teacher: timm's or OpenAI's CLIP, a file or s3:// URI."""
    teacher_model: str = CLIP_BASE
    """Architecture of the teacher, see `TEACHERS`."""
    features: str = ""
    """Instead of ``teacher``: its features, written once by `itpn-ray cache-teacher`."""
    loss: str = "smooth_l1"
    """``smooth_l1`` (iTPN) or ``cosine`` (Fast-iTPN), paper 5.1."""
    mask_ratio: float = 0.383
    """Share of the patches that are hidden: 75 of 196 (the authors' number)."""
    smallest_block: int = 16
    """Least patches of a hidden block (BEiT's number)."""
    pyramid_width: int = 256
    """Channels of the feature pyramid."""

    def __post_init__(self) -> None:
        checks.one_of("task.teacher_model", self.teacher_model, TEACHERS)
        checks.one_of("task.loss", self.loss, LOSSES)
        checks.in_range("task.mask_ratio", self.mask_ratio, 0.0, 1.0, open_high=True)
        for name in ("smallest_block", "pyramid_width"):
            checks.positive(f"task.{name}", getattr(self, name))
        if self.teacher and self.features:
            raise ConfigError(
                "task.features",
                self.features,
                "replaces the teacher, but task.teacher names one too",
                "Give one of --task.teacher and --task.features",
            )

    def check_model(self, model: ModelConfig) -> None:
        """Refuse a frozen trunk, token migration and windows.

        Raises:
            ConfigError: the network has one of them.
        """
        refuse_fine_tuning(model)
