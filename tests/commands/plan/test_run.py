"""What a run would take: counted, timed, priced, and what is odd about it."""

from __future__ import annotations

import dataclasses
import io
import json
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from itpn_ray import cli
from itpn_ray.commands.plan import run as planning
from itpn_ray.commands.plan.config import PlanConfig
from itpn_ray.commands.plan.cost import PlannedCost, keep
from itpn_ray.commands.plan.run import RunSize, count, find_problems, measure, plan
from itpn_ray.costs.config import CostConfig
from itpn_ray.data.config import LoaderConfig
from itpn_ray.data.store.shards import ShardedDataset, open_dataset
from itpn_ray.errors import ConfigError, ItpnError
from itpn_ray.experiment import CheckpointConfig, ExperimentConfig, OptimConfig
from itpn_ray.models import create_autoencoder
from itpn_ray.models.networks.cost import multiply_adds
from itpn_ray.recipes import finetune, pretrain
from itpn_ray.tasks.clip_pretraining.config import CLIP_BASE, CLIP_LARGE, ClipPretraining
from itpn_ray.tasks.clip_pretraining.teacher import teacher_multiply_adds
from itpn_ray.tasks.config import ModelConfig
from itpn_ray.tasks.multilabel.config import MultiLabel
from itpn_ray.tasks.pixel_pretraining.config import PixelPretraining
from itpn_ray.terminal.console import Console
from tests.data.made import write_dataset

PRICES = """
currency: EUR
machines:
  box.8: {cpus: 96, gpus: 8, gpu: X, on_demand: 40, spot: 12.5}
  bare: {cpus: 8, on_demand: null, spot: null}
"""


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> ShardedDataset:
    folder = tmp_path_factory.mktemp("plan") / "data"
    return open_dataset(write_dataset(folder, {"train": [60, 40], "val": [8]}), "train")


@pytest.fixture
def prices(tmp_path: Path) -> str:
    path = tmp_path / "prices.yaml"
    path.write_text(PRICES)
    return str(path)


def make_config(train: ShardedDataset, out: Path, **changes: Any) -> ExperimentConfig:
    optim = {"global_batch": 32, "epochs": 10, "warmup_epochs": 1, **changes.pop("optim", {})}
    return ExperimentConfig(
        **{
            "data": train.uri,
            "out": str(out),
            "workers": "2",
            "model": ModelConfig(name="fast_itpn_nano", image_size=32),
            "task": PixelPretraining(pyramid_width=16, decoder_width=32, decoder_depth=1),
            "optim": OptimConfig(**optim),
            "loader": LoaderConfig(threads=1, prefetch=16),
            **changes,
        }
    )


def test_counts_follow_from_the_configuration(train: ShardedDataset, tmp_path: Path) -> None:
    config = make_config(train, tmp_path, optim={"micro_batch": 6})
    size = count(config, train)
    assert (size.workers, size.share, size.accumulation) == (2, 16, 3)
    assert (size.per_epoch, size.steps) == (3, 30)
    student = create_autoencoder(
        "fast_itpn_nano", image_size=32, pyramid_width=16, decoder_width=32, decoder_depth=1
    )
    assert size.multiply_adds["student"] == multiply_adds(student, 32, visible=1)
    assert 0 < size.multiply_adds["teacher"] < size.multiply_adds["student"]
    heads = 16 * (32 + 64 + 128) + (32 + 64 + 128)
    trained = sum(p.numel() for p in student.parameters()) + heads
    teacher = sum(p.numel() for p in student.trunk.parameters())
    fixed = student.decoder_position.numel()
    assert size.parameters == trained
    assert size.state_gb == pytest.approx(4e-9 * (4 * trained + teacher + fixed), rel=1e-6)
    spread = count(dataclasses.replace(config, sharded=True), train)
    assert spread.state_gb == pytest.approx(size.state_gb / 2)


def test_published_costs() -> None:
    """Dosovitskiy et al. and Radford et al.: about 17.6 G at 224 for B/16, 81.1 G for L/14."""
    assert teacher_multiply_adds(CLIP_BASE, 224) / 1e9 == pytest.approx(17.5, rel=0.02)
    assert teacher_multiply_adds(CLIP_LARGE, 256) / 1e9 == pytest.approx(81.0, rel=0.02)


def test_read_features_cost_no_teacher(train: ShardedDataset, tmp_path: Path) -> None:
    asking = ClipPretraining(teacher_model="clip_nano", teacher="clip.pt")
    reading = ClipPretraining(teacher_model="clip_nano", features="features")
    found = [
        set(count(make_config(train, tmp_path, task=task), train).multiply_adds)
        for task in (asking, reading)
    ]
    assert found == [{"student", "teacher"}, {"student"}]


