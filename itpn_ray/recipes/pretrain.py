"""Pre-training (paper, 5.1)."""

from __future__ import annotations

from collections.abc import Callable

from itpn_ray.data.config import AugmentConfig
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig
from itpn_ray.pretrain.config import PixelPretraining
from itpn_ray.tasks.config import ModelConfig


def nano() -> ExperimentConfig:
    """Nano network at 64 px on pixels, for a laptop or a test.

    Command: itpn-ray pretrain nano --data DATA
    """
    return ExperimentConfig(
        run="pretrain",
        model=ModelConfig(name="fast_itpn_nano", image_size=64),
        task=PixelPretraining(pyramid_width=64, decoder_width=96, decoder_depth=2),
        optim=OptimConfig(global_batch=64, epochs=10, warmup_epochs=1, lr=1.5e-3),
        augment=AugmentConfig(min_scale=0.2),
        checkpoint=CheckpointConfig(every_steps=200),
        eval_every=2,
    )


RECIPES: dict[str, Callable[[], ExperimentConfig]] = {"nano": nano}
"""Name on the command line -> recipe."""
