"""Fine-tuning for classification."""

from __future__ import annotations

from collections.abc import Callable

from itpn_ray.data.config import AugmentConfig
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig
from itpn_ray.tasks.config import Classification, ModelConfig


def nano() -> ExperimentConfig:
    """Nano network at 64 px, for a laptop or a test.

    Command: itpn-ray finetune nano --data DATA --model.init out/pretrain/exported/model.safetensors
    """
    return ExperimentConfig(
        run="finetune",
        model=ModelConfig(name="fast_itpn_nano", image_size=64, drop_path=0.05),
        task=Classification(mixup=0.0, cutmix=0.0, random_erasing=0.0, ema_decay=0.98),
        optim=OptimConfig(
            global_batch=64,
            epochs=12,
            warmup_epochs=1,
            lr=2e-3,
            min_lr=1e-5,
            beta2=0.999,
            layer_decay=0.8,
        ),
        augment=AugmentConfig(min_scale=0.5),
        checkpoint=CheckpointConfig(every_steps=200),
        eval_every=2,
    )


RECIPES: dict[str, Callable[[], ExperimentConfig]] = {"nano": nano}
"""Name on the command line -> recipe."""