def make_size(**changes: Any) -> RunSize:
    size = RunSize(
        parameters=1,
        multiply_adds={},
        state_gb=0.0,
        workers=2,
        share=16,
        accumulation=1,
        per_epoch=3,
        steps=30,
    )
    return dataclasses.replace(size, **changes)


@pytest.mark.parametrize(
    ("optim", "workers", "told"),
    [
        ({}, "2", []),
        ({"micro_batch": 4}, "2", ["3 steps, fewer than the 4 micro-batches"]),
        ({}, "3", ["32 does not divide among 3 workers: shares of 10 and 12"]),
        (
            {"micro_batch": 6},
            "2",
            ["16 does not divide into 3 micro-batches: they have 5 or 6 images"],
        ),
        ({"micro_batch": 64}, "1", []),
        ({}, "2..8", []),
    ],
)
def test_odd_numbers_are_told(
    train: ShardedDataset, tmp_path: Path, optim: dict[str, Any], workers: str, told: list[str]
) -> None:
    config = make_config(train, tmp_path, optim=optim, workers=workers)
    found = find_problems(config, count(config, train))
    assert len(found) == len(told)
    for problem, part in zip(found, told, strict=True):
        assert part in problem


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task": PixelPretraining(mask_ratio=0.0)}, "none of the 4 patches hidden"),
        (
            {"task": ClipPretraining(teacher_model="clip_nano", mask_ratio=0.01)},
            "none of the 4 patches hidden",
        ),
        ({"task": ClipPretraining(teacher_model="clip_nano")}, "names no weights"),
        ({"gpus": True}, "there is no GPU here"),
    ],
)
def test_what_cannot_run_is_told_beside_the_counts(
    train: ShardedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    told: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    stream = io.StringIO()
    config = PlanConfig(experiment=make_config(train, tmp_path, **changes))
    size, timing = plan(config, name="nano", console=Console(stream=stream))
    assert timing is None
    assert f"{size.parameters / 1e6:,.2f} M trained" in stream.getvalue()
    assert "warning: no steps were timed: " in stream.getvalue()
    assert told in stream.getvalue()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"optim": {"global_batch": 400}}, "would have 0 steps"),
        ({"workers": "17"}, "has pairs for 16 workers"),
        ({"task": MultiLabel(), "optim": {"global_batch": 400}}, "a list of labels of each image"),
    ],
)
def test_what_training_would_refuse_is_refused(
    train: ShardedDataset, tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    stream = io.StringIO()
    config = PlanConfig(experiment=make_config(train, tmp_path, **changes))
    with pytest.raises(ItpnError, match=told):
        plan(config, name="nano", console=Console(stream=stream))
    assert "epochs" not in stream.getvalue()


def test_steps_are_timed_and_leave_nothing(train: ShardedDataset, tmp_path: Path) -> None:
    config = make_config(train, tmp_path, optim={"micro_batch": 8})
    timing = measure(config, count(config, train), 2)
    assert timing.device == "CPU"
    assert timing.seconds == pytest.approx(sum(timing.phases.values()))
    assert timing.phases["computing"] > 0
    assert 0.1 < timing.memory_gb < 100
    assert list(tmp_path.iterdir()) == []


def test_the_timed_steps_are_a_workers_share(
    train: ShardedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def work(config: ExperimentConfig, worker: Any, journal: Any, evaluated: Any) -> None:
        seen.append(config)
        for step in range(1, 5):
            spent = 100.0 if step == 1 else float(step)  # the first warms up
            phases = {"reading_s": 0.5, "computing_s": spent, "updating_s": 0.25}
            journal.metrics("train", step, 0.0, phases)
        journal.event("checkpoint", step=4, seconds=0.125)

    monkeypatch.setattr(planning, "work", work)
    config = make_config(train, tmp_path, optim={"micro_batch": 8})
    timing = measure(config, make_size(), 3)
    assert (seen[0].optim.global_batch, seen[0].optim.micro_batch) == (16, 8)
    assert seen[0].optim.epochs * (100 // 16) == pytest.approx(4)
    assert seen[0].workers == "0"
    assert timing.phases == {"reading": 0.5, "computing": 3.0, "updating": 0.25}
    assert (timing.seconds, timing.checkpoint_s) == (3.75, 0.125)
    assert (timing.fastest, timing.slowest) == (2.75, 4.75)


@pytest.mark.parametrize(
    ("machine", "told"),
    [
        (
            "box.8",
            "2 box.8 (8 X) for 1 h 23 min to 2 h 5 min: "
            "EUR 34.73 all spot to EUR 166.69 all on demand",
        ),
        ("bare", "2 bare (8 CPUs) for 1 h 23 min to 2 h 5 min; the list has no price for it"),
    ],
)
def test_hours_and_money(
    train: ShardedDataset,
    tmp_path: Path,
    prices: str,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    told: str,
) -> None:
    timing = planning.Timing(
        device="X",
        seconds=120.0,
        phases={"computing": 120.0},
        memory_gb=3.0,
        checkpoint_s=1.0,
        fastest=100.0,
        slowest=150.0,
    )
    monkeypatch.setattr(planning, "measure", lambda *arguments: timing)
    stream = io.StringIO()
    cost = CostConfig(machine=machine, prices=prices, max_cost=30.0)
    config = make_config(train, tmp_path, workers="10", optim={"global_batch": 20}, cost=cost)
    plan(PlanConfig(experiment=config), name="nano", console=Console(stream=stream))
    text = stream.getvalue()
    assert "1 h 40 min, 16.7 worker-hours" in text  # 50 steps of 120 s on 10 workers
    assert told in text
    priced = machine == "box.8"
    assert ("--max-cost 30 is less than the run costs at best" in text) == priced
    kept = tmp_path / "run" / "plan.json"
    assert kept.exists() == priced
    if priced:
        planned = json.loads(kept.read_text())
        assert (planned["currency"], round(planned["low"]), round(planned["high"])) == (
            "EUR",
            35,
            167,
        )


def test_a_run_that_has_begun_keeps_its_plan(train: ShardedDataset, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    cost = PlannedCost(machines="1 m", hours=(1.0, 1.0), currency="EUR", spot=1.0, on_demand=2.0)
    keep(make_config(train, tmp_path), cost)
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_machine_that_the_list_lacks_is_told_first(
    train: ShardedDataset, tmp_path: Path, prices: str
) -> None:
    config = make_config(train, tmp_path, cost=CostConfig(machine="box.9", prices=prices))
    with pytest.raises(ConfigError, match=r"Did you mean 'box\.8'"):
        plan(PlanConfig(experiment=config), name="nano", console=Console(stream=io.StringIO()))


def test_command_line(
    train: ShardedDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--data", train.uri, "--out", str(tmp_path), "--model.image-size", "32"]
    common += ["--optim.global-batch", "16", "--loader.threads", "1", "--measured-steps", "1"]
    assert cli.run(["plan", "nano", *common]) == 0
    first = capsys.readouterr().out
    assert "student" in first
    assert "s (reading" in first
    assert cli.run(["plan", "finetune", "nano", *common, "--measured-steps", "0"]) == 0
    second = capsys.readouterr().out
    assert "classifier" in second
    assert "average        evaluated and exported weights: decay 0.88889 at the end of 72" in second
    assert "timed" not in second
    assert cli.run(["plan", "fast_itpn_bas", *common]) == 2
    assert "Did you mean 'fast_itpn_base'" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["pretrain", "finetune", "detect", "segment"])
def test_every_training_verb_may_be_named(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.run(["plan", verb, "--help"])
    assert f"usage: itpn-ray plan {verb} RECIPE" in capsys.readouterr().out
    assert cli.run(["plan", verb, "nano"]) == 2  # without data
    told = capsys.readouterr()
    assert "names no prepared data" in told.err
    assert "is planned" not in told.out


def test_a_name_of_several_verbs_tells_which_was_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.run(["plan", "--help"])
    usage = "usage: itpn-ray plan [pretrain|finetune|detect|segment] RECIPE"
    assert usage in capsys.readouterr().out
    assert cli.run(["plan", "nano"]) == 2  # without data
    told = (
        "nano of pretrain is planned; finetune, detect, segment have one too: put the verb before "
        "the name"
    )
    assert told in capsys.readouterr().out
    # Of one verb alone, which need not be named: all are looked through.
    assert cli.run(["plan", "nano_rotated"]) == 2  # without data
    said = capsys.readouterr()
    assert "names no prepared data" in said.err
    assert "is planned" not in said.out


def test_every_recipe_can_be_counted(train: ShardedDataset) -> None:
    for recipe in (pretrain.nano, pretrain.nano_clip, finetune.nano):
        size = count(dataclasses.replace(recipe(), data=train.uri), train)
        assert size.parameters > 0
        assert json.dumps(size.multiply_adds)


def test_a_run_that_keeps_its_best_is_timed_too(train: ShardedDataset, tmp_path: Path) -> None:
    config = make_config(
        train, tmp_path, early_stopping=3, checkpoint=CheckpointConfig(keep_best=True)
    )
    trial = planning._trial(config, count(config, train), 3, len(train), str(tmp_path))
    assert (trial.eval_every, trial.early_stopping) == (-1, 0)
    assert not trial.checkpoint.keep_best


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_memory_is_told_in_bytes(system: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = types.SimpleNamespace(ru_maxrss=7)
    monkeypatch.setattr(planning.sys, "platform", system)
    monkeypatch.setattr(planning.resource, "getrusage", lambda who: usage)
    assert planning.peak_memory() == 7 * unit
