"""The evaluation's crop goes from the settings into evaluation and weight file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.loading.decode import centre_crop, decode_rgb
from itpn_ray.data.store.shards import open_dataset
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, OptimConfig
from itpn_ray.models import load_model
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.training.launch.context import TrainContext
from itpn_ray.training.launch.setup import make_task, share_of


@pytest.mark.parametrize("task", [Classification(), PixelPretraining(), ClipPretraining()])
@pytest.mark.parametrize("crop", [None, 1.0])
def test_a_run_evaluates_at_its_crop_and_writes_it(
    task: Any, crop: float | None, prepared: str, tmp_path: Path
) -> None:
    config = ExperimentConfig(
        data=prepared,
        model=ModelConfig(name="fast_itpn_nano", image_size=32, crop_fraction=crop),
        task=task,
        optim=OptimConfig(global_batch=4),
        loader=LoaderConfig(transport="threads", threads=1),
    )
    train, val = (open_dataset(prepared, split) for split in ("train", "val"))
    share = share_of(config, TrainContext.alone(gpu=False, threads=1))
    batches = make_task(config, train.classes).eval_loader(val, share)
    batch = next(iter(batches))
    pixels = decode_rgb(np.frombuffer(val[0]["image"], np.uint8))
    assert torch.equal(batch["image"][0], centre_crop(pixels, 32, crop or 0.875))
    path = tmp_path / "model.safetensors"
    made = make_task(config, train.classes)
    made.export(made.build(), path)
    assert load_model(path).crop_fraction == (crop or 0.875)


def test_the_usual_crop_goes_by_the_size() -> None:
    model = ModelConfig(image_size=368)
    assert model.evaluation_crop == 0.875
    assert replace(model, image_size=384).evaluation_crop == 1.0
    for wrong in (0.0, -0.5, 1.1):
        with pytest.raises(ConfigError, match=r"model\.crop_fraction"):
            replace(model, crop_fraction=wrong)
