"""Pre-training: small ones for trials, and all of the paper's (5.1)."""

from __future__ import annotations

import dataclasses

from itpn_ray.data.config import AugmentConfig
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig
from itpn_ray.recipes import clip, pixel
from itpn_ray.recipes.paper import Recipe, by_name
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining


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


def nano_clip() -> ExperimentConfig:
    """Nano network at 64 px on CLIP-B, for a laptop or a test.

    Command: itpn-ray pretrain nano_clip --data DATA --task.teacher ViT-B-16.pt
    """
    return dataclasses.replace(
        nano(),
        task=ClipPretraining(loss="cosine", smallest_block=1, pyramid_width=64),
        augment=AugmentConfig(),
    )


RECIPES: dict[str, Recipe] = {**by_name(nano, nano_clip), **pixel.RECIPES, **clip.RECIPES}
"""Name on the command line -> recipe."""
