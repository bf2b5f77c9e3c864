"""A trunk with mean pooling and a linear head; it also speaks timm's model interface."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from itpn_ray.errors import ConfigError
from itpn_ray.models.acceleration.config import Accelerated
from itpn_ray.models.config import STRIDES, ClassifierConfig
from itpn_ray.models.layers.blocks import LayerNorm, to_map
from itpn_ray.models.networks.base import Network
from itpn_ray.models.networks.layer_decay import layer_ids, no_weight_decay, stage_of
from itpn_ray.models.trunk.base import Trunk

HEAD_SD = 0.02 * 0.01  # a small head: training starts from nearly equal logits


class Classifier(Accelerated, Network):
    """Images to logits.

    Args:
        config: the network.
        trunk: the trunk that `config.trunk` describes.

    Attributes:
        feature_info: timm's description of the trunk's three maps.
        several_labels: whether an image may show several classes or none, so that scores are
            sigmoids of the logits and not their softmax; as the weight file says.
    """

    config: ClassifierConfig
    several_labels: bool = False

    def __init__(self, config: ClassifierConfig, trunk: Trunk) -> None:
        super().__init__()
        self.config = config
        self.trunk = trunk
        self.num_classes = config.num_classes
        self.num_features = self.head_hidden_size = config.trunk.width
        self.norm: nn.Module = LayerNorm(config.trunk.width)
        self.head = new_head(config.trunk.width, config.num_classes)
        self.num_drops = trunk.num_drops
        self.feature_info = [
            {"num_chs": width, "reduction": stride, "module": f"trunk.stage{stage}"}
            for stage, (width, stride) in enumerate(zip(trunk.widths, STRIDES, strict=True), 1)
        ]

    def forward_features(self, images: Tensor, drop_noise: Tensor | None = None) -> Tensor:
        """The last tokens of the trunk, (B, N, d)."""
        # (B, N, 1, 1, C) -> (B, N, C)
        return self.trunk.stages(images, drop_noise=drop_noise)[2].flatten(1, 3)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool (B, N, d) to features (B, d), and unless `pre_logits` to logits (B, classes)."""
        early = self.config.norm_before_pool
        # The authors' files have one norm or the other, see `weights.describe`.
        x = self.norm(x).mean(dim=1) if early else self.norm(x.mean(dim=1))
        return x if pre_logits else self.head(x)

    def forward(self, images: Tensor, *, drop_noise: Tensor | None = None) -> Tensor:
        """Map (B, 3, H, W) float to logits (B, num_classes); `drop_noise` as in `Trunk.stages`."""
        return self.forward_head(self.forward_features(images, drop_noise))

    def remember(self, metadata: Mapping[str, str]) -> None:
        """See `Network.remember`."""
        super().remember(metadata)
        self.several_labels = metadata.get("scores") == "sigmoid"

    # --- timm's interface ------------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new head for other classes; 0: none. Pooling is always the mean.

        Raises:
            ConfigError: another pooling.
        """
        if global_pool not in (None, "avg"):
            raise ConfigError("global_pool", global_pool, "the pooling is the mean", "Leave it out")
        self.config = replace(self.config, num_classes=num_classes)
        self.num_classes = num_classes
        # On the trunk's device, and in its type.
        self.head = new_head(self.num_features, num_classes).to(self.trunk.position)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay."""
        return no_weight_decay(self)

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """The group of a parameter's name: its depth for layer decay, or coarsely its stage."""
        return stage_of if coarse else layer_ids(self).__getitem__

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The trunk's maps at strides 4, 8 and 16, as timm asks for them.

        Args:
            images: (B, 3, H, W) float.
            indices: which of the three stages; a number n: the last n; None: all.
            norm: whether the last map goes through the classifier's norm.
            stop_early: taken for timm's sake; the stages are computed together.
            output_fmt: "NCHW", or "NHWC" with channels last.
            intermediates_only: leave out the last tokens.

        Returns:
            The maps, or the last tokens (B, N, d) and the maps.
        """
        del stop_early
        if output_fmt not in ("NCHW", "NHWC"):
            raise ConfigError("output_fmt", output_fmt, "no such layout", 'Use "NCHW" or "NHWC"')
        stages = list(self.trunk.stages(images))
        if norm:
            stages[2] = self.norm(stages[2])
        grid = self.trunk.grid(images)
        maps = [to_map(stages[index], grid) for index in take_indices(indices)]
        if output_fmt == "NHWC":
            maps = [features.permute(0, 2, 3, 1) for features in maps]
        return maps if intermediates_only else (stages[2].flatten(1, 3), maps)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the head (and norm) that features do not need, and say which stages are meant.

        The trunk stays whole: its early stages cost little, and all weights keep their names.
        """
        if prune_norm:
            self.norm = nn.Identity()
        if prune_head:
            self.reset_classifier(0)
        return take_indices(indices)


def take_indices(indices: int | Sequence[int] | None) -> list[int]:
    """Stages 0 to 2 that `indices` names: the last n, or those listed, negative from the end.

    Raises:
        ConfigError: one that is not there.
    """
    if indices is None:
        return [0, 1, 2]
    listed = list(range(3 - indices, 3)) if isinstance(indices, int) else list(indices)
    if not listed or any(not -3 <= index < 3 for index in listed):
        raise ConfigError(
            "out_indices", indices, "the trunk has stages 0, 1 and 2", "Use some of (0, 1, 2)"
        )
    return [index % 3 for index in listed]


def new_head(width: int, num_classes: int) -> nn.Module:
    """A linear head with a small weight and no bias yet; the identity for 0 classes."""
    if num_classes == 0:
        return nn.Identity()
    head = nn.Linear(width, num_classes)
    nn.init.trunc_normal_(head.weight, std=HEAD_SD)
    nn.init.zeros_(head.bias)
    return head
