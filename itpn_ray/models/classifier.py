"""A trunk with mean pooling and a linear head."""

from __future__ import annotations

from torch import Tensor, nn

from itpn_ray.models.acceleration import Accelerated
from itpn_ray.models.config import ClassifierConfig
from itpn_ray.models.layers import LayerNorm
from itpn_ray.models.network import Network
from itpn_ray.models.trunk import Trunk

HEAD_SD = 0.02 * 0.01  # a small head: training starts from nearly equal logits


class Classifier(Accelerated, Network):
    """Pictures to logits.

    Args:
        config: the network.
        trunk: the trunk that `config.trunk` describes.
    """

    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig, trunk: Trunk) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk
        self.num_classes = config.num_classes
        self.num_features = self.head_hidden_size = config.trunk.width
        self.norm = LayerNorm(config.trunk.width)
        self.head = new_head(config.trunk.width, config.num_classes)
        self.num_drops = trunk.num_drops

    def forward_features(self, images: Tensor, drop_noise: Tensor | None = None) -> Tensor:
        """The last tokens of the trunk, (B, N, d)."""
        return self.trunk.stages(images, drop_noise=drop_noise)[2].flatten(1, 3)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool (B, N, d) to features (B, d), and unless `pre_logits` to logits (B, classes)."""
        early = self.config.norm_before_pool
        x = self.norm(x).mean(dim=1) if early else self.norm(x.mean(dim=1))
        return x if pre_logits else self.head(x)

    def forward(self, images: Tensor, *, drop_noise: Tensor | None = None) -> Tensor:
        """Map (B, 3, H, W) float to logits (B, num_classes); `drop_noise` as in `Trunk.stages`."""
        return self.forward_head(self.forward_features(images, drop_noise))


def new_head(width: int, num_classes: int) -> nn.Module:
    """A linear head with a small weight and no bias yet; the identity for 0 classes."""
    if num_classes == 0:
        return nn.Identity()
    head = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=HEAD_SD)
    nn.init.zeros_(head.bias)
    return head
