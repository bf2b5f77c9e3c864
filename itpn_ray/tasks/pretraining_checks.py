"""What no pre-training can use."""

from __future__ import annotations

from itpn_ray.errors import ConfigError
from itpn_ray.tasks.config import ModelConfig


def refuse_acceleration(model: ModelConfig) -> None:
    """Refuse what leaves tokens out: pre-training keeps every token (paper, 3.4).

    Raises:
        ConfigError: the network migrates tokens or has windows.
    """
    for name in ("migration", "elastic_migration", "window"):
        if getattr(model, name):
            raise ConfigError(
                f"model.{name}",
                getattr(model, name),
                "is for fine-tuning and evaluation: pre-training keeps every token and its "
                "attention (paper, 3.4)",
                "Leave it out here",
            )
