"""Learning rate by step: linear warm-up, then half a cosine (paper, 5.1), steps or a line (5.3)."""

from __future__ import annotations

import math

from itpn_ray.experiment import OptimConfig

DROP = 0.1
"""What is left of the rate after each of ``OptimConfig.lr_milestones``."""


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step, before layer decay.

    Args:
        config: peak and final rate, warm-up, drops and length.
        step: 0 at the first step of the run.
        steps_per_epoch: whole global batches an epoch.
    """
    # At most one of the two is given: settings that name both are refused.
    warmup = config.warmup_steps or config.warmup_epochs * steps_per_epoch
    total = config.epochs * steps_per_epoch
    if config.lr_milestones:
        passed = sum(step >= round(fraction * total) for fraction in config.lr_milestones)
        # Step + 1, so that the first step learns at all.
        return config.lr * DROP**passed * min(1.0, (step + 1) / max(warmup, 1))
    if step < warmup:
        return config.lr * (step + 1) / max(warmup, 1)
    # At least 1, for the warm-up may fill the run.
    progress = min(1.0, (step - warmup) / max(total - warmup, 1))
    if config.linear:
        return config.lr * (1.0 - progress)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1.0 + math.cos(math.pi * progress))


def total_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """Steps of the whole run."""
    return max(1, round(config.epochs * steps_per_epoch))
