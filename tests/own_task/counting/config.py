"""Settings and recipes of counting. Imports no PyTorch."""

from dataclasses import dataclass
from typing import ClassVar

from itpn_ray import checks
from itpn_ray.data.config import AugmentConfig
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig
from itpn_ray.metrics import Metric
from itpn_ray.tasks.config import ModelConfig, TaskConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tuning.config import SweepConfig


@dataclass(frozen=True, kw_only=True)
class Counting(TaskConfig):
    """A number is learned by regression."""

    name: ClassVar[str] = "counting"
    title: ClassVar[str] = "Counting dots"
    implementation: ClassVar[str] = "counting.task:CountingTask"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric(name="dots_off", label="dots off", higher_is_better=False, headline=True),
        Metric(name="exact", label="exactly right", unit="%", counted=True),
    )

    beta: float = 0.5
    """Error in dots from which on the loss is linear."""

    def __post_init__(self) -> None:
        checks.positive("task.beta", self.beta)


def counting() -> ExperimentConfig:
    """Nano network at 32 px."""
    return ExperimentConfig(
        run="counting",
        model=ModelConfig(name="fast_itpn_nano", image_size=32),
        task=Counting(),
        optim=OptimConfig(global_batch=8, epochs=1, warmup_epochs=0, lr=1e-3),
        augment=AugmentConfig(min_scale=1.0),
        checkpoint=CheckpointConfig(every_steps=2),
    )


def sweep() -> SweepConfig:
    """Counting, after pre-training on pixels."""
    task = PixelPretraining(pyramid_width=16, decoder_width=32, decoder_depth=1)
    pretrain = ExperimentConfig(
        model=counting().model,
        task=task,
        optim=OptimConfig(global_batch=8, epochs=1, warmup_epochs=0),
    )
    return SweepConfig(
        trials=1,
        concurrent=1,
        space=(
            "task.feature_weight choice 0",
            "optim.layer_decay uniform 0.6 1",
            "model.migration choice 0 0.2",
        ),
        pretrain=pretrain,
        finetune=counting(),
    )
