"""Every recipe: its numbers, its docstring, and its network on the meta device."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch

from itpn_ray.data.config import AugmentConfig
from itpn_ray.experiment import ExperimentConfig, from_dict, to_dict
from itpn_ray.models import create_model, load_weights
from itpn_ray.recipes import finetune, named, pretrain
from itpn_ray.tasks.classification.config import Classification
from itpn_ray.tasks.clip_pretraining.block_mask import masked_count
from itpn_ray.tasks.clip_pretraining.config import ClipPretraining, teacher_input
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.tasks.pixel_pretraining.masking import visible_count
from itpn_ray.training.launch.setup import make_task

ALL = [
    *((f"pretrain {name}", recipe) for name, recipe in pretrain.RECIPES.items()),
    *((f"finetune {name}", recipe) for name, recipe in finetune.RECIPES.items()),
]
PAPER = [(name, recipe) for name, recipe in ALL if "nano" not in name]
EVERY = pytest.mark.parametrize(("name", "recipe"), ALL, ids=[name for name, _ in ALL])
PAPERS = pytest.mark.parametrize(("name", "recipe"), PAPER, ids=[name for name, _ in PAPER])

Recipe = Callable[[], ExperimentConfig]

# Paper 5.1, Tables 3 and 4: network, epochs, pixels, teacher's pixels (0: pixel targets), loss.
PRETRAINING = {
    "itpn_tiny_pixel_300": ("itpn_tiny", 300, 224, 0, ""),
    "itpn_small_pixel_300": ("itpn_small", 300, 224, 0, ""),
    "itpn_tiny_clip_l_300": ("itpn_tiny", 300, 224, 196, "smooth_l1"),
    "itpn_small_clip_l_300": ("itpn_small", 300, 224, 196, "smooth_l1"),
    "itpn_base_pixel_400": ("itpn_base", 400, 224, 0, ""),
    "itpn_base_pixel_1600": ("itpn_base", 1600, 224, 0, ""),
    "itpn_large_pixel_400": ("itpn_large", 400, 224, 0, ""),
    "itpn_large_pixel_1600": ("itpn_large", 1600, 224, 0, ""),
    "itpn_base_clip_b_300": ("itpn_base", 300, 224, 224, "smooth_l1"),
    "itpn_base_clip_b_800": ("itpn_base", 800, 224, 224, "smooth_l1"),
    "itpn_base_clip_l_300": ("itpn_base", 300, 224, 196, "smooth_l1"),
    "itpn_large_clip_b_300": ("itpn_large", 300, 224, 224, "smooth_l1"),
    "itpn_large_clip_l_300": ("itpn_large", 300, 224, 196, "smooth_l1"),
    "itpn_large14_clip_l_300": ("itpn_large", 300, 256, 224, "smooth_l1"),
    "fast_itpn_tiny": ("fast_itpn_tiny", 1600, 224, 196, "cosine"),
    "fast_itpn_small": ("fast_itpn_small", 1600, 224, 196, "cosine"),
    "fast_itpn_base": ("fast_itpn_base", 1600, 224, 196, "cosine"),
    "fast_itpn_large": ("fast_itpn_large", 1600, 256, 224, "cosine"),
    "fast_itpn_tiny_pixel": ("fast_itpn_tiny", 1600, 224, 0, ""),
    "fast_itpn_small_pixel": ("fast_itpn_small", 1600, 224, 0, ""),
    "fast_itpn_base_pixel": ("fast_itpn_base", 1600, 224, 0, ""),
    "fast_itpn_large_pixel": ("fast_itpn_large", 1600, 224, 0, ""),
}

# Paper 5.2 for Fast-iTPN; for iTPN also the authors' scripts, whose rates on pixels are for 256
# images and whose layer decay is raised to 13 / (blocks + 1).
# Rate, layer decay, epochs, warm-up, batch, pixels.
FINETUNING = {
    "fast_itpn_tiny": (1e-4, 0.80, 100, 5, 1024, 224),
    "fast_itpn_small": (1e-4, 0.90, 100, 5, 1024, 224),
    "fast_itpn_base": (1e-4, 0.90, 20, 3, 1024, 224),
    "fast_itpn_large": (5e-5, 0.95, 20, 3, 512, 640),
    "fast_itpn_tiny_384": (1e-4, 0.80, 100, 5, 1024, 384),
    "fast_itpn_tiny_512": (1e-4, 0.80, 100, 5, 1024, 512),
    "fast_itpn_small_384": (1e-4, 0.90, 100, 5, 1024, 384),
    "fast_itpn_small_512": (1e-4, 0.90, 100, 5, 1024, 512),
    "fast_itpn_base_512": (1e-4, 0.90, 20, 3, 1024, 512),
    "fast_itpn_base_22k": (1e-4, 0.90, 90, 5, 1024, 224),
    "itpn_tiny": (2e-3, 0.65, 100, 5, 1024, 224),
    "itpn_small": (2e-3, 0.7993, 100, 5, 1024, 224),
    "itpn_tiny_clip": (5e-4, 0.60, 100, 20, 1024, 224),
    "itpn_small_clip": (5e-4, 0.7667, 100, 20, 1024, 224),
    "itpn_large_clip_384": (2e-4, 0.8414, 50, 5, 1024, 384),
    "itpn_large_clip_22k": (2e-4, 0.8414, 90, 5, 1024, 224),
    "itpn_base": (2e-3, 0.8347, 100, 5, 1024, 224),
    "itpn_large": (4e-3, 0.9021, 50, 5, 1024, 224),
    "itpn_base_clip": (5e-4, 0.8072, 100, 20, 1024, 224),
    "itpn_large_clip": (2e-4, 0.8414, 50, 5, 1024, 224),
}
MINUTES = {("itpn_base", "pixel"): 2.7, ("itpn_base", "clip"): 4.7}
MINUTES |= {("itpn_large", "pixel"): 4.2, ("itpn_large", "clip"): 12.0}

# Table 1 and section 5.2, million parameters with a 1000-way head.
PARAMETERS = {
    "fast_itpn_tiny": 24.2,
    "fast_itpn_small": 40.0,
    "fast_itpn_base": 85.2,
    "fast_itpn_large": 312.3,
    "itpn_tiny": 18.9,
    "itpn_small": 36.9,
    "itpn_base": 79,
    "itpn_large": 288,
}


def test_all_of_the_papers_recipes_are_there() -> None:
    assert set(pretrain.RECIPES) == {"nano", "nano_clip", *PRETRAINING}
    assert set(finetune.RECIPES) == {"nano", *FINETUNING}


@pytest.mark.parametrize("name", PRETRAINING)
def test_pretraining_has_the_papers_numbers(name: str) -> None:
    config = named(pretrain.RECIPES, name)
    network, epochs, pixels, teacher, loss = PRETRAINING[name]
    assert (config.model.name, config.model.image_size) == (network, pixels)
    optim = config.optim
    assert (optim.global_batch, optim.epochs, optim.warmup_epochs) == (4096, epochs, 40)
    assert (optim.weight_decay, optim.beta1, optim.layer_decay) == (0.05, 0.9, 1.0)
    tokens = (pixels // 16) ** 2
    task = config.task
    if teacher:
        assert isinstance(task, ClipPretraining)
        assert (optim.lr, optim.min_lr, optim.beta2) == (1.5e-3, 1e-5, 0.98)
        assert optim.clip_norm == 3.0
        assert config.augment == AugmentConfig(policy="color_jitter", jitter=0.4)
        assert teacher_input(task.teacher_model, pixels) == teacher
        assert task.loss == loss
        assert (masked_count(tokens, task.mask_ratio), task.smallest_block) == (75, 16)
        assert config.model.drop_path == (0.2 if "large" in name else 0.1)
        itpn = name.startswith("itpn")
        assert (config.model.layer_scale, config.model.relative_position) == (
            (0.1, True) if itpn else (None, False)
        )
    else:
        assert isinstance(task, PixelPretraining)
        assert (optim.lr, optim.min_lr, optim.beta2) == (pytest.approx(2.4e-3), 0.0, 0.95)
        assert (task.feature_weight, task.teacher_momentum) == (0.3, 0.996)
        assert visible_count(tokens, task.mask_ratio) == 49
        assert config.augment == AugmentConfig(min_scale=0.2)
        assert optim.clip_norm == 0.0


@pytest.mark.parametrize("name", FINETUNING)
def test_finetuning_has_the_papers_numbers(name: str) -> None:
    config = named(finetune.RECIPES, name)
    optim = config.optim
    found = (
        optim.lr,
        optim.layer_decay,
        optim.epochs,
        optim.warmup_epochs,
        optim.global_batch,
        config.model.image_size,
    )
    assert found == pytest.approx(FINETUNING[name], rel=1e-4)
    assert optim.clip_norm == (5.0 if config.model.name == name and "fast" not in name else 0.0)
    assert (optim.weight_decay, optim.beta2) == (0.05, 0.999)
    assert config.task == Classification(ema_decay=0.9999 if "fast" in name else 0.0)
    assert (config.augment.policy, config.augment.magnitude) == ("rand_augment", 9.0)


@PAPERS
def test_batch_divides_among_the_papers_gpus(name: str, recipe: Recipe) -> None:
    config = recipe()
    workers = int(config.workers)
    assert config.gpus
    share, rest = divmod(config.optim.global_batch, workers)
    assert rest == 0
    assert share % min(share, config.optim.micro_batch) == 0


@EVERY
def test_it_travels_as_plain_data(name: str, recipe: Recipe) -> None:
    config = recipe()
    assert from_dict(to_dict(config)) == config


@EVERY
def test_its_network_can_be_built(name: str, recipe: Recipe) -> None:
    config = recipe()
    classes = [str(number) for number in range(1000)]
    with torch.device("meta"):
        task = make_task(config, classes)
        network = task.build()
    parameters = dict(network.named_parameters())
    assert {n for n, p in parameters.items() if p.requires_grad} <= set(task.layer_ids(network))
    assert task.no_weight_decay(network) & set(parameters)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters(name: str) -> None:
    with torch.device("meta"):
        model = create_model(name)
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert count == pytest.approx(PARAMETERS[name], rel=0.01)


@PAPERS
def test_its_docstring_says_what_it_takes(name: str, recipe: Recipe) -> None:
    lines = [line.strip() for line in (recipe.__doc__ or "").splitlines()]
    told = dict(line.split(": ", 1) for line in lines[2:] if line)
    assert lines[1] == ""
    assert list(told) == ["Command", "Hardware", "Expected", "Source"]
    verb, own = name.split()
    assert told["Command"].startswith(f"itpn-ray {verb} {own} --data DATA")
    assert re.search(r"Tables? [34]", told["Source"])
    config = recipe()
    if isinstance(config.task, ClipPretraining):
        assert "--task.teacher" in told["Command"]
    for verb, follower in re.findall(r"itpn-ray (finetune|pretrain) (\w+)", told["Expected"]):
        following = {"finetune": finetune, "pretrain": pretrain}[verb].RECIPES[follower]()
        assert following.model.name == config.model.name
        assert following.model.layer_scale == config.model.layer_scale


@pytest.mark.parametrize(
    "name", [name for name in PRETRAINING if name.startswith(("itpn_base", "itpn_large"))]
)
def test_hours_follow_from_the_papers_minutes(name: str) -> None:
    config = named(pretrain.RECIPES, name)
    kind = "pixel" if "pixel" in name else "clip"
    hours = MINUTES[config.model.name, kind] * config.optim.epochs / 60
    found = re.search(
        r"64 V100 for ([\d.]+) h, ([\d,]+) GPU-hours", pretrain.RECIPES[name].__doc__ or ""
    )
    assert found
    assert float(found[1]) == pytest.approx(hours, abs=0.05)
    assert int(found[2].replace(",", "")) == round(64 * hours)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("itpn_base_pixel_400", "itpn_base"),
        ("itpn_large_clip_l_300", "itpn_large_clip"),
        ("fast_itpn_base", "fast_itpn_base"),
    ],
)
def test_pretrained_weights_fit_their_finetuning(before: str, after: str) -> None:
    """Tables of offsets are new where iTPN is fine-tuned after pixels; all else must fit."""
    earlier, later = named(pretrain.RECIPES, before), named(finetune.RECIPES, after)
    with torch.device("meta"):
        trained = make_task(earlier, []).build()
        source = trained.distiller if hasattr(trained, "distiller") else trained.autoencoder
        model = create_model(later.model.name, **later.model.trunk_changes())
        assert load_weights(model, source.state_dict()).fraction == 1.0


def test_nano_recipes_are_small() -> None:
    for recipe in (pretrain.nano, pretrain.nano_clip, finetune.nano):
        assert recipe().workers == "1"
        assert not recipe().gpus
        assert recipe().model.image_size == 64
