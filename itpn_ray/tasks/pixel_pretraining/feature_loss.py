"""Masked feature modelling: each pyramid stage predicts the features of a teacher (paper, 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from itpn_ray.models import Trunk
from itpn_ray.tasks.averaging import Averaging


class FeatureModelling(Averaging):
    """The feature term of eq. 4 with the moving-average teacher.

    The teacher is a moving average of the trunk, and sees the visible patches only. Its output at
    the last layer of each stage, normalised per token, is predicted from the pyramid map of the
    same stage by one linear projection a stage (paper, 3.4). The paper leaves the norm of eq. 4
    open: here it is the mean squared error, as in the pixel term.

    Args:
        trunk: trunk being trained; copied once as the teacher.
        stage_widths: channels of U1, U2, U3.
        pyramid_width: channels of V1, V2, V3.
        momentum: of the moving average, warmed up as all averages are.

    Attributes:
        terms: names of the stages' losses.
    """

    kept_as = "teacher"
    teacher: Trunk

    def __init__(
        self, trunk: Trunk, stage_widths: Sequence[int], pyramid_width: int, momentum: float
    ) -> None:
        super().__init__()
        self.keep_average(trunk, momentum)
        self.heads = nn.ModuleList(_head(pyramid_width, width) for width in stage_widths)
        self.terms = tuple(f"mfm_stage{stage}" for stage in range(1, len(self.heads) + 1))

    def forward(
        self, images: Tensor, visible: Tensor, pyramid: Mapping[int, Tensor]
    ) -> dict[str, Tensor]:
        """The feature loss of each stage.

        Args:
            images: (B, 3, H, W) float, normalised.
            visible: (B, Nv) int64, indices of the visible patches.
            pyramid: stride 4, 8, 16 -> V (B, Nv, h, w, C).

        Returns:
            ``mfm_stage1`` .. ``mfm_stage3``, scalars.
        """
        # Only the student learns from the comparison.
        with torch.no_grad():
            targets = self.teacher.stages(images, visible)
        terms = {}
        # Strides ascend as the stages do.
        for term, head, target, stride in zip(
            self.terms, self.heads, targets, sorted(pyramid), strict=True
        ):
            # A teacher that shrinks its features must not lower the loss; float32 for the small
            # variances.
            target = F.layer_norm(target.float(), target.shape[-1:])
            terms[term] = F.mse_loss(head(pyramid[stride]).float(), target)
        return terms


def _head(width: int, target: int) -> nn.Linear:
    head = nn.Linear(width, target)
    nn.init.trunc_normal_(head.weight, std=0.02)
    nn.init.zeros_(head.bias)
    return head
