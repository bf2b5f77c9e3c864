"""Settings of the demo."""

from __future__ import annotations

from dataclasses import dataclass

from itpn_ray import checks


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """Pre-training, fine-tuning, a sweep and detection, small enough for two cores.

    Raises:
        ConfigError: a value lies outside its range.
    """

    out: str = "out"
    """Folder of all runs."""
    pretrain_epochs: float = 4
    """Epochs for which the embedded network's pre-training is continued."""
    finetune_epochs: float = 8
    """Epochs of each fine-tuning, from pre-trained and from random weights."""
    seeds: int = 3
    """Fine-tunings from each of the two."""
    trials: int = 5
    """Trials of the sweep."""
    scenes: int = 80
    """Drawn images on which the detector is trained."""
    detect_epochs: float = 3
    """Epochs of detection."""

    def __post_init__(self) -> None:
        for name in (
            *("pretrain_epochs", "finetune_epochs", "seeds"),
            *("trials", "scenes", "detect_epochs"),
        ):
            checks.positive(name, getattr(self, name))
