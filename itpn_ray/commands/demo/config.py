"""Settings of the demo."""

from __future__ import annotations

from dataclasses import dataclass

from itpn_ray import checks


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """The whole main job, small enough for two cores.

    Raises:
        ConfigError: a value lies outside its range.
    """

    out: str = "out"
    """Folder of all runs."""
    train: int = 2400
    """Images drawn for training."""
    val: int = 600
    """Images drawn for evaluation."""
    pretrain_epochs: float = 6
    """Epochs of pre-training."""
    finetune_epochs: float = 12
    """Epochs of fine-tuning."""
    trials: int = 6
    """Trials of the sweep."""

    def __post_init__(self) -> None:
        for name in ("train", "val", "pretrain_epochs", "finetune_epochs", "trials"):
            checks.positive(name, getattr(self, name))
