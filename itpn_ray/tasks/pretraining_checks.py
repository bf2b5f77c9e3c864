"""What no pre-training can use."""

from __future__ import annotations

from itpn_ray.errors import ConfigError
from itpn_ray.tasks.config import ModelConfig


def refuse_fine_tuning(model: ModelConfig) -> None:
    """Refuse a frozen trunk, and what leaves tokens out: pre-training keeps all (paper, 3.4).

    Raises:
        ConfigError: the trunk is frozen, or the network migrates tokens or has windows.
    """
    if model.freeze_trunk:
        raise ConfigError(
            "model.freeze_trunk", True, "is for fine-tuning: a trunk is pre-trained", "Leave it out"
        )
    for name in ("migration", "elastic_migration", "window"):
        if getattr(model, name):
            raise ConfigError(
                f"model.{name}",
                getattr(model, name),
                "is for fine-tuning and evaluation: pre-training keeps every token and its "
                "attention (paper, 3.4)",
                "Leave it out here",
            )
