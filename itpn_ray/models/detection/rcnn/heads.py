"""The two small networks that look into a region: its class and box, and its mask."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor

from itpn_ray.models.layers.sync_norm import SyncBatchNorm

BOX_CELLS = 7  # a side, of the features that a box head sees
MASK_CELLS = 14  # likewise of a mask head, whose masks are twice as large
CONVOLUTIONS = 4


class BoxHead(nn.Module):
    """Four normalised convolutions, a hidden layer, then class logits and a box for each class.

    | layer          | weight                    | bias |
    |----------------|---------------------------|------|
    | convolutions   | normal, by their fan out  |      |
    | hidden layer   | uniform, by fan in and out| 0    |
    | class logits   | normal, sd 0.01           | 0    |
    | boxes          | normal, sd 0.001          | 0    |

    Args:
        width: channels of the features, and of the convolutions.
        hidden: width of the hidden layer.
        num_classes: C.
    """

    def __init__(self, width: int, hidden: int, num_classes: int) -> None:
        super().__init__()
        size = (width, BOX_CELLS, BOX_CELLS)
        self.body = FastRCNNConvFCHead(size, [width] * CONVOLUTIONS, [hidden], SyncBatchNorm)
        # One logit more, for regions of nothing.
        self.logits = nn.Linear(hidden, num_classes + 1)
        self.deltas = nn.Linear(hidden, num_classes * 4)
        for layer in self.body.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        # The deviations of Fast R-CNN.
        for layer, deviation in ((self.logits, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=deviation)
            nn.init.zeros_(layer.bias)

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Map (R, width, 7, 7) to logits (R, C + 1) and deltas (R, C, 4), float32.

        The last logit is that of nothing.
        """
        hidden = self.body(channels_last(regions))
        return self.logits(hidden).float(), self.deltas(hidden).unflatten(1, (-1, 4)).float()


class MaskHead(nn.Module):
    """Four convolutions, an upsampling, and a mask for each class.

    Args:
        width: channels of the features, and of the convolutions.
        num_classes: C.
    """

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.body = MaskRCNNHeads(width, [width] * CONVOLUTIONS, dilation=1)
        self.predictor = MaskRCNNPredictor(width, width, num_classes)

    def forward(self, regions: Tensor, labels: Tensor) -> Tensor:
        """Map (R, width, 14, 14) to the mask logits of labels (R,), (R, 28, 28) float32."""
        masks = self.predictor(self.body(channels_last(regions)))  # (R, C, 28, 28)
        return masks.gather(1, labels.view(-1, 1, 1, 1).expand(-1, 1, *masks.shape[2:]))[
            :, 0
        ].float()


def channels_last(x: Tensor) -> Tensor:
    """(B, C, H, W) as convolutions read it: on a GPU with the channels last in memory.

    cuDNN's bf16 kernels would transpose what comes and goes in each layer. On a CPU it makes no
    difference.
    """
    return x.contiguous(memory_format=torch.channels_last) if x.is_cuda else x
