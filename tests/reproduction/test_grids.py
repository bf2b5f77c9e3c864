"""The grids are data: every cell composes, at every scale; what cannot be run says why."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path

import pytest

from itpn_ray import arguments
from itpn_ray.errors import ConfigError
from itpn_ray.experiment import ExperimentConfig, to_dict
from itpn_ray.metrics import find
from itpn_ray.recipes import named, recipes_of
from itpn_ray.reproduction.config import NAMES, ReproduceConfig
from itpn_ray.reproduction.grid import Step
from itpn_ray.reproduction.plan import PlannedRun, plan
from itpn_ray.reproduction.scales import NANO, SCALES, NotAvailable, changed, scaled
from itpn_ray.reproduction.tables import TABLES

EVERY = [pytest.param(name, scale, id=f"{name}-{scale}") for name in TABLES for scale in SCALES]


def test_every_name_of_the_command_line_has_a_table() -> None:
    assert tuple(TABLES) == NAMES


@pytest.mark.parametrize(("name", "scale"), EVERY)
def test_every_cell_composes_or_says_why_not(name: str, scale: str) -> None:
    composed, reasons = [], []
    for cell in TABLES[name].cells:
        try:
            composed += [scaled(step, SCALES[scale])[1] for step in cell.steps]
        except NotAvailable as reason:
            reasons.append(str(reason))
    assert composed
    assert all("no recipe" in reason or "stands for" in reason for reason in reasons)
    for cell in TABLES[name].cells:
        assert cell.paper is None or 0 < cell.paper < 1
        assert find(cell.metric).unit == "%" or cell.metric == "mim"


@pytest.mark.parametrize("name", list(TABLES))
def test_claims_are_of_cells_and_the_paper_agrees(name: str) -> None:
    cells = {(cell.row, cell.column): cell for cell in TABLES[name].cells}
    assert len(cells) == len(TABLES[name].cells)
    for claim in TABLES[name].claims:
        better, worse = (cells[row, claim.column] for row in (claim.better, claim.worse))
        assert better.metric == worse.metric
        if better.paper is not None and worse.paper is not None:
            assert better.paper > worse.paper


def test_the_paper_is_run_as_its_recipes_have_it() -> None:
    _, config = scaled(TABLES["table8"].cells[1].steps[1], None)
    recipe = named(recipes_of("detect"), "itpn_base_mask_rcnn_1x")
    task = dataclasses.replace(recipe.task, init_pyramid=False)
    assert config == dataclasses.replace(recipe, task=task)


def test_a_smaller_scale_keeps_what_differs() -> None:
    longer = Step(verb="pretrain", recipe="itpn_base_pixel_1600")
    assert scaled(longer, NANO)[1].optim.epochs == 4 * 3
    wide = Step(verb="finetune", recipe="fast_itpn_base", changes={"model.image_size": 512})
    assert scaled(wide, NANO)[1].model.image_size == 144
    cascade = scaled(Step(verb="detect", recipe="itpn_base_cascade_3x"), NANO)[1]
    assert cascade.task.head == "cascade_mask_rcnn"  # type: ignore[attr-defined]
    assert cascade.optim.epochs == 12
    windows = Step(verb="detect", recipe="itpn_base_dino", changes={"model.window": 16})
    assert scaled(windows, NANO)[0] == "nano_dino"
    assert scaled(windows, NANO)[1].model.window == NANO.window
    assert scaled(Step(verb="segment", recipe="fast_itpn_base_mask_dino"), NANO)[0] == (
        "nano_mask_dino"
    )


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Step(verb="segment", recipe="fast_itpn_base_none"), "no recipe fast_itpn_base_none"),
        (Step(verb="pretrain", recipe="itpn_large_pixel_400"), "stands for itpn_large"),
    ],
)
def test_what_cannot_be_run_says_why(step: Step, reason: str) -> None:
    with pytest.raises(NotAvailable, match=reason):
        scaled(step, NANO)


def test_a_change_of_no_field_is_refused() -> None:
    with pytest.raises(ConfigError, match="no field"):
        changed(ExperimentConfig(), {"task.integrall": False})


def settings(prepared: str, tmp_path: Path, **changes: object) -> ReproduceConfig:
    given = {"tables": ("table8",), "data": prepared, "out": str(tmp_path), **changes}
    return ReproduceConfig(**given)  # type: ignore[arg-type]


def test_workers_are_the_recipes_where_nobody_says(prepared: str, tmp_path: Path) -> None:
    config = settings(prepared, tmp_path, scale="paper", seeds=1)
    recipe = named(recipes_of("pretrain"), "itpn_base_pixel_400")
    for run in plan(TABLES["fig6"], config).runs().values():
        own = run.config
        assert (own.workers, own.cpus_per_worker) == (recipe.workers, recipe.cpus_per_worker)
    fewer = dataclasses.replace(config, workers="2..8", cpus_per_worker=4.0)
    for run in plan(TABLES["fig6"], fewer).runs().values():
        assert (run.config.workers, run.config.cpus_per_worker) == ("2..8", 4.0)


def test_cells_share_their_pretrainings(prepared: str, scenes: str, tmp_path: Path) -> None:
    config = settings(prepared, tmp_path, objects=scenes, seeds=2)
    found = plan(TABLES["table8"], config)
    runs = list(found.runs().values())
    assert [run.verb for run in runs].count("pretrain") == 2 * 2
    assert [run.verb for run in runs].count("detect") == 3 * 2
    assert {run.config.seed for run in runs} == {0, 1}
    assert {reason for _, reason in found.missing} == {"it needs data: --masks"}
    # The same in another table, wherever the runs are kept.
    other = plan(TABLES["fig7"], dataclasses.replace(config, out=str(tmp_path / "other")))
    assert len(found.runs().keys() & other.runs().keys()) == 2 * 4


def test_more_seeds_keep_the_runs_of_fewer(prepared: str, tmp_path: Path) -> None:
    few = plan(TABLES["table8"], settings(prepared, tmp_path, seeds=1)).runs()
    more = plan(TABLES["table8"], settings(prepared, tmp_path, seeds=3)).runs()
    assert list(more)[: len(few)] == list(few)


def test_a_teacher_that_is_not_named_is_told(prepared: str, tmp_path: Path) -> None:
    found = plan(TABLES["table3"], settings(prepared, tmp_path))
    assert [cell.row for cell in (one.cell for one in found.cells)] == [
        "B, pixels, 400 epochs",
        "B, pixels, 1600 epochs",
    ]
    assert "it needs a CLIP teacher: --teacher" in {reason for _, reason in found.missing}


@pytest.mark.parametrize("scale", list(SCALES))
def test_a_runs_command_gives_its_settings(
    prepared: str, scenes: str, tmp_path: Path, scale: str
) -> None:
    config = settings(prepared, tmp_path, objects=scenes, scale=scale, seeds=2)
    runs = list(plan(TABLES["table8"], config).runs().values())
    for run in (runs[0], runs[2], runs[-1]):
        assert to_dict(parsed(run)) == to_dict(run.config), run.command


def parsed(run: PlannedRun) -> ExperimentConfig:
    program, verb, recipe, *words = shlex.split(run.command)
    assert program == "itpn-ray"
    return arguments.parse(ExperimentConfig, words, verb, named(recipes_of(verb), recipe))
