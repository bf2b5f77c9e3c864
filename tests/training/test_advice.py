"""Numbers of a plan that are legal but unwise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig
from itpn_ray.recipes import detect, finetune, named
from itpn_ray.training import advice
from itpn_ray.training.advice import find_advice, rate_of_batch, refuse_long_timing
from tests.data.made import write_dataset

NANO = named(finetune.RECIPES, "nano")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    folder = tmp_path_factory.mktemp("advice") / "data"
    return open_dataset(write_dataset(folder, {"train": [1000], "val": [8]}), "train")


def changed(config: ExperimentConfig = NANO, **groups: dict[str, object]) -> ExperimentConfig:
    built = {n: dataclasses.replace(getattr(config, n), **f) for n, f in groups.items()}
    return dataclasses.replace(config, **built)


def usual_side(train: ShardedDataset) -> int:
    columns = (train.index.column(name).to_numpy() for name in ("width", "height"))
    return int(sorted(map(min, *columns))[len(train) // 2])


def test_a_batch_that_is_large_for_its_data(train: ShardedDataset) -> None:
    small = {"image_size": 32}
    config = changed(model=small, optim={"global_batch": 256, "lr": 1.6e-3, "micro_batch": 0})
    (told,) = find_advice(config, train)
    assert "with batches of 256, 1,000 images make 3 steps an epoch" in told
    assert "--optim.global-batch 16 --optim.lr 0.0004" in told
    for batch in (16, 32, 50, 2000):  # many steps, or none, which is refused elsewhere
        assert find_advice(changed(model=small, optim={"global_batch": batch}), train) == []


def test_rates_change_with_the_square_root_of_the_batch() -> None:
    assert rate_of_batch(1e-4, 1024, 64) == pytest.approx(2.5e-5)  # docs/tutorials/own-images.md
    assert rate_of_batch(2.4e-3, 4096, 256) == pytest.approx(6e-4)  # docs/how-to/machines.md
    assert rate_of_batch(1e-4, 1024, 1024) == 1e-4


@pytest.mark.parametrize("recipe", [NANO, named(detect.RECIPES, "nano")])
def test_images_that_are_enlarged(recipe: ExperimentConfig, train: ShardedDataset) -> None:
    side = usual_side(train)
    fitting = -(-side // 32) * 32
    option = "model.image-size" if recipe is NANO else "task.short-side"
    group, field = option.replace("-", "_").split(".")
    config = changed(recipe, optim={"global_batch": 16}, **{group: {field: 4 * fitting}})
    (told,) = find_advice(config, train)
    assert f"enlarged to {4 * fitting}: --{option} {fitting} costs about 6%" in told
    config = changed(recipe, optim={"global_batch": 16}, **{group: {field: fitting}})
    assert find_advice(config, train) == []


def test_too_few_tokens_for_migration(train: ShardedDataset) -> None:
    model = {"image_size": 32, "migration": 0.2}
    (told,) = find_advice(changed(optim={"global_batch": 16}, model=model), train)
    assert "an image has 4 tokens, too few for r = 0.2 to gain speed" in told
    large = find_advice(changed(model={**model, "image_size": 512}), train)
    assert not any("tokens" in line for line in large)


def test_timing_that_would_take_hours_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice, "cpu_rate", lambda: 1e11)
    assert refuse_long_timing(10**9, 64, 4) == pytest.approx(7.68)
    with pytest.raises(ConfigError, match="4,096 images on this CPU would take 6 h 49 min or more"):
        refuse_long_timing(2 * 10**11, 4096, 1)


def test_the_rate_is_that_of_a_processor() -> None:
    assert 1e8 < advice.cpu_rate() < 1e15


def test_a_timed_plan_counts_its_steps(train: ShardedDataset, tmp_path: Path) -> None:
    from itpn_ray.commands.plan.run import count, measure

    config = changed(optim={"global_batch": 4}, model={"image_size": 32}, loader={"threads": 1})
    config = dataclasses.replace(config, data=train.uri, out=str(tmp_path), workers="1")
    told: list[tuple[int, int]] = []
    measure(config, count(config, train), 1, lambda done, total: told.append((done, total)))
    assert told == [(0, 2), (1, 2), (2, 2)]
